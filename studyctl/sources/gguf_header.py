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


@dataclass(slots=True)
class GGUFHeader:
    """The content of a header."""

    fields: dict[str, object] = field(default_factory=dict)
    """Scalars by name; of an array only its length."""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes ``[out, in]`` by name, in torch's order (the file has the reverse)."""
    data_bytes: int = 0
    """Bytes of all tensors, as stored."""


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header and check that every tensor begins within the file.

    Raises:
        StudyError: no GGUF file, of an unknown version, or cut short.
    """
    header, end_of_tensors = GGUFHeader(), 0
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise StudyError(f"`{path}` is no GGUF file", hint="download or install it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        reader = _Reader(data)
        try:
            version, tensors, fields = reader.number("I"), reader.number("Q"), reader.number("Q")
            if version not in (2, 3):
                raise StudyError(f"`{path}` has GGUF version {version}; versions 2 and 3 can be read")
            for _ in range(fields):
                name = reader.string()
                header.fields[name] = reader.value(reader.number("I"))
            for _ in range(tensors):
                name = reader.string()
                header.tensors[name] = tuple(reader.number("Q") for _ in range(reader.number("I")))[::-1]
                reader.number("I")  # the type
                end_of_tensors = max(end_of_tensors, reader.number("Q") + 1)
        except KeyError as error:
            raise StudyError(f"`{path}` has a field of unknown type {error}") from error
        except (struct.error, UnicodeDecodeError) as error:
            raise StudyError(
                f"`{path}` is cut short: its header is incomplete", hint="download or install it again"
            ) from error
        alignment = header.fields.get("general.alignment", 32)
        assert isinstance(alignment, int)  # an unsigned field by the format
        header.data_bytes = len(data) - -(-reader.at // alignment) * alignment
    if header.data_bytes < end_of_tensors:
        raise StudyError(f"`{path}` is cut short", hint="download or install it again")
    return header


class _Reader:
    """Walks over the bytes of a GGUF header."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def number(self, letter: str) -> int:
        value: int
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        self.at += struct.calcsize(letter)
        return value

    def string(self) -> str:
        length = self.number("Q")
        self._skip(length)
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> object:
        """Return a value of a type, given by its number; of an array its length."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        kind, length = self.number("I"), self.number("Q")
        if kind in (_STRING, _ARRAY):
            for _ in range(length):
                self.value(kind)
        else:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
        return length

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise struct.error("beyond the end")
