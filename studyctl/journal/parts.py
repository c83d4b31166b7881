"""Rows of items as Parquet files ("parts") in the folder of the journals: a part that a journal names is complete and on the disk.

The texts of items are files of their own, outside that folder: whoever hands a study on can delete them first.
"""

from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from studyctl.files import StudyPaths, atomic_path, open_plain, remove_leftovers


def write_items(paths: StudyPaths, trial: str, attempt: int, name: str, items: pa.Table) -> Path:
    """Write a part and return its path, for the record that acknowledges it.

    Args:
        paths: files of the study.
        trial: trial that scored the items.
        attempt: its attempt.
        name: what is in it, unique in the attempt: a task, or a task with the number of a chunk.
        items: columns as in the table ``items``, from ``task`` on.

    Raises:
        OSError: the disk is full or gone; there is no part.
    """
    path = paths.part(trial, attempt, quote(name, safe=" ,+=@"))
    with atomic_path(path) as temporary:
        pq.write_table(items, temporary)
    return path


def keep_texts(paths: StudyPaths, key: str, texts: pa.Table) -> Path:
    """Write the texts of a task's items, unless they are there, and return their path, for the record that names them.

    Args:
        paths: files of the study.
        key: hash of everything that determines the texts.
        texts: schema :data:`~studyctl.contract.item_texts.ITEM_TEXTS`.

    Raises:
        OSError: the disk is full or gone; there is no such file, or the one of before.
    """
    path = paths.item_texts(key)
    if not _has_rows(path, texts.num_rows):
        path.parent.mkdir(exist_ok=True)
        remove_leftovers(path)
        with atomic_path(path) as temporary:
            pq.write_table(texts, temporary, compression="zstd")
    return path


def _has_rows(path: Path, rows: int) -> bool:
    """Return whether a file is whole, as far as its footer says, and has so many rows."""
    try:
        with open_plain(path) as file:
            return bool(pq.read_metadata(file).num_rows == rows)
    except (OSError, pa.ArrowException):
        return False
