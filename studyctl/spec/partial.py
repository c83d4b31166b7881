"""Reading a spec while it is typed: which table, key and value a place belongs to, in text that is not TOML yet.

Where a quote or a list is not closed, parsers give up or lose the tables below. Here every line that looks like a
header or a key is taken for one: no value of a spec continues in such a line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from studyctl import toml
from studyctl.spec.loading import LISTED
from studyctl.spec.positions import Loc
from studyctl.toml import TomlError

_NAME = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_HEADER = re.compile(rf"\s*(\[\[?)\s*([A-Za-z_][\w-]*(?:\s*\.\s*{_NAME})*)\s*\]{{1,2}}\s*(?:#.*)?$")
_HEADER_TYPED = re.compile(r"\s*\[\[?[^\]=\"'#]*$")
_ASSIGNMENT = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_TOKEN = re.compile(r"""("(?:\\.|[^"\\\n])*"?|'[^'\n]*'?)|(#[^\n]*)|([\[\]{},=])|[^\s\[\]{},=#"']+""")
_WORD_END = {
    "": re.compile(r"[\w.+-]*"),
    '"': re.compile(r'[^\s"\],}]*"?'),
    "'": re.compile(r"[^\s'\],}]*'?"),
}

Part = Literal["header", "key", "value", "nothing"]


@dataclass(frozen=True, slots=True)
class Here:
    """The part of a spec that a place in its text belongs to."""

    part: Part
    """``nothing``: in a comment, or after a complete value."""
    table: Loc
    """Path to the table that a key here belongs to."""
    loc: Loc
    """Path to the key (whose name may still be empty) or value; for a header, to its table."""
    word: str = ""
    """The word up to the place, with its opening quote."""
    start: int = 0
    """Column at which the word starts, from 0."""
    end: int = 0
    """Column at which the word ends; it may go on after the place."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A key with its value."""

    table: Loc
    keys: tuple[str, ...]
    row: int
    column: int
    """Where the value begins, after ``=``."""

    @property
    def loc(self) -> Loc:
        """Return the path to the value."""
        return (*self.table, *self.keys)


@dataclass(frozen=True, slots=True)
class Partial:
    """A text, and the parts of it that could be read."""

    lines: tuple[str, ...]
    headers: dict[int, Loc]
    """Path to the table that each header begins, by row."""
    statements: dict[int, Statement]
    """By the row of the key."""
    data: dict[str, Any] = field(repr=False)
    """The values that are complete."""

    def here(self, row: int, column: int) -> Here:
        """Return the part that a place belongs to; rows and columns count from 0."""
        line, statement = self.lines[row], self._statement_at(row)
        # Headers are in the order of their rows.
        table = next((loc for above, loc in reversed(self.headers.items()) if above <= row), ())
        if row in self.headers or (_HEADER_TYPED.match(line) and statement is None):
            return _in_header(line, column, table)
        if statement is None or (row == statement.row and column < statement.column):
            return _in_key(line, column, table, statement.keys if statement else ())
        value = _end_of(self._value_text(statement, row, column))
        loc = (*statement.loc, *(part for part in value.path if part != ""))
        start = column - len(value.word)
        quote = value.word[:1] if value.word[:1] in "\"'" else ""
        end = _end(_WORD_END[quote], line, column)
        if value.closed:
            return Here("nothing", statement.table, loc)
        if value.wants_key:
            return Here("key", loc, (*loc, line[start:end]), value.word, start, end)
        return Here("value", statement.table, loc, value.word, start, end)

    def keys_in(self, table: Loc) -> set[str]:
        """Return the keys of a table; of dotted keys, the first part."""
        return {item.keys[0] for item in self.statements.values() if item.table == table}

    def _statement_at(self, row: int) -> Statement | None:
        """Return the statement that begins in a line, or whose list or inline table is still open where the line starts."""
        begin = max((above for above in (*self.headers, *self.statements) if above <= row), default=-1)
        statement = self.statements.get(begin)
        if statement is None or begin == row:
            return statement
        return statement if _end_of(self._value_text(statement, row, 0)).path else None

    def _value_text(self, statement: Statement, row: int, column: int) -> str:
        """Return the text of a value up to a place."""
        return "\n".join((*self.lines[statement.row : row], self.lines[row][:column]))[statement.column :]


@dataclass(frozen=True, slots=True)
class _End:
    """The state at the end of a value that may be incomplete."""

    path: Loc
    """The index in each open list and the key in each open inline table; empty: the key is still to be written."""
    word: str
    """The incomplete word at the end."""
    closed: bool
    """Whether a value or a comment ends here, so that only a comma or a bracket can follow."""

    @property
    def wants_key(self) -> bool:
        return self.path[-1:] == ("",)


def _end_of(text: str) -> _End:
    """Return the state at the end of a value that may be incomplete."""
    path: list[str | int] = []
    word, key, closed = "", "", False
    for match in _TOKEN.finditer(text):
        token, at_end = match[0], match.end() == len(text)
        quoted, comment, sign = match.groups()
        word = ""
        if comment:
            closed = closed or at_end
        elif sign:
            closed = sign in "]}"
            _step(path, sign, key)
        else:
            complete = quoted is not None and len(token) > 1 and token[-1] == token[0]
            closed = complete or not at_end
            if at_end and not complete:
                word = token
            elif not at_end:
                key = token.strip("\"'")
    return _End(tuple(path), word, closed)


def _step(path: list[str | int], sign: str, key: str) -> None:
    """Update the path to the innermost open list or inline table for a bracket, a comma or an equals sign."""
    if sign in "[{":
        path.append(0 if sign == "[" else "")
    elif sign in "]}":
        del path[-1:]
    elif path and isinstance(path[-1], int):
        path[-1] += sign == ","
    elif path:
        path[-1] = "" if sign == "," else path[-1] or key


@lru_cache(maxsize=2)  # the cursor moves more often than the text changes
def read_partial(text: str) -> Partial:
    """Read a text that may not be TOML yet."""
    lines = tuple(text.split("\n"))
    headers: dict[int, Loc] = {}
    statements: dict[int, Statement] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: Loc = ()
    for row, line in enumerate(lines):
        if header := _HEADER.match(line):
            table = headers[row] = _header_loc(_names_of(header[2]), header[1] == "[[", counts)
        elif assignment := _ASSIGNMENT.match(line):
            statements[row] = Statement(table, _names_of(assignment[1]), row, assignment.end())
    return Partial(lines, headers, statements, _data(lines, headers, statements))


def _names_of(dotted: str) -> tuple[str, ...]:
    """Return the parts of a dotted key, without quotes."""
    return tuple(part.strip("\"'") for part in re.findall(_NAME, dotted))


def _header_loc(names: tuple[str, ...], listed: bool, counts: dict[tuple[str, ...], int]) -> Loc:
    if listed or (len(names) == 1 and names[0] in LISTED):
        counts[names] = counts.get(names, 0) + 1
    loc: Loc = ()
    for length, name in enumerate(names, 1):
        loc = (*loc, name)
        if names[:length] in counts:
            loc = (*loc, counts[names[:length]] - 1)
    return loc


def _data(
    lines: tuple[str, ...], headers: dict[int, Loc], statements: dict[int, Statement]
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    ends = dict(pairwise(sorted((*headers, *statements, len(lines)))))
    for loc in headers.values():
        _table_at(data, loc)
    for row, statement in statements.items():
        value, end = lines[row][statement.column :], row + 1
        # A line after a closed value is not part of it: it is being typed.
        while end < ends[row] and _end_of(value).path:
            value, end = f"{value}\n{lines[end]}", end + 1
        *above, name = statement.loc
        table = _table_at(data, tuple(above))
        try:
            if table is not None:
                table[name] = toml.read(f"value = {value}")["value"]
        except TomlError:
            continue  # it is being typed
    return data


def _table_at(data: Any, loc: Loc) -> Any:
    """Return the table at a place, made if it does not exist; None if something else is there."""
    for part, following in zip(loc, (*loc[1:], ""), strict=False):
        if isinstance(data, list) and isinstance(part, int):
            data.extend({} for _ in range(part + 1 - len(data)))
        elif isinstance(data, dict):
            data.setdefault(part, [] if isinstance(following, int) else {})
        else:
            return None  # two lines contradict each other; that is reported elsewhere
        data = data[part]
    return data if isinstance(data, dict) else None


def _in_header(line: str, column: int, loc: Loc) -> Here:
    before = line[:column]
    if "#" in before or before.rstrip().endswith("]") or not before.strip():
        return Here("nothing", loc, loc)
    start = len(line) - len(line.lstrip())
    end = len(line.partition("#")[0].rstrip())
    return Here("header", loc, loc, before[start:], start, max(end, column))


def _in_key(line: str, column: int, table: Loc, keys: tuple[str, ...]) -> Here:
    typed = re.match(rf"\s*((?:{_NAME}\s*\.\s*)*)([\w-]*)$", line[:column])
    if typed is None:
        return Here("nothing", table, (*table, *keys))
    above, word, start = (*table, *_names_of(typed[1])), typed[2], typed.start(2)
    end = _end(re.compile(r"[\w-]*"), line, column)
    return Here("key", above, (*above, line[start:end]), word, start, end)


def _end(pattern: re.Pattern[str], line: str, column: int) -> int:
    """Return the column at which the match of a pattern that starts in ``column`` ends."""
    match = pattern.match(line, column)
    return match.end() if match else column


def words_of(value: object) -> Iterator[str]:
    """Yield the texts of a list, or a single text."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item
