"""Exact calibration token ids in ``.npy`` files."""

import io
from pathlib import Path

import numpy as np

from studyctl.contract.identity import IdsIdentity
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.hashes import identify_file, remembered
from studyctl.sources.verified import read_verified


def identify_ids(path: Path, vocab_size: int | None) -> IdsIdentity:
    """Return the identity of a file of token ids.

    Args:
        path: an ``.npy`` file, int32 or int64 ``[samples, tokens]``.
        vocab_size: ids must be below it; None: unknown.

    Raises:
        StudyError: the file is missing, holds no such array, or has ids outside the vocabulary.
    """
    if not path.is_file():
        raise StudyError(f"there is no file of token ids `{path}`")
    samples, tokens, smallest, largest = remembered(path, "ids 1", _describe)
    if smallest < 0 or (vocab_size is not None and largest >= vocab_size):
        outside = smallest if smallest < 0 else largest
        limit = f"the vocabulary has {vocab_size}" if vocab_size is not None else "ids begin at 0"
        raise StudyError(
            f"`{path}` holds the token id {outside}, but {limit}", hint="was it made with another tokenizer?"
        )
    file = identify_file(path.absolute())
    return IdsIdentity(digest(["ids", file.sha256]), file, samples, tokens)


def read_ids(ids: IdsIdentity) -> np.ndarray:
    """Return the token ids of a file, int64 ``[samples, tokens]``.

    Raises:
        StepError: the file is not what it was when the study was planned.
    """
    path = ids.file.path
    data = read_verified(ids.file, f"the token ids `{path.name}`")
    return _load(path, io.BytesIO(data)).astype(np.int64)


def _load(path: Path, file: Path | io.BytesIO) -> np.ndarray:
    try:
        ids = np.load(file, mmap_mode="r" if isinstance(file, Path) else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise StudyError(f"`{path}` is no .npy file of numbers: {error}") from error
    if not isinstance(ids, np.ndarray):
        raise StudyError(f"`{path}` holds several arrays; it must be one int32 array [samples, tokens]")
    if ids.dtype.kind != "i" or ids.dtype.itemsize not in (4, 8) or ids.ndim != 2 or 0 in ids.shape:
        raise StudyError(
            f"`{path}` holds {ids.dtype} {list(ids.shape)}; it must be int32 or int64 [samples, tokens]"
        )
    return ids


def _describe(path: Path) -> list[int]:
    ids = _load(path, path)
    return [ids.shape[0], ids.shape[1], int(ids.min()), int(ids.max())]
