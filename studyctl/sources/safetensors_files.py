"""Which files of a folder hold a model's weights, and what their headers say; no tensor is read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from studyctl.errors import StudyError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SINGLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")
_LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


class TensorInfo(NamedTuple):
    """A tensor as a header describes it."""

    shape: tuple[int, ...]
    dtype: str
    """``BF16``, ``F32``, ``I32`` ..."""
    bytes: int


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """Return the files that transformers would load the weights from: safetensors, else pickle where that is allowed.

    Raises:
        StudyError: there are no weights, shards are missing, or there is pickle only and it is not allowed.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return _shards(folder, INDEX)
    if (loose := sorted(folder.glob("model-*.safetensors"))) != []:
        raise StudyError(
            f"`{folder}` has {len(loose)} shards but no {INDEX}", hint="download the index as well"
        )
    names = [path.name for path in folder.iterdir() if path.is_file()]
    check_pickle(str(folder), names, allow_pickle=allow_pickle)
    return _shards(folder, PICKLE_INDEX) if (folder / PICKLE_INDEX).is_file() else [folder / PICKLE_SINGLE]


def check_pickle(where: str, names: Iterable[str], *, allow_pickle: bool) -> None:
    """Judge a folder or repository without safetensors by the names of its files.

    Raises:
        StudyError: no weights at all, or pickle that is not allowed or not named as transformers expects it.
    """
    names = sorted(names)
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES) and name != "training_args.bin"]
    if not pickles:
        adapter = any(name.startswith("adapter_") for name in names)
        raise StudyError(
            f"`{where}` has no weights ({SINGLE})",
            hint="this is an adapter: merge it into its base model first" if adapter else "",
        )
    if not allow_pickle:
        raise StudyError(
            f"`{where}` has its weights as pickle only ({pickles[0]}), and unpickling can run any code",
            hint="convert it to safetensors; in `[[models]]`, `allow_pickle = true` allows it for an origin that you trust",
        )
    if not {PICKLE_SINGLE, PICKLE_INDEX} & set(names):
        raise StudyError(f"`{where}` has no {PICKLE_SINGLE}; {pickles[0]} cannot be loaded")


def _shards(folder: Path, index: str) -> list[Path]:
    try:
        weight_map = json.loads((folder / index).read_text("utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"`{folder / index}` is no index of weights: {error}") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StudyError(
            f"`{folder}` lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:4])}"
            + (" ..." if len(missing) > 4 else ""),
            hint="download the rest",
        )
    return [folder / name for name in names]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file, after checking that the file is as long as its header says.

    Raises:
        StudyError: the file is cut short, or is no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise _cut_short(path, 8, size)
        if length > _LARGEST_HEADER:
            raise StudyError(f"`{path}` is no safetensors file", hint="download it again")
        if 8 + length > size:
            raise _cut_short(path, 8 + length, size)
        header = file.read(length)
    try:
        fields = json.loads(header)
        described = {name: entry for name, entry in fields.items() if name != "__metadata__"}
        tensors = {
            name: TensorInfo(
                tuple(entry["shape"]), entry["dtype"], entry["data_offsets"][1] - entry["data_offsets"][0]
            )
            for name, entry in described.items()
        }
        end = max((entry["data_offsets"][1] for entry in described.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StudyError(
            f"the header of `{path}` cannot be read: {error}", hint="download it again"
        ) from error
    if size < 8 + length + end:
        raise _cut_short(path, 8 + length + end, size)
    return tensors


def read_headers(files: Iterable[Path]) -> dict[str, TensorInfo]:
    """Return the tensors of all files.

    Raises:
        StudyError: a file is cut short, or is no safetensors file.
    """
    return {name: info for file in files for name, info in read_header(file).items()}


def _cut_short(path: Path, wanted: int, found: int) -> StudyError:
    return StudyError(
        f"`{path}` is cut short: {wanted:,} bytes wanted, {found:,} found", hint="download or copy it again"
    )
