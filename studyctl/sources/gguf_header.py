"""The header of a GGUF file, read in a tenth of a second and without the ``gguf`` package.

Only what planning needs: the scalar fields, and the tensors' names and shapes. The long arrays (vocabulary, merges) are
passed over. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

from studyctl.errors import StudyError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{20: (32, 18), 23: (256, 136), 28: (1, 8), 30: (1, 2)},
}
"""Weights of a block and its bytes, by the tensor type's number: F32, F16, Q4_0, Q4_1, Q5_0 ... IQ4_NL, IQ4_XS, F64, BF16."""


@dataclass(slots=True)
class GGUFHeader:
    """What the header says."""

    fields: dict[str, object] = field(default_factory=dict)
    """Scalars by name; of an array only its length."""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes ``[out, in]`` by name, in torch's order (the file has the reverse)."""
    data_bytes: int = 0
    """Bytes of all tensors, as stored."""


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header and check that the file is as long as it says.

    Raises:
        StudyError: no GGUF file, a version that is not known, or cut short.
    """
    if path.stat().st_size < 24:
        raise StudyError(f"`{path}` is no GGUF file", hint="download or install it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise StudyError(f"`{path}` is no GGUF file", hint="download or install it again")
        try:
            return _Reader(data, path).read()
        except (struct.error, UnicodeDecodeError) as error:
            raise StudyError(
                f"`{path}` is cut short: its header is incomplete", hint="download or install it again"
            ) from error


class _Reader:
    """Walks over the bytes of a GGUF header."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 4

    def read(self) -> GGUFHeader:
        version, tensors, fields = self._take("I"), self._take("Q"), self._take("Q")
        if version not in (2, 3):
            raise StudyError(f"`{self.path}` has GGUF version {version}; 2 and 3 are known")
        header = GGUFHeader()
        for _ in range(fields):
            name = self._string()
            header.fields[name] = self._value(self._take("I"))
        places = [self._tensor(header) for _ in range(tensors)]
        alignment = header.fields.get("general.alignment", 32)
        assert isinstance(alignment, int)  # an unsigned field by the format
        start = -(-self.at // alignment) * alignment
        wanted = start + max((offset + size for offset, size in places), default=0)
        if len(self.data) < wanted:
            raise StudyError(
                f"`{self.path}` is cut short: {wanted:,} bytes wanted, {len(self.data):,} found",
                hint="download or install it again",
            )
        header.data_bytes = len(self.data) - start
        return header

    def _tensor(self, header: GGUFHeader) -> tuple[int, int]:
        name = self._string()
        shape = tuple(self._take("Q") for _ in range(self._take("I")))[::-1]
        kind, offset = self._take("I"), self._take("Q")
        header.tensors[name] = shape
        weights = 1
        for size in shape:
            weights *= size
        # The size of a type that is not in the table is not known; then only its beginning is checked.
        block, stored = _BLOCKS.get(kind, (max(weights, 1), 0))
        return offset, weights // block * stored

    def _value(self, kind: int) -> object:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(self._format(kind))
        kind, length = self._take("I"), self._take("Q")
        if kind == _STRING:
            for _ in range(length):
                self._skip(self._take("Q"))
        elif kind == _ARRAY:
            for _ in range(length):
                self._value(_ARRAY)
        else:
            self._skip(length * struct.calcsize(self._format(kind)))
        return length

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise StudyError(f"`{self.path}` has a field of unknown type {kind}")
        return _SCALARS[kind]

    def _take(self, letter: str) -> int:
        value: int
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        self.at += struct.calcsize(letter)
        return value

    def _string(self) -> str:
        length = self._take("Q")
        self._skip(length)
        return self.data[self.at - length : self.at].decode()

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise struct.error("beyond the end")
