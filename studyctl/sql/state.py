"""Files of what the app remembers about the user's queries: one JSON object a line, shared by all apps of the user.

They are written under a lock, as a whole; a line that cannot be read costs itself only.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import platformdirs
from filelock import Timeout

from studyctl.errors import StudyError
from studyctl.files import file_lock, write_atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

PATIENCE_SECONDS = 5.0
"""How long an app waits while another one writes."""


def state_file(name: str) -> Path:
    """Return a file in the folder of what the app remembers (``STUDYCTL_STATE`` moves it)."""
    return Path(os.environ.get("STUDYCTL_STATE") or platformdirs.user_state_dir("studyctl")) / name


def read_entries(path: Path, kind: type[T], what: str) -> list[T]:
    """Return the entries of a file, the oldest first; none if there is no file.

    Args:
        path: the file.
        kind: the class of an entry.
        what: what the file holds, for the message.

    Raises:
        StudyError: the file cannot be read.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise StudyError(f"{what} cannot be read: {error}", file=path) from error
    return [entry for line in lines if (entry := entry_of(line, kind)) is not None]


def change_lines(path: Path, what: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the lines of a file by what a function makes of them; no other app writes meanwhile.

    Args:
        path: the file.
        what: what it holds, for the message.
        change: is given the lines as they are now; what it raises leaves the file as it was.

    Raises:
        StudyError: the file cannot be written, or another app holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock"), PATIENCE_SECONDS):
            write_atomic(path, b"".join(line + b"\n" for line in change(_lines(path))))
    except (OSError, Timeout) as error:
        hint = "make the folder writable, or move it with STUDYCTL_STATE"
        raise StudyError(f"{what} cannot be written: {error}", file=path, hint=hint) from error


def line_of(entry: "DataclassInstance") -> bytes:
    """Return an entry as a line."""
    return json.dumps(asdict(entry), ensure_ascii=False).encode(errors="surrogatepass")


def entry_of(line: bytes, kind: type[T]) -> T | None:
    """Return the entry of a line; None if it is torn, or of another program."""
    try:
        return msgspec.json.decode(line.decode(errors="replace"), type=kind)
    except ValueError:
        return None


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []
