"""The dense model's answer to a text, kept on disk: final hidden states instead of logits.

Layout beside each other in one folder::

    <key>.safetensors            tensor ``hidden`` [windows, length - 1, hidden], in the dtype of the model
    head-<fingerprint>.safetensors   what turns them into logits, once for all texts of a model

The last position of a window predicts nothing that is scored, so it is not kept. A checksum over header and data is kept
in the header; a file that does not have it is no reference.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from studyctl.errors import StageError
from studyctl.evaluate.head import Head
from studyctl.evaluate.windows import Windows
from studyctl.files import atomic_path

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NO_CHECKSUM = "0" * 32
_READ_BYTES = 1 << 24


@dataclass(frozen=True)
class DenseReference:
    """Final hidden states of the dense model, read as they are needed.

    They are read and not memory-mapped: mapped pages count as memory of the process, up to the size of the file.
    """

    path: Path
    windows: str
    """Fingerprint of the token ids."""
    head: str
    """Fingerprint of the head that turns the hidden states into logits."""
    shape: tuple[int, int, int]
    """``[windows, length - 1, hidden]``"""
    dtype: torch.dtype
    _file: BufferedReader
    _start: int
    """Where the data begins."""

    def rows(self, first: int, last: int) -> Tensor:
        """Return the hidden states of windows ``first`` to ``last - 1``: ``[windows, length - 1, hidden]``."""
        states = torch.empty((last - first, *self.shape[1:]), dtype=self.dtype)
        data = states.view(torch.uint8).numpy()
        self._file.seek(self._start + first * (data.nbytes // len(states)))
        if self._file.readinto(data.data) != data.nbytes:
            raise StageError(
                f"the dense reference {self.path} was cut short while it was read", hint="run again"
            )
        return states

    def load_head(self) -> Head:
        """Return the dense model's head.

        Raises:
            StageError: the file that holds it is not what it was.
        """
        path = _head_path(self.path, self.head)
        try:
            with safe_open(path, framework="pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                follows = json.loads(file.metadata()["follows"])
            head = Head(stored["weight"], stored.get("bias"), **follows)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            raise _broken_head(path) from error
        if head.fingerprint() != self.head:
            raise _broken_head(path)
        return head


def open_reference(path: Path) -> DenseReference | None:
    """Open what :func:`keep_reference` wrote, or return None if it is missing, torn or corrupt."""
    try:
        file = path.open("rb")
        header = _intact_header(file)
    except OSError:
        return None
    if header is None or not _head_path(path, header["__metadata__"]["head"]).is_file():
        file.close()
        return None
    metadata, hidden = header["__metadata__"], header["hidden"]
    return DenseReference(
        path=path,
        windows=metadata["windows"],
        head=metadata["head"],
        shape=tuple(hidden["shape"]),
        dtype={name: dtype for dtype, name in _DTYPES.items()}[hidden["dtype"]],
        _file=file,
        _start=header["start"],
    )


@contextmanager
def keep_reference(path: Path, windows: Windows, head: Head) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that appends the hidden states ``[windows, length - 1, hidden]`` of one batch after the other.

    ``path`` appears when all of them are there; if anything fails before, it is as it was.

    Raises:
        StageError: the disk is full.
        OSError: the folder cannot be written.
    """
    rows, length = windows.ids.shape
    shape = (rows, length - 1, head.weight.shape[1])
    header = _header(shape, head.weight.dtype, fingerprint(windows), head.fingerprint())
    state = hashlib.blake2b(header, digest_size=16)
    try:
        _keep_head(_head_path(path, head.fingerprint()), head)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(header)

            def append(hidden: Tensor) -> None:
                data = hidden.contiguous().cpu().view(torch.uint8).numpy().data
                state.update(data)
                file.write(data)

            yield append
            expected = len(header) + rows * (length - 1) * shape[2] * head.weight.element_size()
            assert file.tell() == expected, f"{file.tell()} bytes written, {expected} announced"
            file.seek(header.index(_NO_CHECKSUM.encode()))
            file.write(state.hexdigest().encode())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(
                f"no space left for the dense reference {path}",
                hint="free some disk space, or score fewer windows",
            ) from error
        raise


def fingerprint(windows: Windows) -> str:
    """Return 32 hex digits that name the token ids."""
    shape = str(windows.ids.shape).encode()
    return hashlib.blake2b(shape + windows.ids.tobytes(), digest_size=16).hexdigest()


def _header(shape: tuple[int, int, int], dtype: torch.dtype, windows: str, head: str) -> bytes:
    """Return the first part of a safetensors file, with a place for the checksum."""
    size = shape[0] * shape[1] * shape[2] * dtype.itemsize
    fields = {
        "__metadata__": {"checksum": _NO_CHECKSUM, "windows": windows, "head": head},
        "hidden": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _intact_header(file: BufferedReader) -> dict[str, Any] | None:
    """Return the header, and as ``start`` where the data begins, if the checksum in it is that of the whole file."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length < 1 << 16:
        return None
    text = file.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        checksum = str(header["__metadata__"]["checksum"])
    except (ValueError, KeyError, TypeError):
        return None
    blank = text.replace(checksum.encode(), _NO_CHECKSUM.encode())
    state = hashlib.blake2b(length.to_bytes(8, "little") + blank, digest_size=16)
    while data := file.read(_READ_BYTES):
        state.update(data)
    return header | {"start": 8 + length} if state.hexdigest() == checksum else None


def _head_path(reference: Path, head: str) -> Path:
    return reference.with_name(f"head-{head}.safetensors")


def _keep_head(path: Path, head: Head) -> None:
    if path.exists():
        return
    tensors = {"weight": head.weight.cpu().contiguous()}
    if head.bias is not None:
        tensors["bias"] = head.bias.cpu().contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"follows": json.dumps({"scale": head.scale, "softcap": head.softcap})})


def _broken_head(path: Path) -> StageError:
    return StageError(
        f"the dense model's head in {path} is torn or corrupt", hint="delete this file and run again"
    )
