"""What may be written at a place of a spec, in plain words: read from the Pydantic models, which are the only definition.

Messages, the reference and an editor's help all come from here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from studyctl.contract.methods import PAIR
from studyctl.spec.models import (
    TABLES,
    Calibration,
    CompressionTable,
    Evaluation,
    Execution,
    Fidelity,
    Model,
    Perplexity,
    Spec,
    Study,
    Table,
    TaskData,
    Tasks,
    TextSource,
    method_tag,
)
from studyctl.spec.positions import Loc

TABLES_BY_HEADER: tuple[tuple[str, type[Table]], ...] = (
    ("[study]", Study),
    ("[[models]]", Model),
    ("[calibration]", Calibration),
    ("[text.<name>]", TextSource),
    ("[evaluation]", Evaluation),
    ("[evaluation.perplexity]", Perplexity),
    ("[evaluation.fidelity]", Fidelity),
    ("[evaluation.tasks]", Tasks),
    ("[evaluation.tasks.data.<task>]", TaskData),
    ("[execution]", Execution),
)
"""All tables but the ``[[compression]]`` of each method."""

METHOD_NAMES = tuple(name for name in TABLES if name != PAIR)
"""What ``method`` may be, beside a pair such as ``["sparsegpt", "gptq"]``."""

PATTERNS = {
    r"^[A-Za-z0-9._-]+$": "letters, digits, `.`, `_` and `-`",
    r"^[A-Za-z0-9_-]+$": "letters, digits, `_` and `-`",
    r"^[1-9]\d*:[1-9]\d*$": 'n:m such as "2:4"',
}
"""What the patterns of the models ask for."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    description: str
    kind: str
    """What its value is: ``whole number``, ``text``, ``list of text``, ``table``."""
    bounds: str
    """``at least 2 and at most 8``, or an empty string."""
    choices: tuple[str, ...]
    """The words that are allowed, where only some are."""
    required: bool
    default: object
    swept: bool
    """Whether a list of values makes a variant of each."""

    @property
    def default_text(self) -> str:
        """Return the default as TOML writes it; empty where there is none to show."""
        empty = self.default in (None, "", (), {}) or isinstance(self.default, BaseModel)
        return "" if empty else shown(self.default)


@dataclass(frozen=True, slots=True)
class Type:
    """A type of a value: one of several, where a key takes several."""

    type: Any
    metadata: tuple[Any, ...] = ()

    @property
    def origin(self) -> Any:
        """Return ``tuple`` of ``tuple[int, ...]``, ``Literal`` of a literal, and so on."""
        return get_origin(self.type) or self.type

    @property
    def is_table(self) -> bool:
        """Return whether it is a table with fixed keys."""
        return isinstance(self.type, type) and issubclass(self.type, BaseModel)

    def bound(self, name: str) -> Any:
        """Return a bound such as ``ge``, or None where there is none."""
        bounds = [value for item in self.metadata if (value := getattr(item, name, None)) is not None]
        return bounds[-1] if bounds else None


@cache
def keys_of(table: type[BaseModel]) -> Mapping[str, Key]:
    """Return the keys of a table by name, in the order of the models."""
    if not issubclass(table, CompressionTable):
        return {name: _key(table, name, swept=False) for name in table.model_fields}
    *options, calibration, backend = table.sweepable()
    names = ("method", *options, "models", calibration, backend)  # what all methods have comes last
    return {name: _key(table, name, swept=name in table.sweepable()) for name in names}


def tables_at(loc: Loc, data: object) -> type[Table] | None:
    """Return the table that is at a place of a spec, or None where there is none (or it is open which)."""
    return next((option.type for option in types_at(loc, data) if option.is_table), None)


def key_at(loc: Loc, data: object) -> Key | None:
    """Return the key at a place, or of the list that the place is in."""
    for end in reversed(range(len(loc))):
        table = tables_at(loc[:end], data) if isinstance(loc[end], str) else None
        if table is not None:
            return keys_of(table).get(str(loc[end]))
    return None


def types_at(loc: Loc, data: object) -> tuple[Type, ...]:
    """Return the types that a value at a place may have; empty where nothing may be."""
    types: tuple[Type, ...] = (Type(Spec),)
    for part in loc:
        types = tuple(inner for option in types for inner in _inside(option, part, data))
        data = value_at((part,), data)
    return types


def shown(value: object) -> str:
    """Return a value as TOML writes it, long texts clipped."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= 40 else f'"{value[:39]}…"'
        case dict():
            return "{ " + ", ".join(f"{name} = {shown(item)}" for name, item in value.items()) + " }"
        case tuple() | list():
            return f"[{', '.join(map(shown, value))}]"
    return str(value)


def last_key(loc: Loc) -> str:
    """Return the key that a place is at, or in whose list it is."""
    return next((part for part in reversed(loc) if isinstance(part, str)), "")


def holds(data: object, part: str | int) -> bool:
    """Return whether a table has this key, or a list this index."""
    return part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ())


def value_at(loc: Loc, data: Any) -> Any:
    """Return the value at a place, or None where there is none."""
    for part in loc:
        if not holds(data, part):
            return None
        data = data[part]
    return data


def _inside(option: Type, part: str | int, data: object) -> Iterator[Type]:
    arguments = get_args(option.type)
    if option.is_table and isinstance(part, str):
        field = option.type.model_fields.get(part)
        if field is not None:
            yield from types_of(field)
    elif option.origin is dict and isinstance(part, str):
        yield from options_in(arguments[1])
    elif option.origin is tuple and isinstance(part, int):
        item = arguments[0] if arguments[-1] is ... else arguments[min(part, len(arguments) - 1)]
        if TABLES["wanda"] in [member.type for member in options_in(item)]:
            table = TABLES.get(method_tag(value_at((part,), data)))
            yield from [Type(table)] if table else []
        else:
            yield from options_in(item)


def types_of(field: FieldInfo) -> tuple[Type, ...]:
    """Return the types that a field takes, ``None`` left out: TOML has none."""
    return tuple(options_in(field.annotation, tuple(field.metadata)))


def options_in(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[Type]:
    """Yield the members of a union, or the one type that it is, each with its bounds."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        for item in more:
            metadata += tuple(item.metadata) if isinstance(item, FieldInfo) else (item,)
        yield from options_in(inner, metadata)
    elif origin in (Union, UnionType):
        for argument in get_args(annotation):
            yield from options_in(argument, metadata)
    elif annotation is not NoneType:
        yield Type(annotation, metadata)


def _key(table: type[BaseModel], name: str, *, swept: bool) -> Key:
    field = table.model_fields[name]
    types = types_of(field)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if swept:
        types = tuple(options_in(get_args(field.annotation)[0]))
        default = default[0] if default else None
    return Key(
        name=name,
        description=field.description or "",
        kind=kinds(types),
        bounds=bounds(types),
        choices=choices_of(types),
        required=field.is_required(),
        default=default,
        swept=swept,
    )


def choices_of(types: tuple[Type, ...]) -> tuple[str, ...]:
    """Return the words that literals among these types allow, also inside a list."""
    words: list[str] = []
    for option in types:
        if option.origin is Literal:
            words += map(str, get_args(option.type))
        elif option.origin is tuple:
            items = [inner for item in get_args(option.type) if item is not ... for inner in options_in(item)]
            words += choices_of(tuple(items))
    return tuple(words)


def kinds(types: tuple[Type, ...]) -> str:
    """Return what a value is: ``text or table of text``."""
    return " or ".join(dict.fromkeys(_kind(option) for option in types))


def _kind(option: Type) -> str:
    if option.origin in (tuple, dict):
        first, last = get_args(option.type)
        if option.origin is tuple and last is not ...:
            return "pair"
        items = kinds(tuple(options_in(last if option.origin is dict else first)))
        plural = re.sub(r"(table|number|text)\b", r"\1s", items)
        return f"{'table' if option.origin is dict else 'list'} of {plural}"
    if option.is_table:
        return "table"
    return {int: "whole number", float: "number", bool: "true or false"}.get(option.type, "text")


def bounds(types: tuple[Type, ...]) -> str:
    """Return the bounds of a number or of a list's items: ``at least 2 and at most 8``."""
    for option in types:
        if option.type in (int, float):
            return _number_bounds(option)
        if option.origin is tuple and get_args(option.type)[-1] is ...:
            return bounds(tuple(options_in(get_args(option.type)[0])))
        if (pattern := option.bound("pattern")) in PATTERNS:
            return PATTERNS[pattern]
    return ""


def _number_bounds(option: Type) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return " and ".join(
        f"{word} {value:g}" if abs(value) < 1e6 else f"{word} {value}"
        for name, word in words.items()
        if (value := option.bound(name)) is not None
    )
