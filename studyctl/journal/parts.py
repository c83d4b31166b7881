"""Rows of items as Parquet files ("parts") in the folder of the journals: a part that a journal names is complete and on the disk."""

from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from studyctl.files import StudyPaths, atomic_path


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
