"""Token ids of texts: positions in bytes, the cache, calibration windows."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from studyctl.contract.identity import TextIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.steps import ALL_WINDOWS
from studyctl.errors import ProblemCode, StepError
from studyctl.evaluate.text.windows import SEGMENT, window_order
from studyctl.sources import texts
from studyctl.sources.text_files import identify_text
from studyctl.sources.texts import Documents, read_documents
from studyctl.sources.tokens import (
    BZIP2_BLOCK,
    CHOICE,
    FIRST_DOCUMENTS,
    MARGIN,
    byte_positions,
    calibration_ids,
    calibration_tokens,
    perplexity_windows,
    tokenize,
    tokenized_text,
    tokenizer_key,
)
from studyctl.spec.models import TextSource
from tests.sources.tokenizers_made import TEXT, byte_level, metaspace

pytestmark = pytest.mark.usefixtures("own_cache")
TOKENIZER = byte_level()


def local(folder: Path, language: str, text: str) -> TextIdentity:
    (folder / f"{language}.txt").write_text(text, "utf-8")
    source = TextSource(files="{language}.txt")
    return identify_text("mine", source, "calibration", language, folder)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_positions_are_those_of_utf8(text: str) -> None:
    positions = byte_positions(text)
    assert [len(text[:end].encode()) for end in range(len(text) + 1)] == positions.tolist()


def test_bzip2_needs_four_bits_for_a_random_hex_digit_of_the_first_block() -> None:
    digits = random.Random(0).randbytes(BZIP2_BLOCK // 2).hex()
    tokens = tokenize([digits + "a" * 500_000], TOKENIZER)
    assert 4 < tokens.bzip2_bits_per_byte < 4.2
    assert tokenize(["the cat " * 1000], TOKENIZER).bzip2_bits_per_byte < 0.1


def test_a_token_ends_where_its_text_ends() -> None:
    tokens = tokenize(["the cat"], TOKENIZER)
    pieces = TOKENIZER.convert_ids_to_tokens(tokens.ids.tolist())
    ends = np.cumsum([len(piece) for piece in pieces])
    assert tokens.byte_ends.tolist() == ends.tolist()
    assert (tokens.ids.dtype, tokens.byte_ends.dtype) == (np.int32, np.int64)


def test_a_character_of_several_tokens_ends_with_each_of_them() -> None:
    tokens = tokenize(["a漢b"], TOKENIZER)
    assert tokens.byte_ends.tolist() == [1, 4, 4, 4, 5]
    assert tokens.character_ends.tolist() == [1, 2, 2, 2, 3]


def test_positions_are_in_the_text_not_in_its_normal_form() -> None:
    tokens = tokenize(["e\u0301a"], byte_level(normalizer=normalizers.NFC()))
    assert tokens.byte_ends[-1] == 4, "the two characters of three bytes become one of two"


def test_a_mark_put_before_the_text_takes_none_of_it() -> None:
    tokens = tokenize(["é at"], metaspace())
    assert tokens.byte_ends.tolist()[-4:] == [2, 3, 4, 5]
    assert tokens.character_ends.tolist()[-4:] == [1, 2, 3, 4]
    assert np.all(np.diff(tokens.byte_ends) >= 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_the_last_token_ends_with_the_text(text: str) -> None:
    tokens = tokenize([text], TOKENIZER)
    assert tokens.byte_ends[-1] == len(text.encode())
    assert tokens.character_ends[-1] == len(text)
    assert np.all(np.diff(tokens.byte_ends) >= 0)
    assert np.all(np.diff(tokens.character_ends) >= 0)


def test_an_empty_text_has_no_tokens() -> None:
    assert len(tokenize([""], TOKENIZER).ids) == 0


def test_no_special_tokens_are_added() -> None:
    assert (
        tokenize(["the"], byte_level(adds_bos=True)).ids.tolist() == tokenize(["the"], TOKENIZER).ids.tolist()
    )


def test_an_earlier_call_with_truncation_changes_nothing() -> None:
    tokenizer = byte_level()
    tokenizer("the cat sat", truncation=True, max_length=2)
    assert tokenize([TEXT], tokenizer).ids.tolist() == tokenize([TEXT], TOKENIZER).ids.tolist()


def test_the_tokenizers_key_is_of_what_it_does() -> None:
    assert tokenizer_key(byte_level()) == tokenizer_key(TOKENIZER)
    assert tokenizer_key(byte_level(normalizer=normalizers.NFC())) != tokenizer_key(TOKENIZER)


def test_a_text_is_tokenised_once_for_each_tokenizer(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = local(tmp_path, "en", TEXT)
    first = tokenized_text(text, TOKENIZER)
    tokenized_text(text, metaspace())
    assert len(list((own_cache / "tokens").iterdir())) == 2
    monkeypatch.setattr("studyctl.sources.tokens.tokenize", None)
    again = tokenized_text(text, TOKENIZER)
    assert first.ids.tolist() == again.ids.tolist()
    for name in ("byte_ends", "character_ends", "document_begins"):
        assert getattr(first, name).tolist() == getattr(again, name).tolist()
    assert again.complete


def test_a_calibration_text_in_pieces_is_the_same_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "\n".join(f"line {number}: {TEXT}" for number in range(9))
    monkeypatch.setattr("studyctl.sources.tokens.PIECE", 100)
    tokens = tokenized_text(local(tmp_path, "en", lines), TOKENIZER)
    assert TOKENIZER.decode(tokens.ids.tolist()) == lines
    assert tokens.byte_ends[-1] == len(lines.encode())
    assert tokens.character_ends[-1] == len(lines)
    assert np.all(np.diff(tokens.byte_ends) >= 0)


def test_a_document_begins_where_its_bytes_do(tmp_path: Path) -> None:
    documents = ["aé", "", "漢漢 cat\nsat", "b"]
    path = tmp_path / "en.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents), "utf-8")
    text = identify_text("mine", TextSource(files="{language}.jsonl"), "perplexity", "en", tmp_path)
    # Of 3, 0, 14 and 1 bytes, with a newline after each but the last.
    assert tokenized_text(text, TOKENIZER).document_begins.tolist() == [0, 4, 5, 20]


class TestATextThatChangedSinceItWasIdentified:
    def refusal(self, text: TextIdentity) -> str:
        with pytest.raises(StepError) as caught:
            tokenized_text(text, TOKENIZER)
        (problem,) = caught.value.problems
        assert problem.code is ProblemCode.CHANGED
        return problem.what

    def test_is_not_read(self, tmp_path: Path) -> None:
        text = local(tmp_path, "en", TEXT)
        local(tmp_path, "en", TEXT + " ")
        assert self.refusal(text).startswith(
            f"calibration text `mine` in en changed since the study was planned: {tmp_path / 'en.txt'}"
        )
        with pytest.raises(StepError, match="changed since the study was planned"):
            read_documents(text)

    def test_is_told_even_where_its_tokens_are_in_the_cache(self, tmp_path: Path) -> None:
        text = local(tmp_path, "en", TEXT)
        tokenized_text(text, TOKENIZER)
        local(tmp_path, "en", TEXT + " ")
        assert "changed since the study was planned" in self.refusal(text)
        local(tmp_path, "en", TEXT)
        assert len(tokenized_text(text, TOKENIZER).ids), "what it was before is what was planned"


class TestPerplexityWindows:
    def test_of_a_local_text_are_from_all_of_it(self, tmp_path: Path) -> None:
        text = local(tmp_path, "en", TEXT * 4)
        ids = tokenized_text(text, TOKENIZER).ids
        windows = perplexity_windows(text, TOKENIZER, sequence_length=8, count=3, bos_id=None)
        available = len(ids) // 8
        assert windows.available == available
        assert windows.numbers.tolist() == window_order(available, available)[:3].tolist()
        assert windows.ids.tolist() == [ids[8 * n : 8 * n + 8].tolist() for n in windows.numbers]

    def test_can_be_all_of_it(self, tmp_path: Path) -> None:
        text = local(tmp_path, "en", TEXT * 4)
        windows = perplexity_windows(text, TOKENIZER, sequence_length=8, count=ALL_WINDOWS, bos_id=7)
        assert len(windows) == windows.available == len(tokenized_text(text, TOKENIZER).ids) // 7
        assert set(windows.ids[:, 0]) == {7}

    def test_of_a_dataset_are_from_its_first_segment(self, stream: "Stream") -> None:
        stream.rows = 10**6
        few, many = (
            perplexity_windows(HUB, TOKENIZER, sequence_length=8, count=count, bos_id=None)
            for count in (3, SEGMENT + 3)
        )
        assert few.available is None
        assert few.numbers.tolist() == window_order(SEGMENT, SEGMENT)[:3].tolist()
        assert many.ids[:3].tolist() == few.ids.tolist()
        assert sorted(many.numbers[:SEGMENT]) == list(range(SEGMENT))
        assert SEGMENT * 8 < stream.taken * 10 < 10 * SEGMENT * 8, "not much more than is needed is read"

    def test_of_a_dataset_that_ended_are_known_in_number(self, stream: "Stream") -> None:
        stream.rows = 70
        windows = perplexity_windows(HUB, TOKENIZER, sequence_length=8, count=3, bos_id=None)
        assert windows.available == len(tokenized_text(HUB, TOKENIZER).ids) // 8
        assert len(windows) == 3
        every = perplexity_windows(HUB, TOKENIZER, sequence_length=8, count=ALL_WINDOWS, bos_id=None)
        assert len(every) == windows.available
        assert every.ids[:3].tolist() == windows.ids.tolist()


def test_a_text_that_could_not_be_looked_up() -> None:
    with pytest.raises(StepError, match="could not be looked up: no connection"):
        tokenized_text(TextIdentity("c4", "perplexity", "en", None, unknown="no connection"), TOKENIZER)


def calibrate(texts: list[TextIdentity], samples: int = 5, seed: int = 0) -> np.ndarray:
    calibration = CalibrationData(samples=samples, sequence_length=8, texts=tuple(texts))
    return calibration_ids(calibration, TOKENIZER, seed=seed)


@pytest.fixture
def languages(tmp_path: Path) -> list[TextIdentity]:
    return [local(tmp_path, "en", TEXT * 4), local(tmp_path, "sw", TEXT[::-1] * 4)]


def windows_of(text: TextIdentity, length: int) -> list[list[int]]:
    ids = tokenized_text(text, TOKENIZER).ids
    return [ids[start : start + length].tolist() for start in range(0, len(ids) - length + 1, length)]


def test_samples_are_windows_of_the_languages_in_turn(languages: list[TextIdentity]) -> None:
    ids = calibrate(languages)
    assert (ids.shape, ids.dtype) == ((5, 8), np.int64)
    for number, sample in enumerate(ids.tolist()):
        assert sample in windows_of(languages[number % 2], 8)


def test_the_seed_decides(languages: list[TextIdentity]) -> None:
    draws = [calibrate(languages, seed=seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_no_window_is_taken_twice(languages: list[TextIdentity]) -> None:
    available = len(windows_of(languages[0], 8))
    ids = calibrate(languages[:1], samples=available, seed=3)
    assert sorted(ids.tolist()) == sorted(windows_of(languages[0], 8))


def test_more_samples_begin_with_the_same_windows(languages: list[TextIdentity]) -> None:
    few, many = (calibrate(languages, samples) for samples in (5, 9))
    assert many[:5].tolist() == few.tolist()


def test_another_language_leaves_a_languages_windows_as_they_were(languages: list[TextIdentity]) -> None:
    both = calibrate(languages)
    assert calibrate(languages[:1], samples=3).tolist() == both[::2].tolist()


def test_too_little_text_says_how_many_windows_there_are(languages: list[TextIdentity]) -> None:
    available = len(windows_of(languages[0], 8))
    with pytest.raises(
        StepError, match=rf"`mine` has {available} windows of 8 tokens in en, {available + 1} are needed"
    ):
        calibrate(languages, samples=2 * available + 1)


def test_how_many_tokens_are_needed() -> None:
    assert calibration_tokens(5, 8, 2) == CHOICE * 3 * 8


class Stream:
    """Stands for a streamed dataset, and counts the rows that are taken from it."""

    def __init__(self, rows: int) -> None:
        self.rows, self.taken, self.start = rows, 0, 0

    def skip(self, count: int) -> "Stream":
        self.start = count
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.start, self.rows):
            self.taken += 1
            yield {"text": f"document {number} of the cat"}


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    import datasets

    stream = Stream(1000)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    return stream


HUB = TextIdentity(
    "c4", "perplexity", "en", "some-key", dataset="org/text", config="en", split="train", commit="abc"
)


def test_a_dataset_gives_only_as_many_documents_as_needed(stream: Stream) -> None:
    tokens = tokenized_text(HUB, TOKENIZER, needed=1000)
    assert len(tokens.ids) >= 1000 + MARGIN
    assert not tokens.complete
    assert stream.taken == FIRST_DOCUMENTS * 2, "doubled once"


def test_the_beginning_does_not_depend_on_how_much_is_needed(stream: Stream) -> None:
    little = tokenized_text(HUB, TOKENIZER, needed=500).ids
    much = tokenized_text(HUB, TOKENIZER, needed=5000).ids
    assert much[:500].tolist() == little[:500].tolist()


def test_what_was_taken_needs_no_connection(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tokenized_text(HUB, TOKENIZER, needed=1000).ids
    monkeypatch.setattr(texts, "_stream", None)
    assert tokenized_text(HUB, TOKENIZER, needed=1000).ids.tolist() == before.tolist()
    assert read_documents(HUB, 2) == ["document 0 of the cat", "document 1 of the cat"]


def test_more_is_taken_where_the_first_ended(stream: Stream) -> None:
    Documents(HUB).first(10)
    assert Documents(HUB).first(12)[9:] == [f"document {number} of the cat" for number in (9, 10, 11)]
    assert (stream.start, stream.taken) == (10, 12)


def test_a_dataset_that_ends_gives_what_it_has(stream: Stream) -> None:
    stream.rows = 70
    tokens = tokenized_text(HUB, TOKENIZER, needed=100_000)
    assert tokens.byte_ends[-1] == len("\n".join(f"document {number} of the cat" for number in range(70)))
    assert tokens.complete
    assert Documents(HUB).complete


def test_a_dataset_without_the_column_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    class Other(Stream):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {"body": "x", "url": "y"}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Other(1))
    with pytest.raises(StepError) as caught:
        Documents(HUB).first(1)
    assert "no text in column `text`" in caught.value.problems[0].what
    assert "`body`, `url`" in caught.value.problems[0].hint


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("BuilderConfig 'xx' not found")])
def test_a_dataset_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(StepError, match=r"dataset `org/text` \(en, train\) cannot be read"):
        Documents(HUB).first(1)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["slm-llama-12m", "slm-qwen2-6m"])
def test_dense_perplexity_is_that_of_the_reference(real: Path, name: str) -> None:
    import torch

    from studyctl.sources.model_files import identify_model
    from studyctl.sources.models import load_model
    from studyctl.spec.models import Model

    identity = identify_model(Model(id=f"models/{name}"), real)
    loaded = load_model(identity, dtype="float32", device="cpu")
    source = TextSource(files="corpus/{language}/test.jsonl")
    text = tokenized_text(identify_text("mine", source, "perplexity", "sw", real), loaded.tokenizer)
    ids = torch.from_numpy(text.ids[: 12 * 512].astype(np.int64)).view(12, 512)
    with torch.no_grad():
        logits = loaded.model(ids).logits[:, :-1].log_softmax(-1)
    nll = -logits.gather(2, ids[:, 1:, None]).double().mean()
    rows = [json.loads(line) for line in (real / "reference" / "figures.jsonl").open()]
    (dense,) = [row for row in rows if row["model"] == name and row["setting"] == "dense"]
    assert float(nll.exp()) == pytest.approx(dense["languages"]["sw"]["ppl"], rel=1e-5)
