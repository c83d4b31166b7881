"""Where the keys and values of a TOML text are, so that a problem can be shown at its place.

Values come from the parser; this module reads the same text with tree-sitter and keeps the places only. Places survive
in texts that are no TOML (yet): what could be read has its place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from studyctl import toml
from studyctl.errors import Problem, ProblemCode
from studyctl.toml import TomlError

Loc = tuple[str | int, ...]
"""A way into the data of a spec, such as ``("compression", 0, "sparsity", 1)``; pydantic's errors have the same form."""

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
    """In characters; of the first line, if there are more."""

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


@dataclass(slots=True)
class Place:
    """Where one table, array or value is, and everything in it."""

    key: Span | None = None
    """The name, in front of ``=`` or in a table's header."""
    value: Span | None = None
    """The value, or the header of a table."""
    children: dict[str | int, "Place"] = field(default_factory=dict)
    table: bool = False
    """Something that headers and dotted keys may add to."""
    open: bool = False
    """A table that has no header of its own yet."""
    listed: bool = False
    """An array of tables, each with a header of its own."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A key or a table that is there twice."""

    name: str
    again: Span
    first: Span | None
    table: bool


@dataclass(frozen=True, slots=True)
class Located:
    """The places of a text."""

    root: Place
    repeated: tuple[Repeated, ...]
    broken: tuple[Span, ...]
    """What could not be read as TOML."""


def locate(text: str, file: Path) -> Located:
    """Return where everything in a TOML text is."""
    return _Reader(text, file).read()


def deepest(root: Place, loc: Loc) -> tuple[Place, Loc]:
    """Return the place of the deepest part of ``loc`` that is in the file, and that part.

    What is not in the file is skipped over when something behind it is: pydantic names union members in its locations,
    and a single value where a list may be has index 0.
    """
    place = root
    found: Loc = ()
    for part in loc:
        child = place.children.get(part)
        if child is not None:
            place, found = child, (*found, part)
    return place, found


def merged(base: Place, over: Place) -> Place:
    """Return the places of two merged specs: tables are merged, everything else is taken from ``over``."""
    if not (_is_table(base) and _is_table(over)):
        return over
    children = dict(base.children)
    for name, child in over.children.items():
        children[name] = merged(children[name], child) if name in children else child
    return Place(over.key or base.key, over.value or base.value, children)


def _is_table(place: Place) -> bool:
    return bool(place.children) and all(isinstance(name, str) for name in place.children)


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_toml.language()))


class _Reader:
    def __init__(self, text: str, file: Path) -> None:
        self.file = file
        self.data = text.encode()
        self.lines = self.data.split(b"\n")
        self.root = Place(table=True)
        self.repeated: list[Repeated] = []

    def read(self) -> Located:
        tree = _parser().parse(self.data).root_node
        for node in tree.children:
            if node.type == "pair":
                self._pair(node, self.root)
            elif node.type in ("table", "table_array_element"):
                self._table(node)
        broken = tuple(self.span(node) for node in _errors(tree))
        return Located(self.root, tuple(self.repeated), broken)

    def span(self, first: Node, last: Node | None = None) -> Span:
        """Return the span from the start of one node to the end of another, at most to the end of the line."""
        row, start = first.start_point
        end_row, end = (last or first).end_point
        line = self.lines[row].rstrip(b"\r")
        column = len(line[:start].decode(errors="replace"))
        end_column = len(line[: end if end_row == row else len(line)].decode(errors="replace"))
        return Span(self.file, row + 1, column + 1, max(1, end_column - column))

    def _table(self, node: Node) -> None:
        key = next((child for child in node.named_children if child.type in KEYS), None)
        if key is None:
            return
        closing = next((child for child in node.children if child.type in ("]", "]]")), key)
        header = self.span(node, closing)
        *above, last = _key_parts(key)
        place = self.root
        for part in above:
            place = self._into(place, part, header)
        place = self._enter(place, last, header, listed=node.type == "table_array_element")
        for child in node.named_children:
            if child.type == "pair":
                self._pair(child, place)

    def _into(self, place: Place, part: Node, header: Span | None) -> Place:
        """Return the table that a part of a header or dotted key names, making it where it is not there yet."""
        name = _name(part)
        child = place.children.get(name)
        if child is None:
            span, made_by_header = self.span(part), header is not None
            child = place.children[name] = Place(span, header or span, table=True, open=made_by_header)
        elif not child.table and not child.listed:
            self._note_repetition(child, name, self.span(part), table=False)
            return Place(table=True)
        return child.children[len(child.children) - 1] if child.listed else child

    def _enter(self, place: Place, part: Node, header: Span, *, listed: bool) -> Place:
        name, span = _name(part), self.span(part)
        there = place.children.get(name)
        if listed:
            if there is None or not there.listed:
                self._note_repetition(there, name, span, table=True)
                there = place.children[name] = Place(span, header, listed=True)
            return there.children.setdefault(len(there.children), Place(span, header, table=True))
        if there is None:
            there = place.children[name] = Place(span, header, table=True)
        elif there.open:
            there.key, there.value, there.open = span, header, False
        else:
            self._note_repetition(there, name, span, table=True)
            return Place(span, header)  # apart, so that its keys are not repetitions too
        return there

    def _pair(self, node: Node, place: Place) -> None:
        named = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if len(named) < 2:
            return
        *above, last = _key_parts(named[0])
        for part in above:
            place = self._into(place, part, None)
        name = _name(last)
        self._note_repetition(place.children.get(name), name, self.span(last), table=False)
        place.children[name] = self._value(named[1], self.span(last))

    def _value(self, node: Node, key: Span | None) -> Place:
        place = Place(key, self.span(node))
        items = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
        if node.type == "array":
            for index, item in enumerate(items):
                place.children[index] = self._value(item, None)
        elif node.type == "inline_table":
            for item in items:
                self._pair(item, place)
        return place

    def _note_repetition(self, there: Place | None, name: str, again: Span, *, table: bool) -> None:
        if there is not None:
            self.repeated.append(Repeated(name, again, there.key, table))


def _errors(node: Node) -> Iterator[Node]:
    if node.is_error or node.is_missing:
        yield node
    elif node.has_error:
        for child in node.children:
            yield from _errors(child)


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
