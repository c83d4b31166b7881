"""Where the keys and values of a TOML text are, so that a problem can be shown at its place.

The parser gives the values; this module reads the same text with tree-sitter and keeps only the places. That works
for texts that are not (yet) TOML as well: every part that can be read has a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from studyctl import toml
from studyctl.errors import Problem, ProblemCode
from studyctl.toml import TomlError

Loc = tuple[str | int, ...]
"""A path into the data of a spec, such as ``("compression", 0, "sparsity", 1)``; Pydantic's errors have the same form."""

KEYS = ("bare_key", "quoted_key", "dotted_key")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of one line."""

    file: Path
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    length: int
    """In characters; of something on several lines, the part on the first."""

    def problem(
        self,
        what: str,
        note: str = "",
        hint: str = "",
        severity: str = "error",
        code: ProblemCode = ProblemCode.OTHER,
    ) -> Problem:
        """Return a problem that underlines this part."""
        return Problem(
            what,
            self.file,
            self.line,
            self.column,
            self.length,
            note=note,
            hint=hint,
            severity=severity,
            code=code,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """A change of the command line, in place of a part of a file."""

    change: str
    """Such as ``models.0.dtype=float32``."""

    def problem(
        self,
        what: str,
        note: str = "",
        hint: str = "",
        severity: str = "error",
        code: ProblemCode = ProblemCode.OTHER,
    ) -> Problem:
        """Return a problem that names this change."""
        what = f"`--set {self.change}`: {what}"
        return Problem(what, note=note, hint=hint, severity=severity, code=code)


@dataclass(slots=True)
class Place:
    """Where a table, array or value is, with the places of everything in it."""

    key: Span | Setting | None = None
    """Its name, before ``=`` or in a table's header."""
    value: Span | Setting | None = None
    """Its value, or a table's header."""
    children: dict[str | int, "Place"] = field(default_factory=dict)
    kind: Literal["value", "table", "implicit table", "list of tables"] = "value"
    """An implicit table is named only in the headers of others, or by the command line. Each table of a list has a header of its own."""


def deepest(root: Place, loc: Loc) -> tuple[Place, Loc]:
    """Return the place of the deepest part of ``loc`` that is in the file, and the path to it.

    Parts that are not in the file are skipped: Pydantic names union members in its locations, and gives index 0 to a
    single value where a list is allowed.
    """
    place = root
    reached: Loc = ()
    for part in loc:
        child = place.children.get(part)
        if child is not None:
            place, reached = child, (*reached, part)
    return place, reached


def merged(base: Place, over: Place) -> Place:
    """Return the places of two merged specs: tables are merged, everything else is taken from ``over``."""
    # A table has children, all of them with names.
    if not all(
        place.children and all(isinstance(name, str) for name in place.children) for place in (base, over)
    ):
        return over
    children = dict(base.children)
    for name, child in over.children.items():
        children[name] = merged(children[name], child) if name in children else child
    first, second = (base, over) if over.kind == "implicit table" else (over, base)
    return Place(first.key or second.key, first.value or second.value, children)


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_toml.language()))


class Places:
    """Where everything in a TOML text is.

    Attributes:
        root: the places of the tables and keys.
        repeated: problems for keys and tables that are defined twice.
    """

    def __init__(self, text: str, file: Path) -> None:
        self._file = file
        data = text.encode()
        self._lines = data.split(b"\n")
        self._columns: dict[int, Sequence[int]] = {}
        """By row."""
        self.root = Place(kind="table")
        self.repeated: list[Problem] = []
        tree = _parser().parse(data).root_node
        for node in tree.children:
            if node.type == "pair":
                self._pair(node, self.root)
            elif node.type in ("table", "table_array_element"):
                self._table(node)

    def _span(self, first: Node, last: Node | None = None) -> Span:
        """Return the span from the start of one node to the end of another, or to the end of the first line."""
        row, start = first.start_point
        end_row, end = (last or first).end_point
        columns = self._columns_of(row)
        last_byte = len(columns) - 1
        column = columns[min(start, last_byte)]
        end_column = columns[min(end, last_byte) if end_row == row else last_byte]
        return Span(self._file, row + 1, column + 1, max(1, end_column - column))

    def _columns_of(self, row: int) -> Sequence[int]:
        """Return the characters before each byte of a line, and before its end."""
        if row not in self._columns:
            line = self._lines[row].rstrip(b"\r")
            begins = (
                (byte & 0xC0) != 0x80 for byte in line[1:]
            )  # in UTF-8, bytes with these bits continue a character
            counted = accumulate(begins, initial=1) if line else ()
            self._columns[row] = range(len(line) + 1) if line.isascii() else [0, *counted]
        return self._columns[row]

    def _table(self, node: Node) -> None:
        key = next((child for child in node.named_children if child.type in KEYS), None)
        if key is None:
            return
        closing = next((child for child in node.children if child.type in ("]", "]]")), key)
        header = self._span(node, closing)
        *above, last = _key_parts(key)
        place = self.root
        for part in above:
            place = self._into(place, part, header)
        place = self._enter(place, last, header, listed=node.type == "table_array_element")
        for child in node.named_children:
            if child.type == "pair":
                self._pair(child, place)

    def _into(self, place: Place, part: Node, header: Span | None) -> Place:
        """Return the table that a part of a header or dotted key names; it is made if it does not exist."""
        name, span = _name(part), self._span(part)
        child = place.children.get(name)
        if child is None:
            kind: Literal["table", "implicit table"] = "implicit table" if header else "table"
            child = place.children[name] = Place(span, header or span, kind=kind)
        elif child.kind == "value":
            self._repeat(child, name, span, "key")
            return Place(kind="table")
        return child.children[len(child.children) - 1] if child.kind == "list of tables" else child

    def _enter(self, place: Place, part: Node, header: Span, *, listed: bool) -> Place:
        """Return the place of the table that a header begins."""
        name, span = _name(part), self._span(part)
        child = place.children.get(name)
        new = Place(span, header, kind="table")
        if listed:
            if child is None or child.kind != "list of tables":
                self._repeat(child, name, span, "table")
                child = place.children[name] = Place(span, header, kind="list of tables")
            return child.children.setdefault(len(child.children), new)
        if child is None:
            place.children[name] = new
        elif child.kind == "implicit table":
            child.key, child.value, child.kind = span, header, "table"
            return child
        else:
            self._repeat(child, name, span, "table")
        return new

    def _pair(self, node: Node, place: Place) -> None:
        named = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if len(named) < 2:
            return
        *above, last = _key_parts(named[0])
        for part in above:
            place = self._into(place, part, None)
        name, span = _name(last), self._span(last)
        self._repeat(place.children.get(name), name, span, "key")
        place.children[name] = self._value(named[1], span)

    def _value(self, node: Node, key: Span | None) -> Place:
        place = Place(key, self._span(node))
        items = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if node.type == "array":
            place.children |= {index: self._value(item, None) for index, item in enumerate(items)}
        elif node.type == "inline_table":
            for item in items:
                self._pair(item, place)
        return place

    def _repeat(self, first: Place | None, name: str, span: Span, kind: Literal["key", "table"]) -> None:
        if first is not None:
            listed = kind == "table" and name in ("models", "compression")
            self.repeated.append(
                span.problem(
                    f"{kind} `{name}` is defined twice",
                    note=f"first in line {first.key.line}" if isinstance(first.key, Span) else "",
                    hint=f"write `[[{name}]]` for each of several" if listed else "",
                )
            )


def _key_parts(node: Node) -> Sequence[Node]:
    if node.type != "dotted_key":
        return [node]
    return [part for child in node.named_children for part in _key_parts(child)]


def _name(node: Node) -> str:
    text = (node.text or b"").decode(errors="replace")
    if node.type == "bare_key":
        return text
    try:
        return next(iter(toml.read(f"{text} = 0")))
    except TomlError:  # the text is no TOML, which is reported where its values are read
        return text
