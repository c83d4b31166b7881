"""What could be written at a place in a query: tables, columns, functions and keywords, the likeliest first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from studyctl.completions import Completions, Item
from studyctl.sql.scope import Column, Reader, Scope, Source
from studyctl.sql.text import CLAUSES, OF_TABLES, Place, Token, place_of
from studyctl.sql.vocabulary import Function, Vocabulary, quoted
from studyctl.store.session import CatalogTable

MOST = 200
"""Number of items that are offered; more letters bring the others."""
CONTAINED = 3
"""Letters from which a name that only contains them is offered, too."""
FIRST = ("select", "from", "with", "describe", "summarize", "pivot", "show", "explain", "create")
"""Keywords that begin a statement, the common ones first."""
SUBQUERY = ("select", "from", "with", "values")
OF_WINDOW = ("partition by", "order by", "rows", "range", "groups")
"""Keywords that begin what is in the brackets of OVER."""
NEXT = (
    *("from", "where", "group by", "order by", "join", "left join", "on", "using", "as", "limit", "having", "qualify", "and"),
    *("or", "not", "in", "is", "like", "ilike", "between", "over", "filter", "desc", "asc", "nulls", "when", "then", "else"),
    *("end", "select", "with", "union", "union all", "intersect", "except", "window", "offset", "exclude", "replace", "inner"),
    *("full", "right", "cross", "natural", "asof", "semi", "anti", "positional", "glob", "similar", "tablesample", "sample"),
    *("pivot", "unpivot", "rows", "range", "partition by", "collate", "recursive", "materialized", "by", "first", "last"),
)  # fmt: skip
"""Keywords that go on after a name or a value, the common ones first: there, others could only be the beginning of a new name."""
VALUES = frozenset({"null", "true", "false", "end", "asc", "desc", "nulls", "first", "last"})
"""Keywords that are, or end, a value."""
NAMING = frozenset({"as", "with", "recursive"})
"""Keywords that a new name follows."""
UNFINISHED = frozenset(
    {"group", "order", "partition", "left", "right", "inner", "outer", "full", "cross", "union"}
)
"""Keywords that another one follows."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """Something that could be written."""

    label: str
    note: str = ""
    end: str = ""
    """What is written behind it."""
    is_name: bool = False
    """Whether it may need quotes; else it takes the case of what is typed."""

    def item(self, typed: str) -> Item:
        if self.is_name:
            return Item(self.label, quoted(self.label), self.note)
        text = self.label.upper() if len(typed) > 1 and typed.isupper() else self.label
        return Item(self.label, text + self.end, self.note)


@dataclass(frozen=True)
class Catalog:
    """What a study's queries can name."""

    tables: tuple[CatalogTable, ...]
    words: Vocabulary

    @cached_property
    def reader(self) -> Reader:
        """What finds the tables and columns of a query."""
        sources = (
            Source(
                table.name,
                tuple(Column(c.name, f"{c.type.lower()}  {c.comment}".strip()) for c in table.columns),
            )
            for table in self.tables
        )
        return Reader({source.name.lower(): source for source in sources}, frozenset(self.words.reserved))

    @cached_property
    def columns(self) -> tuple[_Offer, ...]:
        """The columns of all tables, each once, with the names of the tables that have it."""
        owners: dict[str, list[str]] = {}
        for table in self.tables:
            for column in table.columns:
                owners.setdefault(column.name, []).append(table.name)
        return tuple(_Offer(name, f"of {', '.join(tables)}", is_name=True) for name, tables in owners.items())

    @cached_property
    def column_keywords(self) -> frozenset[str]:
        """Keywords that are names of columns, too."""
        return frozenset(column.label for column in self.columns) & frozenset(self.words.keywords)

    @cached_property
    def about(self) -> dict[str, str]:
        """A few words on each table, by its name in lower case."""
        return {
            table.name.lower(): f"{'view' if table.view else 'table'}  {table.comment}"
            for table in self.tables
        }

    @cached_property
    def keywords(self) -> tuple[_Offer, ...]:
        """All keywords, those first that are nothing else."""
        return tuple(map(_Offer, (*self.words.reserved, *self.words.keywords)))

    @cached_property
    def functions(self) -> tuple[_Offer, ...]:
        """The functions that return a value."""
        return tuple(_call(function) for function in self.words.functions if not function.rows)

    @cached_property
    def row_functions(self) -> tuple[_Offer, ...]:
        """The functions that stand where a table does."""
        return tuple(_call(function) for function in self.words.functions if function.rows)


def _call(function: Function) -> _Offer:
    return _Offer(function.name, f"({', '.join(function.parameters)})  {function.about}".strip(), end="(")


def complete(text: str, row: int, column: int, catalog: Catalog) -> Completions:
    """Return the completions at a place; row and column count from 0. None in strings, comments, and where a new name is due."""
    lines = text.split("\n")
    begin = sum(len(line) + 1 for line in lines[:row])
    place = place_of(text, begin + column)
    if place is None or place.start < begin:  # or in quotes that began on a line above
        return Completions(column, column, ())
    scope = catalog.reader.scope(place.path)
    items = _fitting(place.typed, _offers(place, scope, catalog), in_quotes=place.in_quotes)
    return Completions(place.start - begin, place.end - begin, tuple(items)[:MOST])


def _fitting(typed: str, offers: Iterable[_Offer], *, in_quotes: bool) -> Iterator[Item]:
    """Yield the offers that begin with what is typed, then the names that contain it; each once."""
    start = typed.lower()
    containing: dict[str, _Offer] = {}
    seen: set[str] = set()
    for offer in offers:
        label = offer.label.lower()
        if (in_quotes and not offer.is_name) or label in seen:
            continue
        if label.startswith(start):
            seen.add(label)
            yield offer.item(typed)
        elif offer.is_name and len(typed) >= CONTAINED and start in label:
            containing.setdefault(label, offer)
    for label, offer in containing.items():
        if label not in seen:
            yield offer.item(typed)


def _offers(place: Place, scope: Scope, catalog: Catalog) -> Iterator[_Offer]:
    """Yield what could be written, the likeliest first."""
    before = place.before
    last = before[-1] if before else None
    bracket_of = before[-2].word if last is not None and last.text == "(" and len(before) > 1 else ""
    if last is None or last.word == "explain":
        yield from (*map(_Offer, FIRST), *catalog.keywords)
    elif last.text == ".":
        yield from _members(before, scope, catalog)
    elif last.word in NAMING or last.text == "::" or (last.text == "," and _clause(before) == "with"):
        return
    elif bracket_of == "over":
        yield from map(_Offer, OF_WINDOW)
    elif bracket_of in OF_TABLES or _is_table_due(before):
        yield from _tables(scope, catalog)
        yield from map(_Offer, SUBQUERY if bracket_of else ())
    elif _goes_on(before, catalog):
        yield from map(_Offer, NEXT)
    else:
        yield from map(_Offer, SUBQUERY if bracket_of in ("as", "in", "exists", "materialized") else ())
        yield from _values(scope, catalog)


def _clause(before: Sequence[Token]) -> str:
    """Return the word that began the clause at the end of these tokens, within its brackets; empty if none did."""
    depth = 0
    for token in reversed(before):
        if token.text in (")", "]", "}"):
            depth += 1
        elif token.text in ("(", "[", "{"):
            depth -= 1
            if depth < 0:
                return ""
        elif depth == 0 and token.word in CLAUSES:
            return token.word
    return ""


def _is_table_due(before: Sequence[Token]) -> bool:
    """Whether a table comes after these tokens."""
    last = before[-1]
    if last.text == ",":
        return _clause(before) in OF_TABLES
    return last.word in OF_TABLES and [token.word for token in before[-2:-1]] != ["distinct"]


def _goes_on(before: Sequence[Token], catalog: Catalog) -> bool:
    """Whether the last token ends a name or a value, so that only some keywords can follow."""
    last = before[-1]
    if last.kind in ("quoted", "string", "number") or last.text in (")", "]", "}"):
        return True
    if last.text == "*":
        return len(before) > 1 and (
            before[-2].word in ("select", "distinct") or before[-2].text in (",", "(", ".")
        )
    if not last.word:
        return False
    if len(before) > 1 and (before[-2].word == "as" or before[-2].text == "."):
        return True
    words = catalog.words
    is_keyword = last.word in words.reserved or (
        last.word in words.keywords and last.word not in catalog.column_keywords
    )
    return not is_keyword or last.word in VALUES or last.word in UNFINISHED


def _members(before: Sequence[Token], scope: Scope, catalog: Catalog) -> Iterable[_Offer]:
    """Return the columns of the table before the dot; all columns if that may still be written."""
    owner = before[-2].name if len(before) > 1 else ""
    sources = (source for source in (*scope.sources, *scope.tables.values()) if source.name.lower() == owner)
    source = next(sources, None) if owner else None
    if source is not None:
        return _columns(source)
    return catalog.columns if owner and scope.is_open else ()


def _columns(source: Source) -> Iterator[_Offer]:
    return (_Offer(column.name, column.note, is_name=True) for column in source.columns)


def _tables(scope: Scope, catalog: Catalog) -> Iterator[_Offer]:
    defined = [name for name in scope.tables if name not in catalog.about]
    for name in (*defined, *catalog.about):
        yield _Offer(scope.tables[name].name, catalog.about.get(name, "with"), is_name=True)
    yield from catalog.row_functions


def _values(scope: Scope, catalog: Catalog) -> Iterator[_Offer]:
    for source in scope.sources:
        yield from _columns(source)
    yield from (_Offer(name, "as", is_name=True) for name in scope.aliases)
    yield from (_Offer(source.name, "table", is_name=True) for source in scope.sources if source.name)
    if scope.is_open:
        for name, table in scope.tables.items():
            if name not in catalog.about:
                yield from _columns(table)
        yield from catalog.columns
    yield from catalog.functions
    yield from catalog.keywords
    yield from catalog.columns
