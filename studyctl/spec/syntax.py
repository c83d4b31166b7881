"""Reading TOML: its data, and what is wrong where it cannot be read.

``tomllib`` stops at its first error. To show them all, the line of each is taken out and the rest is read again, as long
as an error stays within its line; keys and tables that are there twice are found by their places.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studyctl.errors import Problem
from studyctl.spec.positions import Located, Place, Repeated, Span, locate

MOST_ERRORS = 20
NOT_CLOSED = "a list is not closed: `]` or `,` is missing before this"


@dataclass(frozen=True, slots=True)
class Toml:
    """A TOML text that was read, or what is wrong with it."""

    data: dict[str, Any]
    located: Located
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Error:
    message: str
    line: int | None
    """None: the end of the text came too early."""
    column: int

    @property
    def spans_lines(self) -> bool:
        return self.line is None or self.message.startswith("Unclosed")


def read_toml(text: str, file: Path) -> Toml:
    """Return the data of a TOML text with places, or its problems (and then no data)."""
    try:
        located = locate(text, file)
        return Toml(tomllib.loads(text), located, ())
    except tomllib.TOMLDecodeError as error:
        return Toml({}, located, tuple(_problems(text, file, located, _read_error(error))))
    except RecursionError:
        return Toml({}, Located(Place(), (), ()), (Problem("lists are nested too deeply", file, 1, 1),))


def _read_error(error: tomllib.TOMLDecodeError) -> _Error:
    # Its attributes for this came with Python 3.14; the text has been the same since 3.11.
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
    if found is None:
        return _Error(str(error), 1, 1)
    message, line, column = found.groups()
    return _Error(message, int(line) if line else None, int(column or 1))


def _problems(text: str, file: Path, located: Located, first: _Error) -> list[Problem]:
    errors, repaired = _errors(text, first)
    # What is there twice is told with both places; tomllib would stop at the first of them.
    found = [_repeated(item) for item in locate(repaired, file).repeated]
    found += [
        _worded(error, text, file, located) for error in errors if not (found and _is_repetition(error))
    ]
    return sorted(found, key=lambda problem: (problem.line or 0, problem.column or 0))


def _is_repetition(error: _Error) -> bool:
    return error.message.startswith(("Cannot overwrite", "Cannot declare", "Duplicate"))


def _errors(text: str, error: _Error) -> tuple[list[_Error], str]:
    """Return the errors that can be told apart, and the text without the lines that are no TOML."""
    lines = text.replace("\r\n", "\n").split("\n")
    repaired, found = list(lines), list[_Error]()
    while len(found) < MOST_ERRORS:
        found.append(error)
        if error.line is None or error.spans_lines or _in_open_list(error, lines):
            break
        # A header is replaced, so that the keys below it do not end up in the table above.
        header = lines[error.line - 1].lstrip().startswith("[")
        lines[error.line - 1] = f"[_broken_{len(found)}]" if header else ""
        if not _is_repetition(error):
            repaired[error.line - 1] = lines[error.line - 1]
        try:
            tomllib.loads("\n".join(lines))
            break
        except tomllib.TOMLDecodeError as following:
            last, error = error.line, _read_error(following)
        if error.spans_lines or (error.line or 0) <= last:
            break
    return found, "\n".join(repaired)


def _in_open_list(error: _Error, lines: list[str]) -> bool:
    """Return whether a key was met where a list's next item is wanted."""
    rest = lines[(error.line or 1) - 1][error.column - 1 :]
    return error.message == "Invalid value" and re.match(r"[\w.\"'-]+\s*=", rest) is not None


def _repeated(item: Repeated) -> Problem:
    listed = item.table and item.name in ("models", "compression")
    return Problem(
        f"{'table' if item.table else 'key'} `{item.name}` is there twice",
        item.again.file,
        item.again.line,
        item.again.column,
        item.again.length,
        note=f"first in line {item.first.line}" if item.first else "",
        hint=f"write `[[{item.name}]]` for each of several" if listed else "",
    )


def _worded(error: _Error, text: str, file: Path, located: Located) -> Problem:
    lines = text.replace("\r\n", "\n").split("\n")
    place = Span(file, error.line or len(text.rstrip().split("\n")), error.column, 1)
    unclosed = error.line is None and not _is_repetition(error)
    if (unclosed or error.message.startswith("Illegal character '\\n'")) and located.broken:
        same = [span for span in located.broken if error.line in (None, span.line)]
        return _problem("text in quotes is not closed", _from_quote(same[0] if same else place, text))
    line = lines[place.line - 1]
    if _in_open_list(error, lines):
        return _problem(NOT_CLOSED, place)
    if "escape" in error.message or "hex value" in error.message or error.message.startswith("Unescaped"):
        column = line.rfind("\\", 0, place.column) + 1
        note = "use single quotes: 'C:\\folder'"
        return _problem(
            "a backslash in double quotes starts an escape", Span(file, place.line, column, 1), note
        )
    what, note, length = _explained(error.message, line, line[place.column - 1 :])
    return _problem(what, Span(file, place.line, place.column, max(1, length)), note)


def _from_quote(span: Span, text: str) -> Span:
    line = text.split("\n")[span.line - 1]
    start = re.compile("[\"']").search(line, span.column - 1)
    skipped = start.start() - span.column + 1 if start else 0
    return Span(span.file, span.line, span.column + skipped, max(1, span.length - skipped))


def _problem(what: str, span: Span, note: str = "") -> Problem:
    return Problem(what, span.file, span.line, span.column, span.length, note=note)


def _explained(message: str, line: str, rest: str) -> tuple[str, str, int]:
    """Return what is wrong, a note, and how many characters of ``rest`` to underline."""
    token = re.match(r"[^\s,#\]}]*", rest)
    word = token[0] if token else ""
    if message == "Invalid value":
        return _bad_value(line, word)
    if message.startswith("Expected '=' after a key"):
        note = "write `=` instead of `:`" if rest.startswith(":") else ""
        return "a key needs `=` and a value", note, 1
    if message.startswith("Unclosed array"):
        return NOT_CLOSED, "", len(word)
    if message.startswith("Unclosed inline table"):
        return "a table in braces is not closed: `}` or `,` is missing before this", "", len(word)
    if message.startswith("Expected newline"):
        return "the value has ended before this", "", len(word)
    if message == "Invalid statement":
        note = "" if word.isascii() else "a key with such letters needs quotes"
        return "here a key or a table's header is wanted", note, len(word)
    if message == "Cannot overwrite a value":
        return "the key before this has another value already", "", 1
    if message.startswith("Expected ']"):
        return "the table's header is not closed", "", 1
    return f"this is not TOML: {message}", "", max(1, len(word))


def _bad_value(line: str, word: str) -> tuple[str, str, int]:
    key = line.partition("=")[0].strip()
    if not word:
        return f"`{key}` has no value", "", 1
    if word.lower() in ("true", "false"):
        return f"`{word}` is no value", f"write {word.lower()}", len(word)
    if word.lower() in ("none", "null", "nil"):
        return f"`{word}` is no value", "leave the key out", len(word)
    if word[0] in "“”‘’«»":
        return "these quotes are not TOML's", 'write "…" with straight quotes', len(word)
    if re.match(r"[+-]?\.\d", word):
        return f"`{word}` is no number", f"write {word.replace('.', '0.', 1)}", len(word)
    return f"`{word}` is no value", f'text needs quotes: "{word}"', len(word)
