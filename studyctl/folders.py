"""How a folder is written so that a crash leaves the old one, the new one or none, never a part of one."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from studyctl.files import sync_folder


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it is synced and takes the name of ``path``.

    Args:
        path: what is to be made; missing, or an empty folder.
        replace: take the place of a folder that is not empty.

    Raises:
        OSError: the parent cannot be written, the disk is full, or ``path`` is not empty; ``path`` is as it was.
    """
    if not replace and (path.is_file() or (path.exists() and any(path.iterdir()))):
        raise FileExistsError(errno.EEXIST, "it exists already and is not empty", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, old = _beside(path, os.getpid(), "new"), _beside(path, os.getpid(), "old")
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        if replace and path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists():
            if path.exists():
                shutil.rmtree(old)
            else:  # the new one could not take its place
                old.rename(path)
    sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete what processes that are gone left when they were killed while they wrote ``path``."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(new|old)\.partial")
    for folder in path.parent.iterdir():
        found = pattern.fullmatch(folder.name)
        if found and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(folder)


def _beside(path: Path, process: int, kind: str) -> Path:
    return path.parent / f".{path.name}.{process}.{kind}.partial"


def _sync(folder: Path) -> None:
    for entry in folder.iterdir():
        with entry.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
