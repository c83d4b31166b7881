"""Loading and saving a spec for an editor: unedited parts stay the same byte for byte, and nobody's change is lost.

In the editor, lines end in a newline and hold no character that would break a line or move a terminal's cursor. What the file
has instead (other line endings, a byte order mark, such characters) is restored when it is saved.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from studyctl.errors import SpecError, StudyError
from studyctl.files import write_atomic
from studyctl.spec.bundled import bundled_folder
from studyctl.spec.extends import base_of, read_text
from studyctl.units import bytes_text

LARGEST_BYTES = 256 << 10
"""A hundred times a long spec; beyond that, highlighting and checking while typing would be too slow."""
BOM = b"\xef\xbb\xbf"

_CONTROLS = (*range(0x9), *range(0xB, 0x20), *range(0x7F, 0xA0))
_BREAKS_AND_DIRECTIONS = (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STAND_INS = {code: 0x10F000 + index for index, code in enumerate((*_CONTROLS, *_BREAKS_AND_DIRECTIONS))}
"""Private-use characters that stand for those that would break a line, move the cursor or reverse the text."""
_STOOD_FOR = {stand_in: code for code, stand_in in _STAND_INS.items()}
_VISIBLE = dict.fromkeys(_STOOD_FOR, "�")

TEMPLATE = """\
# A study: models, what is done to their weights, and what is measured. `studyctl plan` says what it would take.

[study]
name = "{name}"

[[models]]
id = "HuggingFaceTB/SmolLM2-135M"   # hub id, or a folder beside this file

[calibration]
source = "pocket"                   # text bundled with studyctl
samples = 16
sequence_length = 256

[[compression]]
method = "wanda"
sparsity = 0.5

[evaluation.perplexity]
source = "pocket"
languages = ["en"]
sequence_length = 256
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file as it was when last loaded or saved."""

    path: Path
    text: str
    """As the editor shows it."""
    data: bytes | None
    """As it is on disk; None: the file does not exist yet."""
    stamp: tuple[int, int] | None = None
    """Modification time and size; while they are the same, the file is not read again."""

    @property
    def is_bundled(self) -> bool:
        """Return whether it is a spec that ships and was opened by its name; it must not be changed."""
        return self.path.is_absolute() and self.path.parent == bundled_folder()

    @property
    def written_in(self) -> Path | None:
        """Return the folder of the spec that this is a run's copy of; None if it is not a copy."""
        try:
            base = base_of(self.path, self.text)
        except ValueError:  # the first line was damaged by hand
            return None
        return base if base != self.path.absolute().parent else None


class ChangedElsewhereError(StudyError):
    """The file was changed since it was loaded: saving would undo that change."""


def load(path: Path) -> Loaded:
    """Read a spec for an editor, or return a template if there is no such file.

    Raises:
        SpecError: it cannot be read, is not UTF-8, or is too large.
    """
    try:
        status = path.stat()
        if status.st_size > LARGEST_BYTES and path.is_file():
            what = f"`{path}` is {bytes_text(status.st_size)} large; the editor takes up to {bytes_text(LARGEST_BYTES)}"
            raise SpecError(what, hint="is it a spec?")
        data = path.read_bytes()
        text = as_shown(data.decode("utf-8-sig"))
    except FileNotFoundError:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(".toml"))[:100]
        return Loaded(path, TEMPLATE.format(name=name if name.strip(".-") else "study"), None)
    except (OSError, UnicodeDecodeError):
        read_text(path)  # raises the same error as everywhere
        raise
    return Loaded(path, text, data, (status.st_mtime_ns, status.st_size))


def as_shown(text: str) -> str:
    """Return a text as the editor shows it. Where only some lines end in CR LF, their CR is kept as a character."""
    ends = "\r\n" if text.count("\r\n") == text.count("\n") else "\n"
    return text.replace(ends, "\n").translate(_STAND_INS)


def as_meant(text: str) -> str:
    """Return an editor's text with stand-ins replaced by what they stand for; lines still end in a newline."""
    return text.translate(_STOOD_FOR)


def as_drawn(line: str) -> str:
    """Return a line that is safe to draw on a terminal, of the same length."""
    return line.translate(_VISIBLE)


def encoded(text: str, loaded: Loaded) -> bytes:
    """Return the bytes to save for an editor's text; parts that were not edited keep the file's bytes."""
    if loaded.data is not None and text == loaded.text:
        return loaded.data
    before = loaded.data or b""
    ends = "\r\n" if before.count(b"\r\n") == before.count(b"\n") > 0 else "\n"
    mark = BOM if before.startswith(BOM) else b""
    return mark + as_meant(text.replace("\n", ends)).encode()


Elsewhere = Literal["changed", "gone"]


def changed_elsewhere(loaded: Loaded) -> Elsewhere | None:
    """Return what happened to the file since it was last loaded or saved; None if nothing did."""
    if loaded.data is None:
        return "changed" if loaded.path.exists() else None
    try:
        status = loaded.path.stat()
        if (status.st_mtime_ns, status.st_size) == loaded.stamp or loaded.path.read_bytes() == loaded.data:
            return None
    except FileNotFoundError:
        return "gone"
    except OSError:
        return None  # the disk does not answer: nothing is known about the file
    return "changed"


def save(loaded: Loaded, text: str, *, keep_other: bool = False) -> Loaded:
    """Write an editor's text atomically, and return the file as it is then.

    Args:
        loaded: the file as it was when last loaded or saved.
        text: what is in the editor.
        keep_other: write even if the file was changed elsewhere; that version is kept as ``NAME.toml.orig``.

    Raises:
        ChangedElsewhereError: the file was changed elsewhere; nothing is written.
        StudyError: it cannot be written.
    """
    data = encoded(text, loaded)
    try:
        file = loaded.path.resolve()  # a link stays a link
        on_disk = file.read_bytes() if file.exists() else None
        if on_disk not in (None, loaded.data, data):
            if not keep_other:
                raise ChangedElsewhereError(f"{loaded.path} was changed elsewhere")
            write_atomic(_free_name(file, on_disk or b""), on_disk or b"")
        mode = file.stat().st_mode if on_disk is not None else None
        write_atomic(file, data)
        if mode is not None:
            file.chmod(mode)
        status = file.stat()
    except OSError as error:
        raise StudyError(f"{loaded.path} cannot be written: {error.strerror or error}") from error
    return replace(loaded, text=text, data=data, stamp=(status.st_mtime_ns, status.st_size))


def _free_name(file: Path, data: bytes) -> Path:
    """Return where to keep another version: never the name of a different one that was kept before."""
    number, path = 1, file.with_name(f"{file.name}.orig")
    while path.exists() and path.read_bytes() != data:
        number += 1
        path = file.with_name(f"{file.name}.orig{number}")
    return path
