"""Reading exactly the bytes that were looked at when a study was planned.

A file that was edited since gives other figures than its key says, so whoever uses a file reads it through here: small
ones are read once, hashed, compared and used; the large ones that libraries read by themselves (weights) are hashed before
they are loaded, and looked at again after that.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from studyctl.contract.identity import FileIdentity
from studyctl.errors import ProblemCode, StepError
from studyctl.sources.hashes import State, is_settled, state_of

_hashed: dict[Path, tuple[State, str]] = {}
"""Hashes of whole files that this process has read, with the state that they had."""


def read_verified(file: FileIdentity, what: str) -> bytes:
    """Return the bytes of a file, which are those that were planned.

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
    """Check that files hold what was planned; each whole file is hashed once a process, and again when it was written.

    Raises:
        StepError: one is gone, or has other content (code ``CHANGED``).
    """
    for file in files:
        try:
            state = state_of(file.path.stat())
            known = _hashed.get(file.path)
            if known is None or known[0] != state:
                with file.path.open("rb") as opened:
                    known = state, hashlib.file_digest(opened, "sha256").hexdigest()
                if is_settled(file.path.stat()):
                    _hashed[file.path] = known
        except OSError as error:
            raise changed(what, file.path, error.strerror or "cannot be read") from error
        if known[1] != file.sha256:
            raise changed(what, file.path)


@contextmanager
def unchanged(files: tuple[FileIdentity, ...], what: str) -> Iterator[None]:
    """Check files before and after something else reads them: what it read in between are the bytes that were planned.

    Raises:
        StepError: one is gone, or has other content (code ``CHANGED``).
    """
    check_files(files, what)
    try:
        yield
    finally:  # what cannot be read may be half of a new file
        check_files(files, what)


def changed(what: str, path: Path, how: str = "") -> StepError:
    """Return the error for content that is not what was planned."""
    detail = f" ({how})" if how else ""
    return StepError(
        f"{what} changed since the study was planned: {path}{detail}",
        hint="run the study again: what depends on it is planned anew",
        code=ProblemCode.CHANGED,
    )
