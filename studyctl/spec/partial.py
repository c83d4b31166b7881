"""Reading a spec while it is typed: which table, key and value a place belongs to, in text that is no TOML yet.

The parsers give up, or lose the tables below, where a quote or a list is not closed. Here a line that begins a table or a
key always does so: no value of a spec goes on in a line that looks like one.
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
_TOKEN = re.compile(r"""("(?:\\.|[^"\\\n])*"?)|('[^'\n]*'?)|(#[^\n]*)|([\[\]{},=])|([^\s\[\]{},=#"']+)""")
_WORD_END = {
    "": re.compile(r"[\w.+-]*"),
    '"': re.compile(r'[^\s"\],}]*"?'),
    "'": re.compile(r"[^\s'\],}]*'?"),
}

Part = Literal["header", "key", "value", "nothing"]


@dataclass(frozen=True, slots=True)
class Here:
    """What a place of a text is part of."""

    part: Part
    """``nothing``: a comment, or behind a value."""
    table: Loc
    """Way to the table that a key here belongs to."""
    loc: Loc
    """Way to the key (its name may be empty yet) or value; for a header, to its table."""
    word: str = ""
    """What is written up to the place, with its opening quote."""
    start: int = 0
    """Column at which the word starts, from 0."""
    end: int = 0
    """Column at which the word ends, behind the place."""

    @property
    def plain(self) -> str:
        """Return the word without its opening quote."""
        return self.word.lstrip("\"'")


@dataclass(frozen=True, slots=True)
class Statement:
    """A key with its value."""

    table: Loc
    keys: tuple[str, ...]
    row: int
    column: int
    """Where the value begins, behind ``=``."""

    @property
    def loc(self) -> Loc:
        """Return the way to the value."""
        return (*self.table, *self.keys)


@dataclass(frozen=True, slots=True)
class Partial:
    """A text with what is certain of it."""

    lines: tuple[str, ...]
    headers: dict[int, Loc]
    """Way to the table that a line begins, by the row of the line."""
    statements: dict[int, Statement]
    """By the row of their keys."""
    data: dict[str, Any] = field(repr=False)
    """What could be read: values that are complete."""

    def here(self, row: int, column: int) -> Here:
        """Return what a place is part of; rows and columns count from 0."""
        line, table = self.lines[row], self._table_of(row)
        if row in self.headers or (_HEADER_TYPED.match(line) and not self._open_before(row)):
            return _in_header(line, column, self.headers.get(row, table))
        statement = self.statements.get(row)
        if statement is not None and column < statement.column:
            return _in_key(line, column, table, statement.keys)
        statement = statement or self._open_before(row)
        if statement is None:
            return _in_key(line, column, table, ())
        return self._in_value(statement, row, column)

    def keys_in(self, table: Loc) -> set[str]:
        """Return the keys that a table has, dotted ones by their first part."""
        return {item.keys[0] for item in self.statements.values() if item.table == table}

    def _table_of(self, row: int) -> Loc:
        above = [header for header in self.headers if header <= row]
        return self.headers[above[-1]] if above else ()

    def _open_before(self, row: int) -> Statement | None:
        """Return the statement whose list or table is still open where a line starts."""
        for above in range(row - 1, -1, -1):
            if above in self.headers:
                return None
            if above in self.statements:
                statement = self.statements[above]
                return statement if _Nest(self._value_text(statement, row, 0)).frames else None
        return None

    def _value_text(self, statement: Statement, row: int, column: int) -> str:
        """Return the text of a value up to a place."""
        if row == statement.row:
            return self.lines[row][statement.column : column]
        first = self.lines[statement.row][statement.column :]
        return "\n".join((first, *self.lines[statement.row + 1 : row], self.lines[row][:column]))

    def _in_value(self, statement: Statement, row: int, column: int) -> Here:
        nest = _Nest(self._value_text(statement, row, column))
        loc = (*statement.loc, *nest.loc)
        word, line = nest.word, self.lines[row]
        start = column - len(word)
        tail = _WORD_END[word[:1] if word[:1] in "\"'" else ""].match(line, column)
        end = tail.end() if tail else column
        if nest.closed:
            return Here("nothing", statement.table, loc)
        if nest.wants_key:
            return Here("key", loc, (*loc, line[start:end]), word, start, end)
        return Here("value", statement.table, loc, word, start, end)


@dataclass(slots=True)
class _Frame:
    """A list or a table in braces that is open."""

    bracket: str
    index: int = 0
    key: str = ""


class _Nest:
    """The lists and tables that are open at the end of a piece of a value, and the word that it ends with."""

    def __init__(self, text: str) -> None:
        self.frames: list[_Frame] = []
        self.word = ""
        self.closed = False
        """Whether a value or a comment ends here, so that nothing can follow but a comma or a bracket."""
        for match in _TOKEN.finditer(text):
            self._take(match, ends=match.end() == len(text))

    @property
    def loc(self) -> Loc:
        parts = [frame.index if frame.bracket == "[" else frame.key for frame in self.frames]
        return tuple(part for part in parts if part != "")

    @property
    def wants_key(self) -> bool:
        return bool(self.frames) and self.frames[-1].bracket == "{" and not self.frames[-1].key

    def _take(self, match: re.Match[str], *, ends: bool) -> None:
        double, single, comment, sign, word = match.groups()
        self.word = ""
        if comment is not None:
            self.closed = self.closed or ends
        elif sign is not None:
            self._take_sign(sign)
        else:
            token = double or single or word or ""
            complete = word is None and len(token) > 1 and token[-1] == token[0]
            if self.wants_key and not ends:
                self._pending = token.strip("\"'")
            self.closed = complete or not ends
            self.word = token if ends and not complete else ""

    _pending: str = ""

    def _take_sign(self, sign: str) -> None:
        self.closed = sign in "]}"
        if sign in "[{":
            self.frames.append(_Frame(sign))
        elif self.closed and self.frames:
            self.frames.pop()
        elif self.frames and sign == ",":
            self.frames[-1].index += 1
            self.frames[-1].key = ""
        elif self.frames and sign == "=":
            self.frames[-1].key = self._pending


@lru_cache(maxsize=2)  # the cursor moves more often than the text changes
def read_partial(text: str) -> Partial:
    """Read a text that may be no TOML yet."""
    lines = tuple(text.split("\n"))
    headers: dict[int, Loc] = {}
    statements: dict[int, Statement] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: Loc = ()
    for row, line in enumerate(lines):
        if header := _HEADER.match(line):
            table = headers[row] = _header_loc(names_of(header[2]), header[1] == "[[", counts)
        elif assignment := _ASSIGNMENT.match(line):
            statements[row] = Statement(table, names_of(assignment[1]), row, assignment.end())
    return Partial(lines, headers, statements, _data(lines, headers, statements))


def names_of(dotted: str) -> tuple[str, ...]:
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
    begins = sorted((*headers, *statements, len(lines)))
    ends = dict(pairwise(begins))
    for loc in headers.values():
        _put(data, loc, None)
    for row, statement in statements.items():
        value, end = lines[row][statement.column :], row + 1
        while (
            end < ends[row] and _Nest(value).frames
        ):  # what is behind a value that is closed is typed at the moment
            value, end = f"{value}\n{lines[end]}", end + 1
        try:
            _put(data, statement.loc, toml.read(f"value = {value}")["value"])
        except TomlError:
            continue  # it is being typed; what it will be is not known
    return data


def _put(data: Any, loc: Loc, value: Any) -> None:
    """Set a value at a place, making the tables and lists on the way; None only makes those."""
    for part, following in zip(loc, (*loc[1:], None), strict=True):
        new: Any = (
            value if following is None and value is not None else [] if isinstance(following, int) else {}
        )
        if isinstance(data, list) and isinstance(part, int):
            data.extend({} for _ in range(part + 1 - len(data)))
        elif isinstance(data, dict):
            if following is None and value is not None:
                data[part] = new
            data.setdefault(part, new)
        else:
            return  # two lines contradict each other, which is told elsewhere
        data = data[part]


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
    above, word = (*table, *names_of(typed[1])), typed[2]
    start, tail = typed.start(2), re.compile(r"[\w-]*").match(line, column)
    end = tail.end() if tail else column
    return Here("key", above, (*above, line[start:end]), word, start, end)


def words_of(value: object) -> Iterator[str]:
    """Yield the texts of a list, or the one that there is."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item
