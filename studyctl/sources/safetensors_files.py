"""The weight files of a model folder, and the content of their headers; no tensor is read."""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from studyctl.errors import StudyError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE_SINGLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")


class TensorInfo(NamedTuple):
    """A tensor as a header describes it."""

    shape: tuple[int, ...]
    dtype: str
    """``BF16``, ``F32``, ``I32``, ``F8_E4M3``, ``BOOL`` ..."""

    @property
    def bytes(self) -> int:
        """Return its size in the file."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits[0]) if bits else 8) // 8


def weight_files(folder: Path, *, allow_pickle: bool) -> list[Path]:
    """Return the files that transformers would load the weights from: safetensors, else pickle where that is allowed.

    Raises:
        StudyError: there are no weights, shards are missing, or there is pickle only and it is not allowed.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return _shards(folder, INDEX)
    if shards := list(folder.glob("model-*.safetensors")):
        raise StudyError(
            f"`{folder}` has {len(shards)} shards but no {INDEX}", hint="download the index as well"
        )
    names = [path.name for path in folder.iterdir() if path.is_file()]
    check_pickle(str(folder), names, allow_pickle=allow_pickle)
    return _shards(folder, PICKLE_INDEX) if (folder / PICKLE_INDEX).is_file() else [folder / PICKLE_SINGLE]


def check_pickle(where: str, names: Iterable[str], *, allow_pickle: bool) -> None:
    """Check by the names of its files that a folder or repository without safetensors can be loaded.

    Raises:
        StudyError: there are no weights, or pickle is not allowed, or not named as transformers expects.
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
        outside = [name for name in names if Path(name).name != name or "\0" in name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(f"`{folder / index}` is no index of weights: {error}") from error
    if outside:
        raise StudyError(
            f"`{folder / index}` names {outside[0]!r}, which is no file of the folder",
            hint="shards lie beside their index, under plain names",
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StudyError(
            f"`{folder}` has {len(names) - len(missing)} of {len(names)} shards; missing: {', '.join(missing[:4])}"
            + (" ..." if len(missing) > 4 else ""),
            hint="download the rest",
        )
    return [folder / name for name in names]


def listed_tensors(folder: Path) -> set[str]:
    """Return the names of the tensors that the index of a folder lists; empty if it needs no index."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return set()
    return set(
        json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    )  # `weight_files` has checked its form


def read_headers(files: Iterable[Path]) -> dict[str, TensorInfo]:
    """Return the tensors of all safetensors files among these, after checking that each file is as long as its header says.

    Raises:
        StudyError: a file is cut short, or is no safetensors file.
    """
    tensors = {}
    for path in files:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="numpy") as file:
                for name in sorted(file.keys()):
                    part = file.get_slice(name)
                    tensors[name] = TensorInfo(tuple(part.get_shape()), part.get_dtype())
        except SafetensorError as error:
            raise StudyError(
                f"`{path}` is cut short, or is no safetensors file ({error})",
                hint="download or copy it again",
            ) from error
    return tensors
