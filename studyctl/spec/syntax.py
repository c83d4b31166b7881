"""Reading the TOML of a spec, with its errors in plain words.

A parser stops at its first error. To show all, the line of each error is removed and the rest is read again, as long as
errors stay within their lines. Repeated keys and tables are found by :class:`Places`, which knows both places.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from studyctl import toml
from studyctl.errors import Problem, SpecError
from studyctl.spec.positions import Place, Places, Span
from studyctl.toml import Fault, TomlError

MOST_ERRORS = 20
_STATEMENT = re.compile(r"""^\s*(\[\[?[\w\s."'-]+\]|[\w.-]+\s*=)""", re.MULTILINE)
"""Matches a table's header or a key, of which a TOML file has at least one."""
_CLOSED = re.compile(
    r'''(?:"""(?:\\.|[^\\])*?"""|"(?!"")(?:\\.|[^"\\\n])*"|'{3}.*?'{3}|'(?!'')[^'\n]*'|#[^\n]*|[^"'#])*+''',
    re.DOTALL,
)
"""Matches the text before the first quote that is not closed."""
MOST_LEVELS = 32
"""Far more than any key needs."""
TOO_DEEP = "lists or tables are nested too deeply"
NOT_CLOSED = "a list is not closed: `]` or `,` is missing before this"


def read_toml(text: str, file: Path) -> tuple[dict[str, Any], Place]:
    """Return the data of a TOML text, and the places of everything in it.

    Raises:
        SpecError: with everything that is wrong with it.
    """
    try:
        places = Places(text, file)
        data = toml.read(text)
        if (deep := _too_deep(data)) is None:
            return data, places.root
        span = places.root.children[deep].value or Span(file, 1, 1, 1)
        raise SpecError(span.problem(TOO_DEEP))
    except TomlError as error:
        if error.fault is not Fault.TOO_DEEP:
            raise SpecError(_problems(text, file, error)) from None
    except RecursionError:  # in `Places`
        pass
    raise SpecError(Problem(TOO_DEEP, file, 1, 1))


def _too_deep(data: dict[str, Any]) -> str | None:
    """Return the first top-level key with something more than :data:`MOST_LEVELS` levels deep."""
    level: list[tuple[str, Any]] = list(data.items())
    for _ in range(MOST_LEVELS):
        level = [
            (name, inner)
            for name, value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return level[0][0] if level else None


def _problems(text: str, file: Path, first: TomlError) -> list[Problem]:
    lines = text.replace("\r\n", "\n").split("\n")
    errors, repaired = _errors(lines, first)
    if len(errors) > 1 and not _STATEMENT.search(text):
        hint = "name a .toml file; `studyctl init FOLDER` writes a spec for a folder's texts and questions"
        return [replace(_worded(first, lines, file), what="this is not a TOML file", note="", hint=hint)]
    # Repetitions are reported with both places; the parser would stop at the first.
    repeated = Places(repaired, file).repeated
    others = [error for error in errors if not (repeated and _is_repetition(error))]
    return sorted(
        (*repeated, *(_worded(error, lines, file) for error in others)),
        key=lambda problem: (problem.line or 0, problem.column or 0),
    )


def _is_repetition(error: TomlError) -> bool:
    return error.fault in (Fault.TWICE, Fault.KEY_OF_VALUE)


def _spans_lines(error: TomlError) -> bool:
    return error.line is None or error.fault in (Fault.LIST_NOT_CLOSED, Fault.INLINE_TABLE_NOT_CLOSED)


def _errors(lines: list[str], error: TomlError) -> tuple[list[TomlError], str]:
    """Return the errors that stay within their lines, and the text without these lines."""
    lines, repaired, errors = list(lines), list(lines), list[TomlError]()
    while len(errors) < MOST_ERRORS:
        errors.append(error)
        if error.line is None or _spans_lines(error) or _in_open_list(error, lines):
            break
        # A header is replaced, so that the keys below it do not end up in the table above.
        header = lines[error.line - 1].lstrip().startswith("[")
        lines[error.line - 1] = f"[_broken_{len(errors)}]" if header else ""
        if not _is_repetition(error):
            repaired[error.line - 1] = lines[error.line - 1]
        try:
            toml.read("\n".join(lines))
            break
        except TomlError as following:
            last, error = error.line, following
        if _spans_lines(error) or (error.line or 0) <= last:
            break
    return errors, "\n".join(repaired)


def _in_open_list(error: TomlError, lines: list[str]) -> bool:
    """Return whether a key follows where the next item of a list should be."""
    rest = lines[error.line - 1][error.column - 1 :] if error.line else ""
    return error.fault is Fault.NO_VALUE and re.match(r"[\w.\"'-]+\s*=", rest) is not None


def _worded(error: TomlError, lines: list[str], file: Path) -> Problem:
    text = "\n".join(lines)
    row = error.line or text.rstrip().count("\n") + 1
    line = lines[row - 1]
    place = Span(file, row, error.column if error.line else len(line.rstrip()) + 1, 1)
    if error.line is None or error.fault is Fault.LINE_ENDS_IN_TEXT:
        source = line if error.line else text
        closed = _CLOSED.match(source)
        assert closed is not None  # it matches the empty text as well
        if rest := source[closed.end() :].partition("\n")[0].rstrip():
            above, column = closed[0].count("\n"), len(closed[0].rpartition("\n")[2]) + 1
            return Span(file, (error.line or 1) + above, column, len(rest)).problem(
                "text in quotes is not closed"
            )
    if _in_open_list(error, lines):
        return place.problem(NOT_CLOSED, _where_it_begins(lines, row))
    if error.fault is Fault.ESCAPE:
        backslash = replace(place, column=max(1, line.rfind("\\", 0, place.column) + 1))
        what = "a backslash in double quotes starts an escape"
        return backslash.problem(what, "use single quotes: 'C:\\folder'")
    what, note, length = _explained(error, line, line[place.column - 1 :])
    if error.fault is Fault.LIST_NOT_CLOSED:
        note = _where_it_begins(lines, row)
    return replace(place, length=max(1, length)).problem(what, note)


def _where_it_begins(lines: list[str], row: int) -> str:
    """Return which list is open before a row, if it began above it."""
    for number in range(row - 1, 0, -1):
        if begun := re.match(r"\s*([\w.\"'-]+)\s*=\s*\[", lines[number - 1]):
            return f"the list of `{begun[1]}` begins on line {number}"
    return ""


def _explained(error: TomlError, line: str, rest: str) -> tuple[str, str, int]:
    """Return what is wrong, a note, and how many characters of ``rest`` to underline."""
    word = re.split(r"[\s,#\]}]", rest, maxsplit=1)[0]
    match error.fault:
        case Fault.NO_VALUE:
            return _bad_value(line, word)
        case Fault.NO_EQUALS:
            note = "write `=` instead of `:`" if rest.startswith(":") else ""
            return "a key needs `=` and a value", note, 1
        case Fault.LIST_NOT_CLOSED:
            return NOT_CLOSED, "", len(word)
        case Fault.INLINE_TABLE_NOT_CLOSED:
            return "a table in braces is not closed: `}` or `,` is missing before this", "", len(word)
        case Fault.MORE_AFTER_VALUE:
            return "the value has ended before this", "", len(word)
        case Fault.NO_STATEMENT:
            note = "" if word.isascii() else "a key with such letters needs quotes"
            return "a key or a table's header is expected here", note, len(word)
        case Fault.KEY_OF_VALUE:
            return "the key before this has another value already", "", 1
        case Fault.HEADER_NOT_CLOSED:
            return "the table's header is not closed", "", 1
    return f"this is not TOML: {error.message}", "", max(1, len(word))


def _bad_value(line: str, word: str) -> tuple[str, str, int]:
    key = line.partition("=")[0].strip()
    if not word:
        return f"`{key}` has no value", "", 1
    if word.lower() in ("true", "false"):
        return f"`{word}` is not a value", f"write {word.lower()}", len(word)
    if word.lower() in ("none", "null", "nil"):
        return f"`{word}` is not a value", "leave the key out", len(word)
    if word[0] in "“”‘’«»":
        return "these quotes are not TOML's", 'write "…" with straight quotes', len(word)
    if re.match(r"[+-]?\.\d", word):
        return f"`{word}` is not a number", f"write {word.replace('.', '0.', 1)}", len(word)
    return f"`{word}` is not a value", f'text needs quotes: "{word}"', len(word)
