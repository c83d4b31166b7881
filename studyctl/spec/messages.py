"""Pydantic's errors in plain words, at places that are in the file.

Pydantic's locations also name union members (the method's tag, ``dict[str, str]``), and have index 0 for a single value where a
list is allowed. Parts that the file does not have are dropped. Of the errors of several union members, only those of the member
that was meant are kept.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

from studyctl.contract.methods import ON_GGUF
from studyctl.errors import closest, did_you_mean
from studyctl.spec.keys import (
    METHOD_NAMES,
    PATTERNS,
    choices_of,
    holds,
    key_at,
    keys_of,
    kinds,
    last_key,
    shown,
    tables_at,
    types_at,
    value_at,
)
from studyctl.spec.models import TABLES, TABLES_BY_HEADER, CompressionTable, Selector
from studyctl.spec.positions import Loc

PAIR_EXAMPLE = '["sparsegpt", "gptq"]'


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the data of a spec."""

    what: str
    loc: Loc
    key: bool = False
    """Whether the key is wrong rather than its value."""
    note: str = ""
    hint: str = ""


def findings(errors: Iterable[ErrorDetails], data: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong, in plain words; ``data`` is the data that was validated."""
    placed = [(within(error["loc"], data), error) for error in errors]
    texts: dict[Finding, None] = {}
    meant = {_meant(loc, data) for loc, error in placed if error["type"] == "extra_forbidden"}
    for loc, error in placed:
        vague = _is_type_error(error) and any(_explains(other, at, loc) for at, other in placed)
        # What a table lacks is in the one whose name is misspelt.
        vague |= loc in meant and error["type"] in ("missing", "problems_inside")
        # Pydantic also calls a list too short if its items are invalid.
        vague |= error["type"] == "too_short" and value_at(loc, data) != []
        if not vague:
            texts |= dict.fromkeys(_worded(error, loc, data))
    return list(texts)


def within(loc: Loc, data: Any) -> Loc:
    """Return ``loc`` without the parts that the data does not have."""
    kept: list[str | int] = []
    for part in loc:
        if holds(data, part):
            data = data[part]
            kept.append(part)
    return tuple(kept)


def table_name(loc: Loc) -> str:
    """Return a table's header in backticks: ``[evaluation.tasks]``, ``[[models]]``."""
    names = [str(part) for part in loc if isinstance(part, str)]
    if not names:
        return "the spec"
    listed = names[0] in ("models", "compression") and len(names) == 1
    return f"`[[{names[0]}]]`" if listed else f"`[{'.'.join(names)}]`"


def listing(words: Iterable[str]) -> str:
    """Return the words in backticks, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def _is_type_error(error: ErrorDetails) -> bool:
    return error["type"].endswith("_type")


def _explains(error: ErrorDetails, at: Loc, loc: Loc) -> bool:
    """Return whether this error says more about the value at ``loc`` than that its type is wrong."""
    deeper = len(at) > len(loc) and at[: len(loc)] == loc
    return deeper or (at == loc and not _is_type_error(error) and error["type"] != "too_short")


def _worded(error: ErrorDetails, loc: Loc, data: Mapping[str, Any]) -> Iterator[Finding]:
    kind = error["type"]
    if kind == "problems_inside":
        for inner, what in error["ctx"]["problems"]:
            at_key = inner[-1:] in (("pattern",), ("files",))
            yield Finding(what, within((*loc, *inner), data), key=at_key)
    elif kind == "extra_forbidden":
        yield _unknown_key(loc, data)
    elif kind == "missing":
        yield _missing(str(error["loc"][-1]), loc, data)
    elif kind == "union_tag_invalid":
        yield _bad_method(loc, data)
    elif _is_type_error(error):
        yield _wrong_type(loc, data)
    else:
        yield _bad_value(error, loc, data)


PURPOSES = {
    **dict.fromkeys(("evaluation", "eval", "test", "validation", "valid", "dev"), "perplexity"),
    **dict.fromkeys(("train", "training"), "calibration"),
}
"""What people call the purposes of a text."""
ELSEWHERE: dict[Loc, str] = {
    (
        "execution",
        "executor",
    ): "where workers run is in a profile: `studyctl run SPEC --on NAME` (docs/cluster.md)"
}
"""Keys of a spec that earlier versions had, and what to do."""


def _meant(loc: Loc, data: Mapping[str, Any]) -> Loc | None:
    """Return the place of the table that was meant by a misspelt one."""
    table = tables_at(loc[:-1], data)
    near = closest(str(loc[-1]), keys_of(table)) if table is not None else ""
    return (*loc[:-1], near) if near else None


def _unknown_key(loc: Loc, data: Mapping[str, Any]) -> Finding:
    above, name = loc[:-1], str(loc[-1])
    value = value_at(loc, data)
    is_table = isinstance(value, dict) or isinstance(value_at((0,), value), dict)
    what = f"unknown {'table' if is_table and not above else 'key'} `{name}`"
    table = tables_at(above, data)
    allowed = list(keys_of(table)) if table else []
    has_grid = table is not None and issubclass(table, CompressionTable) and "grid" in table.model_fields
    if has_grid and name in keys_of(TABLES[str(value_at((*above, "method"), data))]):
        hint = "llama.cpp's blocks have bits and groups of their own: remove one of the two"
        return Finding(f"`{name}` does not go with `grid`", loc, key=True, hint=hint)
    if hint := ELSEWHERE.get((*above, name), ""):
        return Finding(what, loc, key=True, hint=hint)
    if note := did_you_mean(name, allowed):
        return Finding(what, loc, key=True, note=note)
    owners = _owners(name)
    if owners == ["`[evaluation]`"]:
        return Finding(what, loc, key=True, note=f"write `[evaluation.{name}]`")
    if owners:
        return Finding(what, loc, key=True, hint=f"`{name}` belongs to {' or '.join(owners)}")
    return Finding(what, loc, key=True, hint=f"{_subject(above, data)} takes {listing(allowed)}")


def _owners(name: str) -> list[str]:
    """Return the tables and methods that have a key of this name."""
    owners = [
        f"`{header}`"
        for header, table in TABLES_BY_HEADER
        if name in keys_of(table) and table is not Selector  # which names settings of methods
    ]
    tables = [(method, (TABLES[method], TABLES.get(f"{method}{ON_GGUF}"))) for method in METHOD_NAMES]
    methods = [
        method
        for method, both in tables
        if any(table is not None and name in keys_of(table) for table in both)
    ]
    if methods:
        every = len(methods) == len(METHOD_NAMES)
        owners.append("`[[compression]]`" if every else f"method {listing(methods)}")
    return owners


def _subject(loc: Loc, data: Mapping[str, Any]) -> str:
    method = value_at((*loc, "method"), data) if len(loc) == 2 and loc[0] == "compression" else None
    return f"method `{method}`" if isinstance(method, str) else table_name(loc)


def _missing(name: str, loc: Loc, data: Mapping[str, Any]) -> Finding:
    if loc and loc[-1] == "method":
        return _needs_pair(loc)
    key = key_at((*loc, name), data)
    title = f"`{name}`" if loc else table_name((name,))
    hint = f"{title}: {key.description}" if key else ""
    return Finding(f"{_subject(loc, data)} needs {title}", loc, hint=hint)


def _needs_pair(loc: Loc) -> Finding:
    what = "a list as `method` must be a pair: one that prunes, then one that quantizes"
    return Finding(what, loc, hint=f"such as {PAIR_EXAMPLE}")


def _bad_method(loc: Loc, data: Mapping[str, Any]) -> Finding:
    table = value_at(loc, data)
    methods = f"methods are {listing(METHOD_NAMES)}, or a pair such as {PAIR_EXAMPLE}"
    if not isinstance(table, dict):
        return _wrong_type(loc, data)
    if "method" not in table:
        return Finding("`[[compression]]` needs `method`", loc, hint=methods)
    method = table["method"]
    place = (*loc, "method")
    if not isinstance(method, str):
        return Finding(f"`method` needs text, got {_described(method)}", place, hint=methods)
    if method == "dense":
        return Finding("`dense` is always included", place, hint="remove this table")
    return Finding(f"unknown method `{method}`", place, hint=methods)


def _wrong_type(loc: Loc, data: Mapping[str, Any]) -> Finding:
    value = value_at(loc, data)
    if loc and loc[-1] == "method":
        return _needs_pair(loc)
    if tables_at(loc, data) is not None and isinstance(value_at((0,), value), dict):
        return Finding(f"{_name(loc)} is one table, not a list of them", loc, hint=f"write {table_name(loc)}")
    key = key_at(loc, data)
    kind = key.kind if key and key.swept and loc[-1] == key.name else kinds(types_at(loc, data))
    what = f"{_name(loc)} needs {_with_article(kind)}, got {_described(value)}"
    if isinstance(value, str) and kind in _UNQUOTED and re.fullmatch(_UNQUOTED[kind], value):
        return Finding(what, loc, note=f"write {value} without quotes")
    if last_key(loc) == "sparsity" and isinstance(value, str) and (percent := _PERCENT.fullmatch(value)):
        return Finding(what, loc, note=_as_share(float(percent[1])))
    if kind == f"list of {_plural_of(value)}":
        return Finding(what, loc, note=f"write [{shown(value)}]")
    if kind == "list of tables" and isinstance(loc[-1], str):
        return Finding(what, loc, hint=f"write {table_name(loc)} and its keys below it")
    return Finding(what, loc)


_UNQUOTED = {
    "true or false": "true|false",
    "whole number": r"[+-]?\d+",
    "number": r"[+-]?\d+(\.\d+)?",
}
"""Texts that would be valid without their quotes, by kind."""


_PERCENT = re.compile(r"\s*(\d{1,2}(?:\.\d+)?)\s*%\s*")


def _as_share(percent: float) -> str:
    return f"write {percent / 100:g} for {percent:g} %"


def _plural_of(value: object) -> str:
    """Return what a list of such values is a list of; empty for other values."""
    words: dict[type, str] = {str: "texts", int: "whole numbers"}
    return words.get(type(value), "")


def _name(loc: Loc) -> str:
    """Return the key of a value, or of the list that it is in, in backticks."""
    return f"`{last_key(loc)}`"


def _with_article(kind: str) -> str:
    if kind == "true or false":
        return kind
    parts = kind.split(" or ")
    plain = [part == "text" or part.split()[0].endswith("s") for part in parts]
    return " or ".join(part if bare else f"a {part}" for part, bare in zip(parts, plain, strict=True))


def _described(value: object) -> str:
    """Return a number itself, or the type of any other value."""
    if isinstance(value, bool | int | float):
        return shown(value)
    words: dict[type, str] = {str: "text", dict: "a table", list: "a list"}
    return words.get(type(value), "a date or time")


def _bad_value(error: ErrorDetails, loc: Loc, data: Mapping[str, Any]) -> Finding:
    key = key_at(loc, data)
    value = value_at(loc, data)
    name, kind = _name(loc), error["type"]
    if error["loc"][-1] == "[key]":
        return _bad_key(loc, data)
    if kind == "literal_error" and key is not None:
        return _bad_choice(error, loc, value, key.kind)
    if kind.startswith(("greater_than", "less_than", "string_pattern")) and key is not None and key.bounds:
        only = key.bounds.startswith("letters")
        words = f"may hold {key.bounds} only" if only else f"must be {key.bounds}"
        is_percent = last_key(loc) == "sparsity" and isinstance(value, int | float) and 1 < value < 100
        note = _as_share(value) if is_percent else ""
        return Finding(f"{name} {words}, not {shown(value)}", loc, note=note)
    if kind == "too_long" and loc[-1] == "method":
        return _needs_pair(loc)
    size = f'{name} must be a size such as "20 GiB", not {shown(value)}'
    plain = {
        "byte_size": size,
        "byte_size_unit": size,
        "string_too_short": f"{name} is empty",
        "string_too_long": f"{name} is longer than {error.get('ctx', {}).get('max_length')} characters",
        "too_short": f"{name} needs at least one",
        "too_long": f"{name} has more than {error.get('ctx', {}).get('max_length')} entries",
        "finite_number": f"{name} must be a finite number, not {shown(value)}",
    }
    is_bare = kind == "byte_size" and re.fullmatch(r"\d{1,3}", str(value))
    note = f'write "{value} GiB"' if is_bare else ""
    return Finding(plain.get(kind, f"{name}: {error['msg'].removeprefix('Value error, ')}"), loc, note=note)


def _bad_choice(error: ErrorDetails, loc: Loc, value: object, kind: str) -> Finding:
    allowed = [str(word).strip("' ") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
    what = f"{_name(loc)} cannot be {shown(value) if isinstance(value, str) else _described(value)}"
    note = did_you_mean(value, allowed) if isinstance(value, str) else ""
    if value in allowed and kind in _UNQUOTED:
        note = f"write {value} without quotes"
    pair = loc[-2:-1] == ("method",)
    subject = ("the first of a pair", "the second of a pair")[int(loc[-1])] if pair else "it"
    hint = f"{subject} is {'one of ' if len(allowed) > 1 else ''}{listing(allowed)}"
    return Finding(what, loc, note=note, hint=hint)


def _bad_key(loc: Loc, data: Mapping[str, Any]) -> Finding:
    name = str(loc[-1])
    names = [inner for option in types_at(loc[:-1], data) for inner in option.names]
    if words := choices_of(names):
        meant = PURPOSES.get(name, "") if set(words) == set(PURPOSES.values()) else ""
        note = f"did you mean `{meant}`?" if meant else did_you_mean(name, words)
        hint = f"{_name(loc[:-1])} takes {listing(words)}"
        return Finding(f"unknown key `{name}`", loc, key=True, note=note, hint="" if note else hint)
    patterns = [inner.bound("pattern") for inner in names]
    hint = next((f"names hold {PATTERNS[pattern]} only" for pattern in patterns if pattern in PATTERNS), "")
    return Finding(f"`{name}` cannot be a name here", loc, key=True, hint=hint)
