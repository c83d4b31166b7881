"""Reading exactly the bytes that were planned.

A file that was edited after planning would give figures that do not belong to its key. So every file is read through this module:
small files are read once, hashed, compared and used; large files that libraries read by themselves (weights) are hashed before
they are loaded, and checked again afterwards.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from studyctl.contract.identity import FileIdentity
from studyctl.errors import ProblemCode, StepError
from studyctl.sources.hashes import State, is_settled, state_of

_hashed: dict[Path, tuple[State, str]] = {}
"""Hashes of the files that this process has hashed, with the state of each file at that time."""


def read_verified(file: FileIdentity, what: str) -> bytes:
    """Return the bytes of a file after checking that they are the planned ones.

    Args:
        file: what was planned.
        what: names it in the error, such as "perplexity text `web` in en".

    Raises:
        StepError: it is gone, or has other content (code ``CHANGED``).
    """
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise changed(what, file.path, error.strerror or "cannot be read") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise changed(what, file.path)
    return data


def check_files(files: Iterable[FileIdentity], what: str) -> None:
    """Check that files hold what was planned; a process hashes each file once, and again if it was written.

    Raises:
        StepError: one is gone, or has other content (code ``CHANGED``).
    """
    for file in files:
        try:
            state = state_of(file.path.stat())
            hashed_state, sha256 = _hashed.get(file.path, (None, ""))
            if hashed_state != state:
                with file.path.open("rb") as opened:
                    sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
                if is_settled(file.path.stat()):
                    _hashed[file.path] = state, sha256
        except OSError as error:
            raise changed(what, file.path, error.strerror or "cannot be read") from error
        if sha256 != file.sha256:
            raise changed(what, file.path)


@contextmanager
def unchanged(files: tuple[FileIdentity, ...], what: str) -> Iterator[None]:
    """Check files before and after something else reads them, so that it reads the bytes that were planned.

    Raises:
        StepError: one is gone, or has other content (code ``CHANGED``).
    """
    check_files(files, what)
    try:
        yield
    finally:  # also after an error: an unreadable file may just be being replaced
        check_files(files, what)


def changed(what: str, path: Path, how: str = "") -> StepError:
    """Return the error for content that is not the planned one."""
    detail = f" ({how})" if how else ""
    return StepError(
        f"{what} changed since the study was planned: {path}{detail}",
        hint="run the study again: what depends on it is planned again",
        code=ProblemCode.CHANGED,
    )
