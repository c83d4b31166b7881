"""Reading a spec with what it extends: one set of data, and places in the file that each part comes from."""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studyctl.errors import Problem, SpecError, did_you_mean
from studyctl.spec.positions import Place, deepest, merged
from studyctl.spec.syntax import read_toml

_BASE = re.compile(r"# studyctl: relative paths start at (\".*\")")


@dataclass(frozen=True, slots=True)
class Layers:
    """A spec merged with what it extends."""

    text: str
    """Of the spec itself."""
    data: dict[str, Any]
    """Merged."""
    places: Place
    """Of everything, each in the file that it comes from."""
    base: Path
    """Folder that relative paths are resolved against."""
    parent: "Layers | None" = None
    """What the spec extends."""


def read_text(path: Path) -> str:
    """Return the text of a spec, without a byte order mark.

    Raises:
        SpecError: there is no such file, or it cannot be read as UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        nearby = [found.name for found in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        close = did_you_mean(path.name, nearby)
        raise SpecError(f"there is no spec `{path}`", hint=close or "name a .toml file") from None
    except IsADirectoryError:
        raise SpecError(f"`{path}` is a folder, not a spec", hint="name the .toml file in it") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8-sig", errors="replace")) + 1
        what = "this is not UTF-8, the encoding of TOML files"
        raise SpecError(Problem(what, path, line, column, hint="save the file as UTF-8")) from None
    except OSError as error:
        raise SpecError(f"`{path}` cannot be read: {error.strerror or error}") from None


def base_of(path: Path, text: str) -> Path:
    """Return the folder that a spec's relative paths start at: its own, or the one that its first line names.

    Raises:
        SpecError: the first line is no such name.
    """
    noted = _BASE.match(text)
    own = path.absolute().parent
    try:
        return own / json.loads(noted[1]) if noted else own
    except ValueError as error:
        hint = "remove the line: paths then start at the folder of this file"
        raise SpecError(
            Problem("the first line names no folder", path, 1, 1, len(text.partition("\n")[0]), hint=hint)
        ) from error


def with_base(text: str, base: Path) -> str:
    """Return the text with a first line that names the folder relative paths start at."""
    body = text.partition("\n")[2] if _BASE.match(text) else text
    return f"# studyctl: relative paths start at {json.dumps(str(base))}\n{body}"


def read_layers(path: Path, text: str, above: tuple[Path, ...] = ()) -> Layers:
    """Read a spec, and the spec that it extends, and so on.

    Args:
        path: file of the spec.
        text: its text.
        above: the files that extend this one.

    Raises:
        SpecError: one of them is no TOML, is missing, or extends itself.
    """
    toml = read_toml(text, path)
    if toml.problems:
        raise SpecError(toml.problems)
    base = base_of(path, text)
    own = Layers(text, toml.data, toml.located.root, base)
    study = toml.data.get("study")
    extends = study.get("extends") if isinstance(study, dict) else None
    if not isinstance(study, dict) or not isinstance(extends, str) or not extends:
        return own
    parent = _parent(path, base / extends, toml.located.root, (*above, path))
    study.pop("extends")
    inherited = copy.deepcopy(parent.data)
    if parent.base != base:
        move_paths(inherited, parent.base, base)
    return Layers(text, merge(inherited, own.data), merged(parent.places, own.places), base, parent)


def _parent(path: Path, parent: Path, places: Place, chain: tuple[Path, ...]) -> Layers:
    span = deepest(places, ("study", "extends"))[0].value
    at = (
        {"file": path, "line": span.line, "column": span.column, "length": span.length}
        if span
        else {"file": path}
    )
    shown = Path(os.path.relpath(parent)) if not path.is_absolute() else parent
    if parent.resolve() in [file.resolve() for file in chain]:
        way = " → ".join(f"`{file.name}`" for file in (*chain, parent))
        raise SpecError(
            Problem(f"the spec extends itself: {way}", hint="take `extends` out of one of them", **at)
        )
    try:
        text = read_text(shown)
    except SpecError as error:
        found = error.problems[0]
        if found.line is not None:
            raise
        raise SpecError(Problem(found.what, hint=found.hint, **at)) from None
    return read_layers(shown, text, chain)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` put on it: tables are merged, arrays and values replaced."""
    result = dict(base)
    for name, value in over.items():
        there = result.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            value = merge(there, value)
        result[name] = value
    return result


def move_paths(data: dict[str, Any], start: Path, to: Path) -> None:
    """Rewrite the relative paths of a spec in ``start`` so that they hold in ``to``; works in place.

    A model's id that is a folder beside the spec is a path as well.
    """

    def moved(value: str) -> str:
        return value if Path(value).is_absolute() else os.path.relpath(start / value, to)

    def moved_id(value: str) -> str:
        return moved(value) if (start / value).exists() else value

    def moved_include(value: str) -> str:
        return value if value == "pocket" else moved(value)

    for table, key, change in _paths_in(data, moved, moved_id, moved_include):
        table[key] = change(table[key])


Change = Callable[[str], str]


def _paths_in(
    data: dict[str, Any], path: Change, model: Change, include: Change
) -> Iterator[tuple[Any, Any, Change]]:
    """Yield ``(table or list, key, change)`` for every value that may be a path."""
    for table in _tables(data.get("models")):
        yield from _texts(table, "id", model)
    for table in _tables(data.get("compression")):
        if table.get("method") == "checkpoint":
            yield from _texts(table, "id", model)
            yield from _texts(table, "of", model)
        overrides = table.get("calibration")
        for override in _tables([overrides] if isinstance(overrides, dict) else overrides):
            yield from _texts(override, "ids", path)
    yield from _texts(data.get("calibration"), "ids", path)
    text = data.get("text")
    for table in text.values() if isinstance(text, dict) else ():
        yield from _texts(table, "files", path)
    evaluation = data.get("evaluation")
    tasks = evaluation.get("tasks") if isinstance(evaluation, dict) else None
    yield from _texts(tasks, "include", include)
    yield from _texts(tasks, "data", path)


def _tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _texts(table: object, key: str | int, change: Change) -> Iterator[tuple[Any, Any, Change]]:
    """Yield every text at a key, also within lists and tables there."""
    if not isinstance(table, dict | list) or (isinstance(table, dict) and key not in table):
        return
    value = table[key]  # type: ignore[index]
    if isinstance(value, str):
        yield table, key, change
    elif isinstance(value, dict | list):
        for inner in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _texts(value, inner, change)
