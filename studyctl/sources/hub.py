"""The only place that talks to the Hugging Face hub: commits, configs, headers, downloads, and what goes wrong there.

Whatever the user can mend (no such repository, no access) is a :class:`StudyError`; a hub that cannot be asked is
:class:`HubUnreachable`, for planning goes on without it. Nothing waits long: requests have short timeouts, and only
failures of the server or the connection are tried again.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import huggingface_hub
from huggingface_hub import errors
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from studyctl.errors import StudyError
from studyctl.files import cache_folder, digest, write_atomic
from studyctl.sources.safetensors_files import TensorInfo

Kind = Literal["model", "dataset"]
T = TypeVar("T")

TIMEOUT_SECONDS = 5.0
ATTEMPTS = 3
REMEMBER_SECONDS = 60.0
"""An answer, also that there is none, holds this long in a process: a plan asks for one dataset once a language."""
MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja")
PICKLE_FILES = ("pytorch_model*.bin",)
NOT_NEEDED = ("consolidated*", "original/*", "onnx/*")
"""The same weights once more, in another layout."""
HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""The root of the errors of whichever HTTP client huggingface_hub uses."""
_IS_COMMIT = 40  # hex digits of a commit


class HubUnreachable(StudyError):
    """The hub could not be asked: offline, no connection, or a failing server."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A revision as it is now."""

    commit: str
    files: tuple[str, ...] | None
    """Names of the repository's files; None when only the local cache could be asked."""
    note: str = ""
    """Why the answer comes from the local cache, if it does."""


_answers: dict[tuple[str, str, str], tuple[float, Resolved | StudyError]] = {}


def forget() -> None:
    """Ask anew, whatever was answered in this process."""
    _answers.clear()


def is_offline() -> bool:
    """Return whether the user forbade connections (``HF_HUB_OFFLINE``)."""
    # huggingface_hub reads the variable when it is imported; a process may set it after that.
    set_since = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    return set_since or huggingface_hub.is_offline_mode()


def resolve(kind: Kind, repo: str, revision: str) -> Resolved:
    """Return the commit of a revision, from the hub or, where it cannot be asked, as it was seen last.

    Raises:
        StudyError: no such repository or revision, or no access to it.
        HubUnreachable: the hub cannot be asked and no earlier answer is known.
    """
    place = (kind, repo, revision)
    at, answer = _answers.get(place, (0.0, None))
    if answer is None or time.monotonic() - at > REMEMBER_SECONDS:
        try:
            answer = _resolve(kind, repo, revision)
        except StudyError as error:
            answer = error
        _answers[place] = (time.monotonic(), answer)
    if isinstance(answer, StudyError):
        raise answer
    return answer


def _resolve(kind: Kind, repo: str, revision: str) -> Resolved:
    api = huggingface_hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        info: Any = call(lambda: ask(repo, revision=revision, timeout=TIMEOUT_SECONDS), kind, repo, revision)
    except HubUnreachable as error:
        commit = _commit_seen_last(kind, repo, revision)
        if commit is None:
            raise
        return Resolved(commit, None, note=f"{error}; as seen last: {commit[:12]}")
    commit = str(info.sha)
    write_atomic(_seen_file(kind, repo, revision), json.dumps({"commit": commit, "repo": repo}))
    return Resolved(commit, tuple(file.rfilename for file in info.siblings or ()))


def _seen_file(kind: Kind, repo: str, revision: str) -> Path:
    return cache_folder() / "hub" / f"{digest([kind, repo, revision])}.json"


def _commit_seen_last(kind: Kind, repo: str, revision: str) -> str | None:
    if len(revision) == _IS_COMMIT and set(revision) <= set("0123456789abcdef"):
        return revision
    try:
        return str(json.loads(_seen_file(kind, repo, revision).read_bytes())["commit"])
    except (OSError, ValueError, KeyError):  # never seen by us: perhaps by another program
        pass
    name = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision, repo_type=kind)
    return Path(name).parent.name if isinstance(name, str) else None


def read_config(repo: str, commit: str) -> dict[str, Any]:
    """Return a model's ``config.json`` at a commit.

    Raises:
        StudyError: the repository has none, or it cannot be read.
        HubUnreachable: it is not in the local cache and the hub cannot be asked.
    """
    path = Path(_file(repo, "config.json", commit))
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise StudyError(f"config.json of `{repo}` cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise StudyError(f"config.json of `{repo}` is no JSON object")
    return config


def _file(repo: str, name: str, commit: str) -> str:
    cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=commit)
    if isinstance(cached, str):
        return cached
    timeout = TIMEOUT_SECONDS
    return call(
        lambda: huggingface_hub.hf_hub_download(repo, name, revision=commit, etag_timeout=timeout),
        "model",
        repo,
        commit,
    )


def read_tensors(repo: str, commit: str) -> dict[str, TensorInfo] | None:
    """Return the tensors of a model at a commit, from the headers of its safetensors files; None: it has no such files.

    Raises:
        StudyError: no access.
        HubUnreachable: the hub cannot be asked, and was not before.
    """
    entry = cache_folder() / "hub" / f"tensors-{digest([repo, commit])}.json"
    if entry.is_file():
        known = json.loads(entry.read_bytes())
        return {name: TensorInfo(tuple(shape), dtype, size) for name, (shape, dtype, size) in known.items()}
    api = huggingface_hub.HfApi()
    try:
        metadata: Any = call(
            lambda: api.get_safetensors_metadata(repo, revision=commit, timeout=TIMEOUT_SECONDS),
            "model",
            repo,
            commit,
        )
    except errors.NotASafetensorsRepoError:
        return None
    tensors = {
        name: TensorInfo(tuple(info.shape), str(info.dtype), info.data_offsets[1] - info.data_offsets[0])
        for file in metadata.files_metadata.values()
        for name, info in file.tensors.items()
    }
    write_atomic(entry, json.dumps(tensors))
    return tensors


def cached_model(repo: str, commit: str) -> Path | None:
    """Return the local folder of a model at a commit, if it was downloaded."""
    cached = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=commit)
    return Path(cached).parent if isinstance(cached, str) else None


def download_model(repo: str, commit: str, *, allow_pickle: bool) -> Path:
    """Return the folder of a model at a commit, downloading what is not there yet.

    Raises:
        StudyError: no access.
        HubUnreachable: files are missing and the hub cannot be asked.
    """
    patterns = [*MODEL_FILES, *(PICKLE_FILES if allow_pickle else ())]
    return Path(
        call(
            lambda: huggingface_hub.snapshot_download(
                repo,
                revision=commit,
                allow_patterns=patterns,
                ignore_patterns=list(NOT_NEEDED),
                etag_timeout=TIMEOUT_SECONDS,
                local_files_only=is_offline(),
            ),
            "model",
            repo,
            commit,
            offline_too=True,
        )
    )


def call(request: Callable[[], T], kind: Kind, repo: str, revision: str, *, offline_too: bool = False) -> T:
    """Return what a request to the hub answers, trying again where only the server or the connection failed.

    Raises:
        StudyError: no such repository or revision, no such file, or no access.
        HubUnreachable: offline, or no answer after a few attempts.
    """
    if is_offline() and not offline_too:
        raise HubUnreachable("the hub is not asked (HF_HUB_OFFLINE is set)")
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=3),
        reraise=True,
    )
    try:
        return attempts(request)
    except (HTTPError, errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise _explained(error, kind, repo, revision) from error


def _may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed in a moment."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return False
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _explained(error: Exception, kind: Kind, repo: str, revision: str) -> StudyError:
    """Return the error in the user's words; the most specific class first."""
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if isinstance(error, errors.GatedRepoError):
        return StudyError(
            f"{kind} `{repo}` is gated",
            hint=f"accept its licence at {page}, then log in with `hf auth login`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return StudyError(f"{kind} `{repo}` has no revision `{revision}`", hint=f"see {page}/tree/main")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return StudyError(
            f"there is no {kind} `{repo}` on the hub, or it is private",
            hint="check the spelling; a private one needs `hf auth login`"
            + ("; a folder is written relative to the spec" if kind == "model" else ""),
        )
    if isinstance(error, errors.DisabledRepoError):
        return StudyError(f"{kind} `{repo}` is disabled on the hub")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return HubUnreachable(
            f"{kind} `{repo}` is not in the local cache, and the hub cannot be asked",
            hint="run `studyctl prefetch` with a connection",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return StudyError(f"{kind} `{repo}` lacks a file: {_one_line(error)}")
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return StudyError(f"no access to {kind} `{repo}`", hint="log in with `hf auth login`")
    return HubUnreachable(f"the hub did not answer for {kind} `{repo}` ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
