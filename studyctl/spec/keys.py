"""The keys and types allowed at a place of a spec, in plain words, read from the Pydantic models that define them.

Messages, the reference and an editor's help all come from here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from studyctl.contract.methods import ON_GGUF, PAIR
from studyctl.spec.models import TABLES, CompressionTable, Spec, Table, method_tag
from studyctl.spec.positions import Loc
from studyctl.units import bytes_text

_root: ContextVar[type[Table]] = ContextVar("root", default=Spec)
"""What describes the whole file."""
METHOD_NAMES = tuple(name for name in TABLES if name != PAIR and not name.endswith(ON_GGUF))
"""What ``method`` may be; it may also be a pair such as ``["sparsegpt", "gptq"]``."""

PATTERNS = {
    r"^[A-Za-z0-9._-]+$": "letters, digits, `.`, `_` and `-`",
    r"^[A-Za-z0-9_-]+$": "letters, digits, `_` and `-`",
    r"^[1-9]\d*:[1-9]\d*$": 'n:m such as "2:4"',
}
"""The models' regular expressions in words."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    description: str
    kind: str
    """The type of its value: ``whole number``, ``text``, ``list of texts``, ``table``."""
    bounds: str
    """``at least 2 and at most 8``, or an empty string."""
    choices: tuple[str, ...]
    """The allowed words; empty if any are allowed."""
    required: bool
    default: object
    swept: bool
    """Whether a list of values makes a variant for each."""

    @property
    def default_text(self) -> str:
        """Return the default in TOML syntax; empty if there is none to show."""
        empty = self.default in (None, "", (), {}) or isinstance(self.default, BaseModel)
        return "" if empty else shown(self.default)


@dataclass(frozen=True, slots=True)
class Type:
    """One of the types that a value may have."""

    type: Any
    metadata: tuple[Any, ...] = ()

    @property
    def origin(self) -> Any:
        """Return ``tuple`` for ``tuple[int, ...]``, ``Literal`` for a literal, and so on."""
        return get_origin(self.type) or self.type

    @property
    def is_table(self) -> bool:
        """Return whether it is a table with fixed keys."""
        return isinstance(self.type, type) and issubclass(self.type, BaseModel)

    @property
    def names(self) -> "tuple[Type, ...]":
        """Return the types of the keys of a table whose keys are the user's own names."""
        return types_in(get_args(self.type)[0]) if self.origin is dict else ()

    @property
    def items(self) -> "tuple[Type, ...]":
        """Return the types of the items of a list, or of the values of a table whose keys are the user's own names."""
        arguments = get_args(self.type)
        if self.origin is dict:
            return types_in(arguments[1])
        items = [item for item in arguments if item is not ...] if self.origin is tuple else []
        return tuple(inner for item in items for inner in types_in(item))

    def bound(self, name: str) -> Any:
        """Return the bound of this name, such as ``ge``; None if there is none."""
        bounds = [value for item in self.metadata if (value := getattr(item, name, None)) is not None]
        return bounds[-1] if bounds else None


def types_in(annotation: Any, metadata: Iterable[Any] = ()) -> tuple[Type, ...]:
    """Return the members of a union, or the single type, each with its bounds; without None, which TOML does not have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        flat = [item.metadata if isinstance(item, FieldInfo) else (item,) for item in more]
        return types_in(inner, (*metadata, *chain.from_iterable(flat)))
    if origin in (Union, UnionType):
        return tuple(chain.from_iterable(types_in(argument, metadata) for argument in get_args(annotation)))
    return () if annotation is NoneType else (Type(annotation, tuple(metadata)),)


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@cache
def keys_of(table: type[BaseModel]) -> Mapping[str, Key]:
    """Return the keys of a table by name, in the order of the models."""
    if not issubclass(table, CompressionTable):
        return {name: _key(table, name, swept=False) for name in table.model_fields}
    *options, calibration, backend = table.sweepable()
    names = ("method", *options, "models", calibration, backend)  # keys that all methods have come last
    return {name: _key(table, name, swept=name in table.sweepable()) for name in names}


def tables_at(loc: Loc, data: object) -> type[Table] | None:
    """Return the table at a place of a spec; None if there is none or its method is unknown."""
    return next((option.type for option in types_at(loc, data) if option.is_table), None)


@contextmanager
def described_by(root: type[Table]) -> Iterator[None]:
    """Take data for that of another kind of file than a spec, such as a profile."""
    token = _root.set(root)
    try:
        yield
    finally:
        _root.reset(token)


def key_at(loc: Loc, data: object) -> Key | None:
    """Return the key at a place, or the key of the list that the place is in."""
    for end in reversed(range(len(loc))):
        table = tables_at(loc[:end], data) if isinstance(loc[end], str) else None
        if table is not None:
            return keys_of(table).get(str(loc[end]))
    return None


def types_at(loc: Loc, data: object) -> tuple[Type, ...]:
    """Return the types that a value at a place may have; empty if none is allowed there."""
    types: tuple[Type, ...] = (Type(_root.get()),)
    for part in loc:
        types = tuple(inner for option in types for inner in _inside(option, part, data))
        data = value_at((part,), data)
    return types


def shown(value: object) -> str:
    """Return a value in TOML syntax, long texts clipped."""
    match value:
        case bool():
            return str(value).lower()
        case ByteSize():
            return f'"{bytes_text(value)}"'
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
        case str():
            return f'"{value}"' if len(value) <= 40 else f'"{value[:39]}…"'
        case dict():
            return "{ " + ", ".join(f"{name} = {shown(item)}" for name, item in value.items()) + " }"
        case tuple() | list():
            return f"[{', '.join(map(shown, value))}]"
    return str(value)


def last_key(loc: Loc) -> str:
    """Return the name of the key at a place, or of the list that the place is in."""
    return next((part for part in reversed(loc) if isinstance(part, str)), "")


def holds(data: object, part: str | int) -> bool:
    """Return whether a table has this key, or a list this index."""
    return part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ())


def value_at(loc: Loc, data: Any) -> Any:
    """Return the value at a place; None if there is none."""
    for part in loc:
        if not holds(data, part):
            return None
        data = data[part]
    return data


def _inside(option: Type, part: str | int, data: object) -> tuple[Type, ...]:
    """Return the types of what is at a key or an index of a value of this type."""
    if option.is_table:
        field = option.type.model_fields.get(part)
        return types_in(field.annotation, field.metadata) if field else ()
    if option.origin is not (dict if isinstance(part, str) else tuple):
        return ()
    if TABLES["wanda"] in [item.type for item in option.items]:
        table = TABLES.get(method_tag(value_at((part,), data)))
        return (Type(table),) if table else ()
    if _is_pair(option):
        return types_in(get_args(option.type)[min(int(part), 1)])
    return option.items


def _is_pair(option: Type) -> bool:
    return option.origin is tuple and get_args(option.type)[-1] is not ...


def is_swapped(method: object) -> TypeGuard[list[str]]:
    """Return whether a pair of methods is one that quantizes, then one that prunes."""
    if not isinstance(method, list) or len(method) != 2:
        return False
    pair = types_in(TABLES[PAIR].model_fields["method"].annotation)[0]
    prune, quantize = map(get_args, get_args(pair.type))
    return method[0] in quantize and method[1] in prune


def _key(table: type[BaseModel], name: str, *, swept: bool) -> Key:
    field = table.model_fields[name]
    types = types_in(field.annotation, field.metadata)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if swept:
        types, default = types[0].items, default[0] if default else None
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


def choices_of(types: Iterable[Type]) -> tuple[str, ...]:
    """Return the texts that literals among these types, or inside their lists, allow."""
    words: list[str] = []
    for option in types:
        if option.origin is Literal:
            words += [word for word in get_args(option.type) if isinstance(word, str)]
        elif option.origin is tuple:
            words += choices_of(option.items)
    return tuple(words)


def kinds(types: Iterable[Type]) -> str:
    """Return the types in words: ``text or table of texts``."""
    return " or ".join(dict.fromkeys(_kind(option) for option in types))


def _kind(option: Type) -> str:
    if _is_pair(option):
        return "pair"
    if option.origin in (tuple, dict):
        plural = re.sub(r"(table|number|text)\b", r"\1s", kinds(option.items))
        return f"{'table' if option.origin is dict else 'list'} of {plural}"
    if option.is_table:
        return "table"
    if option.origin is Literal and isinstance(get_args(option.type)[0], int):
        return "whole number"
    names = {int: "whole number", float: "number", bool: "true or false", ByteSize: "size"}
    return names.get(option.type, "text")


def bounds(types: Iterable[Type]) -> str:
    """Return the bounds of a number or of a list's items: ``at least 2 and at most 8``."""
    for option in types:
        if option.type in (int, float):
            numbers = [(words, option.bound(name)) for name, words in _BOUNDS.items()]
            return " and ".join(
                f"{words} {number:g}" if abs(number) < 1e6 else f"{words} {number}"
                for words, number in numbers
                if number is not None
            )
        if option.origin is tuple and not _is_pair(option):
            return bounds(option.items)
        if _kind(option) == "whole number":  # a literal
            return " or ".join(map(str, get_args(option.type)))
        if (pattern := option.bound("pattern")) in PATTERNS:
            return PATTERNS[pattern]
    return ""
