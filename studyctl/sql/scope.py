"""Which tables and columns a query can name at a place: of the tables in FROM, of subqueries, and of what WITH defines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from studyctl.sql.text import CLAUSES, CURSOR, OF_TABLES, SET_OPERATORS, Group, Part


@dataclass(frozen=True, slots=True)
class Column:
    """A column with a few words on it."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A table of a query, under the name that it has there."""

    name: str
    columns: tuple[Column, ...]

    def __getitem__(self, name: str) -> Column | None:
        """Return a column by its name in lower case."""
        return next((column for column in self.columns if column.name.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a place in a query knows."""

    sources: tuple[Source, ...]
    """The tables of the query around it, then those of the queries around that."""
    tables: Mapping[str, Source]
    """Every table, by its name in lower case: those of the catalog, and what WITH defines."""
    aliases: tuple[str, ...]
    """Names that the query around it gives to values."""
    is_open: bool
    """Whether that query has no table yet."""


class Reader:
    """Reads groups with the catalog at hand."""

    def __init__(self, tables: Mapping[str, Source], reserved: frozenset[str]) -> None:
        self._tables = tables
        self._reserved = reserved

    def scope(self, path: Sequence[Group]) -> Scope:
        """Return what the innermost group of a path knows."""
        tables = dict(self._tables)
        sources: list[Source] = []
        aliases: tuple[str, ...] = ()
        is_open = True
        for group, inner in zip(path, [*path[1:], None], strict=True):
            tables |= self._defined(group.parts, tables)
            query = next(
                query for query in _queries(group.parts) if any(p is CURSOR or p is inner for p in query)
            )
            if any(part.word in CLAUSES for part in query):  # else it is a list of arguments
                own = self._sources(query, tables)
                sources, aliases, is_open = [*own, *sources], tuple(_aliases(query)), not own
        return Scope(tuple(sources), tables, aliases, is_open)

    def _defined(self, parts: Sequence[Part], tables: Mapping[str, Source]) -> dict[str, Source]:
        """Return what WITH defines."""
        defined: dict[str, Source] = {}
        for at, part in enumerate(parts):
            if isinstance(part, Group) and (head := _head(parts[:at])) is not None:
                name, listed = head
                named = tuple(Column(name) for name in listed)
                defined[name.lower()] = Source(name, named or self._results(part, {**tables, **defined}))
        return defined

    def _results(self, group: Group, tables: Mapping[str, Source]) -> tuple[Column, ...]:
        """Return the columns of a subquery."""
        tables = {**tables, **self._defined(group.parts, tables)}
        query = next(_queries(group.parts))
        sources = self._sources(query, tables)
        everything = tuple(column for source in sources for column in source.columns)
        words = [part.word for part in query]
        if "select" not in words:
            return everything if "from" in words and not {"pivot", "unpivot"} & set(words) else ()
        first = words.index("select") + 1
        last = next((at for at in range(first, len(words)) if words[at] in CLAUSES), len(words))
        columns: dict[str, Column] = {}
        for value in _split(query[first:last]):
            for column in _named(value, sources, everything):
                columns.setdefault(column.name, column)
        return tuple(columns.values())

    def _sources(self, query: Sequence[Part], tables: Mapping[str, Source]) -> list[Source]:
        """Return the tables of one query."""
        sources: list[Source] = []
        of_tables = expected = False
        for at, part in enumerate(query):
            if part.word in CLAUSES or part.word == "lateral":
                of_tables = expected = part.word in OF_TABLES and not _compares(query[:at])
            elif part.text == ",":
                expected = of_tables
            elif expected and (isinstance(part, Group) or part.name):
                sources.append(self._source(query[at:], tables))
                expected = False
        return sources

    def _source(self, parts: Sequence[Part], tables: Mapping[str, Source]) -> Source:
        """Return the table that these parts begin with."""
        table = parts[0]
        at = 1
        while at + 1 < len(parts) and parts[at].text == ".":
            table = parts[at + 1]
            at += 2
        if isinstance(table, Group):
            source = Source("", self._results(table, tables))
        else:
            source = tables.get(table.name, Source(table.label, ()))
        while at < len(parts) and isinstance(parts[at], Group):
            at += 1  # the arguments of a function
            source = Source("", ())
        if at < len(parts) and parts[at].word == "as":
            at += 1
        if at < len(parts) and parts[at].name and parts[at].word not in self._reserved:
            alias = parts[at]
            listed = parts[at + 1] if at + 1 < len(parts) else None
            columns = tuple(map(Column, _names(listed))) if isinstance(listed, Group) else source.columns
            return Source(alias.label, columns)
        return source


def _queries(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield the queries between UNION and the like; there is always one."""
    query: list[Part] = []
    for part in parts:
        if part.word in SET_OPERATORS:
            yield query
            query = []
        else:
            query.append(part)
    yield query


def _head(before: Sequence[Part]) -> tuple[str, list[str]] | None:
    """Return the name and the columns that WITH gives to a group that comes after these parts; None: it does not."""
    parts = list(before)
    while parts and parts[-1].word in ("not", "materialized"):
        parts.pop()
    if len(parts) < 2 or parts.pop().word != "as":
        return None
    listed = _names(parts.pop()) if isinstance(parts[-1], Group) else []
    if len(parts) < 2 or not parts[-1].name:
        return None
    begins = parts[-2].word in ("with", "recursive") or parts[-2].text == ","
    clauses = [part.word for part in parts if part.word in CLAUSES]
    return (parts[-1].label, listed) if begins and clauses[-1:] == ["with"] else None


def _names(part: Part) -> list[str]:
    """Return the names in a group."""
    parts = part.parts if isinstance(part, Group) else []
    return [part.label for part in parts if part.name]


def _compares(before: Sequence[Part]) -> bool:
    """Whether FROM after these parts is that of ``IS DISTINCT FROM``."""
    words = [part.word for part in before[-2:]]
    return words[-1:] == ["distinct"] and words[0] in ("is", "not")


def _split(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield what stands between commas."""
    value: list[Part] = []
    for part in parts:
        if part.text == ",":
            yield value
            value = []
        else:
            value.append(part)
    yield value


def _named(
    value: Sequence[Part], sources: Sequence[Source], everything: tuple[Column, ...]
) -> Iterator[Column]:
    """Yield the columns that a value of SELECT makes, as far as they have names."""
    parts = [part for part in value if part is not CURSOR and part.word not in ("distinct", "all")]
    if not parts:
        return
    star = next((at for at, part in enumerate(parts[:3]) if part.text == "*"), None)
    if star in (0, 2) and (star == 0 or parts[1].text == "."):
        owner = "" if star == 0 else parts[0].name
        left_out = {name.lower() for part in parts[star + 1 :] for name in _names(part)}
        columns = (
            everything if not owner else (c for s in sources if s.name.lower() == owner for c in s.columns)
        )
        yield from (column for column in columns if column.name.lower() not in left_out)
        return
    last = parts[-1]
    if not last.name:
        return
    before = parts[-2] if len(parts) > 1 else None
    if before is None or before.text == ".":
        yield next((column for source in sources if (column := source[last.name])), Column(last.label))
    elif isinstance(before, Group) or before.kind != "mark":
        yield Column(last.label)


def _aliases(query: Sequence[Part]) -> Iterator[str]:
    """Yield the names that follow AS."""
    for before, part in pairwise(query):
        if before.word == "as" and part.name:
            yield part.label
