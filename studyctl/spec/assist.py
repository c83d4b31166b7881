"""Help and completions for an editor, for a place in a spec.

Both come from the models (:mod:`~studyctl.spec.keys`) and from the names in the text itself, which may be half written
(:mod:`~studyctl.spec.partial`). Rows and columns count from 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from studyctl.completions import Completions, Item
from studyctl.contract.hypotheses import Measure
from studyctl.spec.keys import (
    METHOD_NAMES,
    Key,
    choices_of,
    key_at,
    keys_of,
    last_key,
    tables_at,
    types_at,
    value_at,
)
from studyctl.spec.messages import table_name
from studyctl.spec.models import BUNDLED_LANGUAGES, BUNDLED_TEXTS, TABLES, Evaluation, Spec, Table
from studyctl.spec.partial import Here, Partial, read_partial, words_of
from studyctl.spec.positions import Loc

METHOD = replace(keys_of(TABLES["wanda"])["method"], choices=METHOD_NAMES, kind="text or pair")
"""The key ``method`` of a ``[[compression]]`` table, for any method."""


@dataclass(frozen=True, slots=True)
class Help:
    """Help on a key or a table."""

    name: str
    facts: tuple[str, ...]
    """Type, bounds, choices, default; one short text each."""
    about: str


def explain(text: str, row: int, column: int) -> Help | None:
    """Return help on the key or table at a place; None if it is unknown."""
    partial = read_partial(text)
    here = partial.here(row, column)
    key = _key_at(here.loc, partial.data) if here.loc != here.table else None
    return _about_key(key) if key is not None else _about_table(here.table, partial.data)


def complete(text: str, row: int, column: int) -> Completions:
    """Return the completions at a place: items that begin with the word there, then items that contain it."""
    partial = read_partial(text)
    here = partial.here(row, column)
    offers = {"header": _headers, "key": _keys, "value": _values}
    items = offers[here.part](partial, here) if here.part in offers else ()
    if here.part == "key" and partial.lines[row][here.end :].lstrip().startswith("="):
        items = (replace(item, insert=item.label) for item in items)
    typed = here.word.lstrip("[ " if here.part == "header" else "\"'").lower()
    labels = [(item.label.strip('[]" ').lower(), item) for item in items]
    matches = [(not label.startswith(typed), item) for label, item in labels if typed in label]
    return Completions(here.start, here.end, tuple(item for _, item in sorted(matches, key=itemgetter(0))))


def _in_list(loc: Loc, data: Mapping[str, Any]) -> Loc:
    """Return the place with index 0 added where a single table is written instead of a list of tables."""
    for end in range(1, len(loc) + 1):
        following = loc[end] if end < len(loc) else "of a table"
        single = isinstance(following, str) and tables_at(loc[:end], data) is None
        if single and len(loc[:end]) > 2 and tables_at((*loc[:end], 0), data) is not None:
            return (*loc[:end], 0, *loc[end:])
    return loc


def _key_at(loc: Loc, data: Mapping[str, Any]) -> Key | None:
    """Return the key at a place, or the key of the list that the place is in."""
    name = last_key(loc)
    if name == "method" and loc[0] == "compression":
        return METHOD
    key = key_at(_in_list(loc[:-1], data) + loc[-1:], data) if loc else None
    return key if key is not None and key.name == name else None


# -- help


def _about_key(key: Key) -> Help:
    kind = f"{key.kind}, or a list: a variant for each" if key.swept else key.kind
    facts = ["required"] if key.required else []
    facts += [kind, key.bounds]
    if key.choices:
        facts.append(f"one of {', '.join(key.choices)}")
    if key.default_text:
        facts.append(f"default {key.default_text}")
    return Help(key.name, tuple(filter(None, facts)), key.description)


def _about_table(loc: Loc, data: Mapping[str, Any]) -> Help | None:
    key, table = key_at(loc, data) if loc else None, tables_at(loc, data)
    if not loc or (key is None and table is None):
        return None
    about = _first_line(table) if table is not None else ""
    keys = f"keys: {', '.join(keys_of(table))}" if table not in (None, Evaluation) else ""
    return Help(
        table_name(loc).strip("`"), (keys,) if keys else (), about or (key.description if key else "")
    )


def _first_line(table: type[Table]) -> str:
    return (table.__doc__ or "").partition("\n")[0].replace("``", "`")


# -- completion


def _headers(partial: Partial, here: Here) -> Iterator[Item]:
    written = {loc for loc in partial.headers.values() if loc != here.table}
    for name, key in keys_of(Spec).items():
        table = tables_at((name,), {})
        if key.kind == "list of tables":
            yield Item(f"[[{name}]]", f"[[{name}]]", key.description)
        elif table is None:
            yield Item(f"[{name}.…]", f"[{name}.", key.description)
        else:
            inner = {(name, part): more for part, more in keys_of(Evaluation).items()}
            for loc, about in (inner if table is Evaluation else {(name,): key}).items():
                if loc not in written:
                    yield Item(f"[{'.'.join(loc)}]", f"[{'.'.join(loc)}]", about.description)


def _keys(partial: Partial, here: Here) -> Iterator[Item]:
    data, loc = partial.data, _in_list(here.table, partial.data)
    table = tables_at(loc, data)
    if table is Spec or table is Evaluation:
        yield from _headers(partial, here)
    elif table is not None:
        yield from _keys_of(table, partial.keys_in(here.table) - {here.loc[-1]})
    elif loc[0] == "compression":
        yield Item("method", "method = ", METHOD.description)
    else:
        yield from (Item(name, f"{name} = ") for name in _names_at(partial, loc))


def _keys_of(table: type[Table], written: set[str]) -> Iterator[Item]:
    keys = [key for key in keys_of(table).values() if key.name not in written]
    for key in sorted(keys, key=lambda key: not key.required):
        need = "required: " if key.required else ""
        yield Item(key.name, f"{key.name} = ", f"{need}{key.description}")


def _names_at(partial: Partial, loc: Loc) -> list[str]:
    """Return names to suggest as keys of a table whose keys are the user's own names."""
    names = [inner for option in types_at(loc, partial.data) for inner in option.names]
    if loc[-2:] in (("tasks", "data"), ("tasks", "main")):
        return list(words_of(value_at((*loc[:-1], "names"), partial.data)))
    return list(_languages_used(partial.data) if names and loc[-1] == "config" else choices_of(names))


def _values(partial: Partial, here: Here) -> Iterator[Item]:
    data, loc = partial.data, here.loc
    key, inside = _key_at(loc, data), isinstance(loc[-1], int)
    if key is METHOD and inside:  # a pair, whose list may not be closed yet
        data = {"compression": [{}] * int(loc[1]) + [{"method": []}]}
    if key is None:
        return
    if key.kind == "true or false":
        yield from (Item(word, word) for word in ("true", "false"))
        return
    listed = key.kind.startswith("list of") and not inside
    for word, note in _words(data, loc, key):
        yield Item(word, f'["{word}"]' if listed else f'"{word}"', note)
    default = key.default_text
    if default and not inside and not key.choices and not here.word.startswith(("'", '"')):
        yield Item(default, default, "default")


def _words(data: dict[str, Any], loc: Loc, key: Key) -> Iterator[tuple[str, str]]:
    """Yield texts to suggest as a value, each with a note."""
    if key is METHOD and isinstance(loc[-1], str):
        yield from ((word, _first_line(TABLES[word])) for word in METHOD_NAMES)
    elif key.name == "source":
        texts = data.get("text")
        yield from ((word, "of this spec") for word in (texts if isinstance(texts, dict) else ()))
        yield from ((word, "bundled") for word in BUNDLED_TEXTS)
    elif key.name == "languages":
        listed = set(words_of(value_at(loc[: loc.index(key.name) + 1], data)))
        yield from ((word, "") for word in _languages(data, loc) if word not in listed)
    elif key.name in ("models", "of") and loc[0] != "hypotheses":
        models = data.get("models")
        tables = models if isinstance(models, list) else []
        yield from ((word, "a model of this spec") for table in tables for word in words_of(table.get("id")))
    elif key.name == "include":
        yield "pocket", "bundled tasks"
    elif loc[0] == "hypotheses" and key.name in _OF_HYPOTHESES:
        yield from _OF_HYPOTHESES[key.name](data)
    else:
        words = choices_of(types_at(loc, data)) or key.choices
        yield from ((word, "default" if word == key.default else "") for word in words)


def _metrics(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what hypotheses compare: every measure, and accuracy in each task of the spec."""
    yield from ((str(measure), "") for measure in Measure)
    for task in words_of(value_at(("evaluation", "tasks", "names"), data) or []):
        yield f"{Measure.ACCURACY}:{task}", "one task"


def _methods(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the methods of the spec's variants."""
    tables = data.get("compression")
    for table in tables if isinstance(tables, list) else []:
        yield "+".join(words_of(table.get("method"))), "a method of this spec"


def _subjects(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the languages and tasks that the spec measures."""
    for kind, place in (("language", ("perplexity", "languages")), ("task", ("tasks", "names"))):
        yield from ((word, kind) for word in words_of(value_at(("evaluation", *place), data) or []))


_OF_HYPOTHESES = {"metric": _metrics, "rank_agreement": _metrics, "methods": _methods, "levels": _subjects}


def _languages(data: dict[str, Any], loc: Loc) -> list[str]:
    """Return the languages of the text source in use, or else all that the spec and the bundled texts name."""
    above = loc[: loc.index("languages")]
    source = value_at((*above, "source"), data) or value_at(("calibration", "source"), data)
    config = value_at(("text", str(source), "config"), data)
    if isinstance(config, dict):
        return list(config)
    if source in BUNDLED_TEXTS:
        return list(BUNDLED_LANGUAGES)
    return list(dict.fromkeys((*_languages_used(data), *BUNDLED_LANGUAGES)))


def _languages_used(data: dict[str, Any]) -> Iterator[str]:
    yield from words_of(value_at(("calibration", "languages"), data))
    yield from words_of(value_at(("evaluation", "perplexity", "languages"), data))
