"""Facts about a file's content, such as its hash, remembered in the user's cache as long as the file does not change.

Without that every plan would spend seconds on hashing weights and checking texts. A fact is stored with the file's path, size,
times and inode, so that a changed file is read again.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from studyctl.contract.identity import FileIdentity
from studyctl.files import cache_folder, digest, write_cache

T = TypeVar("T")

SETTLED_SECONDS = 2.0
"""A file that changed less than this ago may change again within one tick of the clock: nothing is remembered about it."""
State = tuple[int, int, int, int]
"""Size, times and inode of a file: one of them changes when it is written or replaced."""


def state_of(status: os.stat_result) -> State:
    """Return the state of a file, which changes when the file is written."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(status: os.stat_result) -> bool:
    """Return whether the state of the file is sure to change if it is written from now on."""
    return time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS


def remembered(path: Path, what: str, compute: Callable[[Path], T]) -> T:
    """Return ``compute(path)``, a JSON-serialisable fact of the file's content, computed once for each state of the file.

    Args:
        path: the file.
        what: name of the fact, with the version of the code that computes it.
        compute: a function of the content alone; an error is raised, not remembered.

    Raises:
        OSError: the file cannot be read.
    """
    path = path.resolve()
    status = path.stat()
    state = list(state_of(status))
    entry = cache_folder() / "facts" / f"{digest([str(path), what])}.json"
    # The entry may be missing, or written by another program.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(entry.read_bytes())
        if stored["state"] == state:
            value: T = stored["value"]
            return value
    value = compute(path)
    if is_settled(status):
        write_cache(entry, json.dumps({"path": str(path), "state": state, "value": value}))
    return value


def identify_file(path: Path) -> FileIdentity:
    """Return the identity of a file: its path, and the SHA-256 of its content."""

    def compute(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return FileIdentity(path, remembered(path, "sha256", compute))
