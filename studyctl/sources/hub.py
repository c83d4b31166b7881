"""Access to the Hugging Face hub: commits, configs, headers, downloads, and their errors.

What the user can fix (no such repository, no access) is a :class:`StudyError`; a hub that does not answer is a
:class:`HubUnreachable`, which planning tolerates. Nothing waits long: requests have short timeouts, and only
failures of the server or the connection are retried.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import huggingface_hub
from huggingface_hub import errors
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from studyctl.errors import StudyError
from studyctl.files import cache_folder, digest, write_cache
from studyctl.sources.safetensors_files import TensorInfo

Kind = Literal["model", "dataset"]
T = TypeVar("T")

TIMEOUT_SECONDS = 5.0
ATTEMPTS = 3
REMEMBER_SECONDS = 60.0
"""How long a process remembers an answer or an error: a plan looks up the same dataset for every language."""
MODEL_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja")
PICKLE_FILES = ("pytorch_model*.bin",)
NOT_NEEDED = ("consolidated*", "original/*", "onnx/*")
"""The same weights in another layout."""
HTTPError: type[Exception] = errors.HfHubHTTPError.__bases__[0]
"""Base class of the errors of the HTTP client that huggingface_hub uses."""


class HubUnreachable(StudyError):
    """The hub could not be asked: offline, no connection, or a failing server."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The commit of a revision, as of now."""

    commit: str
    files: tuple[str, ...] | None
    """Names of the repository's files; None if only the local cache is known."""
    note: str = ""
    """Why the answer comes from the local cache, if it does."""


_answers: dict[tuple[str, str, str], tuple[float, Resolved | StudyError]] = {}


def forget() -> None:
    """Forget the remembered answers, so that the hub is asked again."""
    _answers.clear()


def is_offline() -> bool:
    """Return whether the user forbade connections (``HF_HUB_OFFLINE``)."""
    # huggingface_hub reads the variable when it is imported; a process may set it after that.
    variable = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return huggingface_hub.is_offline_mode() or variable in ("1", "TRUE", "YES", "ON")


def resolve(kind: Kind, repo: str, revision: str) -> Resolved:
    """Return the commit of a revision, from the hub or, if it cannot be reached, as last seen.

    Raises:
        StudyError: no such repository or revision, or no access to it.
        HubUnreachable: the hub cannot be reached, and no commit was seen before.
    """
    question = (kind, repo, revision)
    at, answer = _answers.get(question, (0.0, None))
    if answer is None or time.monotonic() - at > REMEMBER_SECONDS:
        try:
            answer = _resolve(kind, repo, revision)
        except StudyError as error:
            answer = error
        _answers[question] = (time.monotonic(), answer)
    if isinstance(answer, StudyError):
        raise answer
    return answer


def _resolve(kind: Kind, repo: str, revision: str) -> Resolved:
    api = huggingface_hub.HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    last_answer = cache_folder() / "hub" / f"{digest([kind, repo, revision])}.json"
    try:
        info: Any = call(lambda: ask(repo, revision=revision, timeout=TIMEOUT_SECONDS), kind, repo, revision)
    except HubUnreachable as error:
        commit = _last_commit(kind, repo, revision, last_answer)
        if commit is None:
            raise
        return Resolved(commit, None, note=f"{error}; as seen last: {commit[:12]}")
    commit = str(info.sha)
    write_cache(last_answer, json.dumps({"commit": commit, "repo": repo}))
    return Resolved(commit, tuple(file.rfilename for file in info.siblings or ()))


def _last_commit(kind: Kind, repo: str, revision: str, last_answer: Path) -> str | None:
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    try:
        return str(json.loads(last_answer.read_bytes())["commit"])
    except (OSError, ValueError, KeyError):  # no answer yet; another program may have downloaded it
        folder = cached_folder(kind, repo, revision)
        return folder.name if folder else None


def cached_folder(kind: Kind, repo: str, revision: str, name: str = "config.json") -> Path | None:
    """Return the local folder of a repository at a revision if this file of it was downloaded, else None."""
    path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision, repo_type=kind)
    return Path(path).parents[name.count("/")] if isinstance(path, str) else None


def download_file(repo: str, commit: str, name: str) -> Path:
    """Return a local file of a model at a commit; download it if it is not in the local cache.

    Raises:
        StudyError: the repository has none of this name, or no access.
        HubUnreachable: it is not in the local cache, and the hub cannot be reached.
    """
    if folder := cached_folder("model", repo, commit, name):
        return folder / name
    download = partial(
        huggingface_hub.hf_hub_download, repo, name, revision=commit, etag_timeout=TIMEOUT_SECONDS
    )
    return Path(call(download, "model", repo, commit))


def file_bytes(repo: str, commit: str, name: str) -> int:
    """Return the size of a file of a model at a commit.

    Raises:
        StudyError: the repository has none of this name, or no access.
        HubUnreachable: the hub cannot be reached.
    """
    url = huggingface_hub.hf_hub_url(repo, name, revision=commit)
    ask = partial(huggingface_hub.get_hf_file_metadata, url, timeout=TIMEOUT_SECONDS)
    return int(call(ask, "model", repo, commit).size or 0)


def read_tensors(repo: str, commit: str) -> dict[str, TensorInfo] | None:
    """Return the tensors of a model at a commit, from the headers of its safetensors files; None: it has no such files.

    Raises:
        StudyError: no access.
        HubUnreachable: the hub cannot be reached, and the headers were not read before.
    """
    entry = cache_folder() / "hub" / f"tensors-{digest([repo, commit])}.json"
    if entry.is_file():
        stored = json.loads(entry.read_bytes())  # version 0.1 stored sizes as well
        return {name: TensorInfo(tuple(shape), dtype) for name, (shape, dtype, *_) in stored.items()}
    ask = huggingface_hub.HfApi().get_safetensors_metadata
    try:
        metadata: Any = call(
            partial(ask, repo, revision=commit, timeout=TIMEOUT_SECONDS), "model", repo, commit
        )
    except errors.NotASafetensorsRepoError:
        return None
    tensors = {
        name: TensorInfo(tuple(info.shape), str(info.dtype))
        for file in metadata.files_metadata.values()
        for name, info in file.tensors.items()
    }
    write_cache(entry, json.dumps(tensors))
    return tensors


def download_model(repo: str, commit: str, *, allow_pickle: bool) -> Path:
    """Return the local folder of a model at a commit; download the files that are missing.

    Raises:
        StudyError: no access.
        HubUnreachable: files are missing, and the hub cannot be reached.
    """
    download = partial(
        huggingface_hub.snapshot_download,
        repo,
        revision=commit,
        allow_patterns=[*MODEL_FILES, *(PICKLE_FILES if allow_pickle else ())],
        ignore_patterns=list(NOT_NEEDED),
        etag_timeout=TIMEOUT_SECONDS,
        local_files_only=is_offline(),
    )
    return Path(call(download, "model", repo, commit, offline_too=True))


def call(request: Callable[[], T], kind: Kind, repo: str, revision: str, *, offline_too: bool = False) -> T:
    """Return the answer of a request to the hub; retry it if the server or the connection failed.

    Raises:
        StudyError: no such repository or revision, no such file, or no access.
        HubUnreachable: offline, or no answer after a few attempts.
    """
    if is_offline() and not offline_too:
        raise HubUnreachable("the hub is not asked (HF_HUB_OFFLINE is set)")
    attempts = Retrying(
        retry=retry_if_exception(_is_temporary),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=3),
        reraise=True,
    )
    try:
        return attempts(request)
    except (HTTPError, errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise _explained(error, kind, repo, revision) from error


def _is_temporary(error: BaseException) -> bool:
    """Return whether the same request may succeed in a moment."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return False
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def _explained(error: Exception, kind: Kind, repo: str, revision: str) -> StudyError:
    """Return the error with a message for users; the most specific class is checked first."""
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    name, reason = f"{kind} `{repo}`", (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, errors.GatedRepoError):
        return StudyError(
            f"{name} is gated", f"accept its licence at {page}, then log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return StudyError(f"{name} has no revision `{revision}`", f"see {page}/tree/main")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return StudyError(
            f"there is no {name} on the hub, or it is private",
            "check the spelling; a private one needs `hf auth login`"
            + ("; a folder is written relative to the spec" if kind == "model" else ""),
        )
    if isinstance(error, errors.DisabledRepoError):
        return StudyError(f"{name} is disabled on the hub")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return HubUnreachable(
            f"{name} is not in the local cache, and the hub cannot be asked",
            "run `studyctl prefetch` with a connection",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return StudyError(f"a file of {name} is missing: {reason}")
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return StudyError(f"no access to {name}", "log in with `hf auth login`")
    return HubUnreachable(f"the hub did not answer for {name} ({reason})")
