"""What the hub answers, and what becomes of its failures. No test connects: its functions are replaced."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from safetensors.numpy import save_file

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.reporter import SilentReporter
from studyctl.sources import hub
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import model_folder
from studyctl.sources.text_files import identify_text
from studyctl.spec.models import Model, TextSource
from tests.sources.conftest import CONFIG, tensors
from tests.sources.test_gguf_files import write_gguf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def failure(kind: type[Exception], status: int = 404) -> Exception:
    """An error as huggingface_hub raises it for a response."""
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("first line\nsecond line", response=response)


def connection_failure() -> Exception:
    return hub.HTTPError("connection refused")


class Answers:
    """Answers requests in turn: raises exceptions, returns the rest; the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self, *_: object, **__: object) -> Any:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def info(files: tuple[str, ...] = FILES) -> SimpleNamespace:
    return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in files])


@pytest.fixture(autouse=True)
def online(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows connections (that no test makes), with empty caches, and waits for nothing."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    cached = tmp_path / "hub-cache"

    def look(repo: str, name: str, revision: str | None = None, repo_type: str | None = None) -> str | None:
        path = cached / COMMIT / name
        return str(path) if path.is_file() and revision in ("main", COMMIT) else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Stands for hf_hub_download of config.json."""
    path = tmp_path / "hub-cache" / COMMIT / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONFIG))
    return Answers(str(path))


@pytest.fixture
def snapshot(config: Answers) -> Path:
    """A model that was downloaded whole."""
    folder = Path(config()).parent
    (folder / "tokenizer.json").write_text("{}")
    save_file(tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answers]:
    def replace(*answers: Any, method: str = "model_info") -> Answers:
        identity = Answers(*answers)
        monkeypatch.setattr(huggingface_hub.HfApi, method, identity)
        return identity

    return replace


Ask = Callable[..., Answers]


def test_a_revision_becomes_a_commit(ask: Ask) -> None:
    ask(info())
    assert hub.resolve("model", "org/name", "main") == hub.Resolved(COMMIT, FILES)


def test_an_answer_is_asked_for_once(ask: Ask) -> None:
    asked = ask(info(), method="dataset_info")
    for language in ("en", "sw"):
        source = TextSource(dataset="org/text", config={"en": "en", "sw": "sw"})
        assert identify_text("c4", source, "perplexity", language, Path()).commit == COMMIT
    assert asked.asked == 1


def test_a_failing_server_is_asked_again(ask: Ask) -> None:
    asked = ask(failure(errors.HfHubHTTPError, 503), failure(errors.HfHubHTTPError, 503), info())
    assert hub.resolve("model", "org/name", "main").commit == COMMIT
    assert asked.asked == 3


def test_a_lost_connection_is_tried_again(ask: Ask) -> None:
    asked = ask(connection_failure(), info())
    assert hub.resolve("model", "org/name", "main").commit == COMMIT
    assert asked.asked == 2


def test_it_gives_up_after_a_few_attempts(ask: Ask) -> None:
    asked = ask(connection_failure())
    with pytest.raises(hub.HubUnreachable, match=r"did not answer for model `org/name` \(connection refused"):
        hub.resolve("model", "org/name", "main")
    assert asked.asked == hub.ATTEMPTS


def test_that_there_was_no_answer_is_remembered_too(ask: Ask) -> None:
    asked = ask(connection_failure())
    for _ in range(3):
        with pytest.raises(hub.HubUnreachable):
            hub.resolve("model", "org/name", "main")
    assert asked.asked == hub.ATTEMPTS


@pytest.mark.parametrize(
    ("error", "what", "hint"),
    [
        (
            failure(errors.GatedRepoError, 403),
            "is gated",
            "accept its licence at https://huggingface.co/org/name",
        ),
        (failure(errors.RepositoryNotFoundError, 401), "there is no model `org/name`", "check the spelling"),
        (failure(errors.RevisionNotFoundError), "has no revision `main`", "/tree/main"),
        (failure(errors.DisabledRepoError, 403), "is disabled", ""),
        (failure(errors.HfHubHTTPError, 403), "no access to model", "hf auth login"),
    ],
)
def test_what_the_user_can_mend_is_said_at_once(ask: Ask, error: Exception, what: str, hint: str) -> None:
    asked = ask(error)
    with pytest.raises(StudyError) as caught:
        identify_model(Model(id="org/name"), Path())
    (problem,) = caught.value.problems
    assert not isinstance(caught.value, hub.HubUnreachable)
    assert what in problem.what
    assert hint in problem.hint
    assert asked.asked == 1


def test_a_dataset_that_does_not_exist(ask: Ask) -> None:
    ask(failure(errors.RepositoryNotFoundError), method="dataset_info")
    with pytest.raises(StudyError, match="there is no dataset `org/text`"):
        identify_text("c4", TextSource(dataset="org/text"), "perplexity", "en", Path())


def test_offline_nothing_is_asked_and_nothing_raised(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(info())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = identify_model(Model(id="org/name"), Path())
    text = identify_text("c4", TextSource(dataset="org/text"), "perplexity", "en", Path())
    assert (model.key, text.key) == (None, None)
    assert "HF_HUB_OFFLINE" in model.unknown
    assert "HF_HUB_OFFLINE" in text.unknown
    assert (model.linears, model.hidden_size) == ({}, 0)
    assert asked.asked == 0


def test_offline_mode_of_the_library_is_respected(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(errors.OfflineModeIsEnabled("offline"))
    assert identify_model(Model(id="org/name"), Path()).key is None


def test_a_commit_that_was_seen_stands_in_when_the_hub_does_not_answer(ask: Ask) -> None:
    ask(info(), method="dataset_info")
    source = TextSource(dataset="org/text")
    before = identify_text("c4", source, "perplexity", "en", Path())
    hub.forget()
    ask(connection_failure(), method="dataset_info")
    after = identify_text("c4", source, "perplexity", "en", Path())
    assert after.key == before.key
    assert "as seen last: 0123456789ab" in after.note
    assert before.note == ""


def test_a_model_is_described_from_its_headers_on_the_hub(
    ask: Ask, config: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(info())
    described = {
        name: SimpleNamespace(shape=list(array.shape), dtype="F32", data_offsets=(0, array.nbytes))
        for name, array in tensors().items()
    }
    asked = ask(
        SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=described)}),
        method="get_safetensors_metadata",
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config)
    identity = identify_model(Model(id="org/name"), Path())
    assert (identity.kind, identity.commit, identity.folder) == ("hub", COMMIT, None)
    assert len(identity.linears) == 14
    assert identity.parameters == sum(array.size for array in tensors().values())
    hub.forget()
    assert identify_model(Model(id="org/name"), Path()) == identity
    assert asked.asked == 1, "headers at a commit never change"


def test_a_downloaded_model_needs_no_hub(snapshot: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ask(AssertionError("asked"))
    identity = identify_model(Model(id="org/name"), Path())
    assert (identity.commit, identity.folder) == (COMMIT, snapshot)
    assert identity.key == identify_model(Model(id="org/name", revision=COMMIT), Path()).key
    assert len(identity.linears) == 14


def test_a_downloaded_config_alone_does_not_make_a_model(
    config: Answers, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert identify_model(Model(id="org/name"), Path()).key is None


def test_a_repository_with_pickle_only(ask: Ask, config: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(info(("config.json", "tokenizer.json", "pytorch_model.bin")))
    ask(errors.NotASafetensorsRepoError("none"), method="get_safetensors_metadata")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config)
    with pytest.raises(StudyError, match="pickle only"):
        identify_model(Model(id="org/name"), Path())
    assert identify_model(Model(id="org/name", allow_pickle=True), Path()).key is not None


def test_a_repository_without_tokenizer(ask: Ask, config: Answers) -> None:
    ask(info(("config.json", "model.safetensors")))
    with pytest.raises(StudyError, match="has no tokenizer"):
        identify_model(Model(id="org/name"), Path())


def test_a_download_that_cannot_be_made_says_how_to_prepare_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", Answers(errors.LocalEntryNotFoundError("not in cache"))
    )
    with pytest.raises(hub.HubUnreachable) as caught:
        hub.download_model("org/name", COMMIT, allow_pickle=False)
    assert "studyctl prefetch" in caught.value.problems[0].hint


def test_pickle_is_not_even_downloaded_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str], **_: object) -> str:
        patterns.append(allow_patterns)
        return "folder"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for allowed in (False, True):
        hub.download_model("org/name", COMMIT, allow_pickle=allowed)
    assert ["pytorch_model*.bin" in names for names in patterns] == [False, True]


def checkpoint() -> ModelIdentity:
    return identify_checkpoint(Checkpoint(id="org/name-4bit", of="org/name"), Path())


def test_a_checkpoint_is_resolved_like_a_model_and_needs_no_tokenizer(
    ask: Ask, config: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(info(("config.json", "model.safetensors")))
    ask(SimpleNamespace(files_metadata={}), method="get_safetensors_metadata")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config)
    identity = checkpoint()
    assert (identity.commit, identity.folder, identity.tokenizer) == (COMMIT, None, False)
    assert identity.key is not None


def test_a_checkpoint_downloaded_without_its_tokenizer_is_not_whole(
    snapshot: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(info())
    assert checkpoint().folder == snapshot
    (snapshot / "tokenizer.json").unlink()
    hub.forget()
    asked = ask(SimpleNamespace(files_metadata={}), method="get_safetensors_metadata")
    identity = checkpoint()
    assert (identity.folder, identity.tokenizer) == (None, True)
    assert asked.asked == 1


def test_what_keeps_a_checkpoint_away_is_said_as_of_a_model(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(failure(errors.GatedRepoError, 403))
    with pytest.raises(StudyError, match="model `org/name-4bit` is gated"):
        checkpoint()
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checkpoint().key is None


def test_the_format_of_a_checkpoint_is_known_before_it_is_downloaded(
    ask: Ask, config: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config())
    path.write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    ask(info())
    ask(SimpleNamespace(files_metadata={}), method="get_safetensors_metadata")
    with pytest.raises(StudyError, match="format `bitsandbytes`, which cannot be read"):
        checkpoint()


GGUF = ("config.json", "sub/x-Q4_K_M.gguf", "x-Q8_0.gguf")


def gguf_checkpoint(file: str = "sub/x-Q4_K_M.gguf", base: Path = Path()) -> ModelIdentity:
    return identify_checkpoint(Checkpoint(id=f"org/name/{file}", of="org/name"), base)


def test_a_gguf_file_of_the_hub_is_known_by_its_commit_and_its_size(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(info(GGUF))
    asked = Answers(SimpleNamespace(size=1234))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    identity = gguf_checkpoint()
    assert (identity.commit, identity.file, identity.repository) == (COMMIT, "sub/x-Q4_K_M.gguf", "org/name")
    assert (identity.folder, identity.weight_bytes, identity.storage) == (None, 1234, "gguf")
    assert gguf_checkpoint("x-Q8_0.gguf").key != identity.key is not None

    def download(repo: str, name: str, *, revision: str, **_: object) -> str:
        path = tmp_path / "hub-cache" / revision / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(write_gguf(path))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    folder = model_folder(identity, allow_pickle=False, reporter=SilentReporter())
    assert folder == tmp_path / "hub-cache" / COMMIT
    assert asked.asked == 2
    here = gguf_checkpoint()
    assert (here.key, here.folder, here.layers) == (identity.key, folder, 2)
    assert here.weight_bytes == (folder / "sub" / "x-Q4_K_M.gguf").stat().st_size
    assert asked.asked == 2, "the size of a file that is here is not asked for"


def test_a_file_that_the_repository_does_not_have(ask: Ask) -> None:
    ask(info(GGUF))
    with pytest.raises(StudyError) as caught:
        gguf_checkpoint("y.gguf")
    (problem,) = caught.value.problems
    assert problem.what == "`org/name` has no file `y.gguf`"
    assert problem.hint == "it has sub/x-Q4_K_M.gguf, x-Q8_0.gguf"


def test_a_gguf_file_of_the_hub_that_cannot_be_looked_up(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(info(GGUF))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", Answers(connection_failure()))
    assert "did not answer for model `org/name`" in gguf_checkpoint().unknown
    hub.forget()
    ask(failure(errors.GatedRepoError, 403))
    with pytest.raises(StudyError, match="model `org/name` is gated"):
        gguf_checkpoint()
    hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert (gguf_checkpoint().key, "HF_HUB_OFFLINE" in gguf_checkpoint().unknown) == (None, True)
    (tmp_path / "org").mkdir()
    with pytest.raises(StudyError, match="does not exist"):
        gguf_checkpoint(base=tmp_path)
