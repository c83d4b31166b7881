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
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from studyctl.errors import StageError
from studyctl.evaluate.head import Head
from studyctl.evaluate.windows import Windows
from studyctl.files import atomic_path, sync_folder

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NO_CHECKSUM = "0" * 32
_READ_BYTES = 1 << 24
_HEADER_BYTES = 1 << 10
"""No header is longer."""


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
    checksum: str
    """Of the whole file."""
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
        checksum=metadata["checksum"],
        shape=tuple(hidden["shape"]),
        dtype={name: dtype for dtype, name in _DTYPES.items()}[hidden["dtype"]],
        _file=file,
        _start=header["start"],
    )


class ReferenceWriter:
    """Appends one batch after the other to a reference that is not whole yet."""

    def __init__(self, file: BufferedRandom, header: bytes, intact: int) -> None:
        self.intact = intact
        """Batches of an earlier writer that are there already."""
        self._file = file
        self._state = hashlib.blake2b(header, digest_size=16)

    def append(self, hidden: Tensor) -> str:
        """Append the hidden states ``[windows, length - 1, hidden]`` of a batch; return a checksum of them."""
        data = hidden.contiguous().cpu().view(torch.uint8).numpy().data
        self._state.update(data)
        self._file.write(data)
        return _checksum(data)

    def take_up(self, size: int, checksum: str) -> bool:
        """Go on after a batch of ``size`` bytes if it is what comes next in the file."""
        begin = self._file.tell()
        data = self._file.read(size)
        if len(data) != size or _checksum(data) != checksum:
            self._file.seek(begin)
            return False
        self._state.update(data)
        self.intact += 1
        return True

    def finish(self, expected: int) -> None:
        """Write the checksum of everything into the header, which makes the file a reference."""
        self._file.truncate()
        written = self._file.tell()
        assert written == expected, f"{written} bytes written, {expected} announced"
        self._file.seek(0)
        header = self._file.read(_HEADER_BYTES)
        self._file.seek(header.index(_NO_CHECKSUM.encode()))
        self._file.write(self._state.hexdigest().encode())


@contextmanager
def keep_reference(
    path: Path, windows: Windows, head: Head, earlier: Sequence[tuple[int, str]] | None = None
) -> Iterator[ReferenceWriter]:
    """Yield a writer for the hidden states of all windows.

    ``path`` appears when all of them are there; if anything fails before, it is as it was.

    Args:
        path: File of the reference.
        windows: What the states belong to.
        head: What turns them into logits.
        earlier: Windows and checksum of each batch that a process before this one appended and could not finish; what is
            still there of them is taken up. None: nothing is left behind to be taken up, either.

    Raises:
        StageError: the disk is full.
        OSError: the folder cannot be written.
    """
    rows, length = windows.ids.shape
    shape = (rows, length - 1, head.weight.shape[1])
    header = _header(shape, head.weight.dtype, fingerprint(windows), head.fingerprint())
    window_bytes = (length - 1) * shape[2] * head.weight.element_size()
    partial = path.with_name(f".{path.name}.{'partial' if earlier is not None else os.getpid()}")
    try:
        _keep_head(_head_path(path, head.fingerprint()), head)
        with _opened(partial, header, earlier is not None) as file:
            writer = ReferenceWriter(file, header, intact=0)
            for count, checksum in earlier or ():
                if not writer.take_up(count * window_bytes, checksum):
                    break
            yield writer
            writer.finish(len(header) + rows * window_bytes)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageError(
                f"no space left for the dense reference {path}",
                hint="free some disk space, or score fewer windows",
            ) from error
        raise
    finally:
        if earlier is None:
            partial.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, header: bytes, resumed: bool) -> Iterator[BufferedRandom]:
    """Yield a file that begins with the header, and is read and written after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = resumed and path.exists()
    with path.open("r+b" if found else "w+b") as file:
        if not found or file.read(len(header)) != header:
            file.seek(0)
            file.truncate()
            file.write(header)
        yield file


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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
