"""Reading a spec with the specs that it extends: the merged data, and the place of each part in the file it comes from."""

import copy
import json
import os
import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from studyctl import toml
from studyctl.errors import SpecError, did_you_mean
from studyctl.files import StudyPaths, open_plain
from studyctl.spec.positions import Place, Span, deepest, merged
from studyctl.spec.syntax import read_toml
from studyctl.units import bytes_text

LARGEST_BYTES = 1 << 20
"""A spec with lists of tens of thousands of values is a tenth of that."""
MOST_LEVELS = 20
"""Specs that extend one another."""

_BASE = re.compile(r"# studyctl: relative paths start at (\".*\")")


@dataclass(frozen=True, slots=True)
class Layers:
    """A spec merged with the specs that it extends."""

    text: str
    """Of the spec itself, with the changes of the command line."""
    data: dict[str, Any]
    """All layers merged."""
    places: Place
    """Of every part, in the file that it comes from."""
    base: Path
    """Folder that relative paths are resolved against."""
    parent: "Layers | None" = None
    """The spec that this one extends."""


def read_text(path: Path) -> str:
    """Return the text of a spec, without a byte order mark.

    Raises:
        SpecError: there is no such file, it is too large, or it cannot be read as UTF-8.
    """
    try:
        # What the shell makes of `<(command)` is a pipe below /dev; any other pipe may have nobody at its other end.
        with path.open("rb") if path.is_relative_to("/dev") else open_plain(path) as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            what = f"`{path}` has more than {bytes_text(LARGEST_BYTES)}: it is no spec"
            raise SpecError(what, hint="name the .toml file")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        nearby = [file.name for file in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        close = did_you_mean(path.name, nearby)
        raise SpecError(f"there is no spec `{path}`", hint=close or "name a .toml file") from None
    except IsADirectoryError:
        raise SpecError(f"`{path}` is a folder, not a spec", hint="name the .toml file in it") from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8-sig", errors="replace")) + 1
        what = "this is not UTF-8, the encoding of TOML files"
        raise SpecError(Span(path, line, column, 1).problem(what, hint="save the file as UTF-8")) from None
    except OSError as error:
        raise SpecError(f"`{path}` cannot be read: {error.strerror or error}") from None


def base_of(path: Path, text: str) -> Path:
    """Return the folder that a spec's relative paths start at: its own, or the one that its first line names.

    Raises:
        SpecError: the first line names no folder.
    """
    first_line = _BASE.match(text)
    folder = path.absolute().parent
    try:
        return folder / json.loads(first_line[1]) if first_line else folder
    except ValueError as error:
        hint = "remove the line: paths then start at the folder of this file"
        span = Span(path, 1, 1, len(text.partition("\n")[0]))
        raise SpecError(span.problem("the first line names no folder", hint=hint)) from error


def with_base(text: str, base: Path) -> str:
    """Return the text with a first line that names the folder at which relative paths start."""
    body = text.partition("\n")[2] if _BASE.match(text) else text
    return f"# studyctl: relative paths start at {json.dumps(str(base))}\n{body}"


def read_layers(path: Path, text: str, changes: Sequence[str] = (), above: tuple[Path, ...] = ()) -> Layers:
    """Read a spec and, recursively, the spec that it extends.

    Args:
        path: file of the spec.
        text: its text.
        changes: values to set in it (:func:`~studyctl.spec.changes.changed`).
        above: the files that extend this one, directly or not.

    Raises:
        SpecError: one of them is not TOML, is missing, or extends itself, or the spec of a study's folder extends another.
    """
    data, places = read_toml(text, path)
    if changes:
        from studyctl.spec.changes import changed, mark  # tomlkit, which few commands need

        text = changed(text, changes)
        data, _ = read_toml(text, path)
        mark(places, data, changes)
    base = base_of(path, text)
    study = data.get("study")
    extends = study.get("extends") if isinstance(study, dict) else None
    if not isinstance(study, dict) or not isinstance(extends, str) or not extends:
        return Layers(text, data, places, base)
    if _BASE.match(text) or _is_stored(path):
        span = deepest(places, ("study", "extends"))[0].value or Span(path, 1, 1, 1)
        what = "a study's own copy of its spec extends no other file: everything is in it"
        raise SpecError(span.problem(what, hint="edit the spec that the study was made from"))
    parent = _parent(path, base / extends, places, (*above, path))
    study.pop("extends")
    inherited = copy.deepcopy(parent.data)
    if parent.base != base:
        move_paths(inherited, parent.base, base)
    return Layers(text, merge(inherited, data), merged(parent.places, places), base, parent)


def _is_stored(path: Path) -> bool:
    """Return whether this is the spec in a study's folder, which may come from somebody else."""
    study = StudyPaths(path.absolute().parent)
    return path.name == study.spec.name and (study.plan.exists() or study.journal.exists())


def _parent(path: Path, parent: Path, places: Place, chain: tuple[Path, ...]) -> Layers:
    span = deepest(places, ("study", "extends"))[0].value or Span(path, 1, 1, 1)
    shown = Path(os.path.relpath(parent)) if not path.is_absolute() else parent
    real = os.path.realpath(parent)
    if real in map(os.path.realpath, chain):
        files = " → ".join(f"`{file.name}`" for file in (*chain, parent))
        what = f"the spec extends itself: {files}"
        raise SpecError(span.problem(what, hint="take `extends` out of one of them"))
    if len(chain) >= MOST_LEVELS:
        what = f"more than {MOST_LEVELS} specs extend one another"
        raise SpecError(span.problem(what, hint="merge some of them"))
    if {parent.suffix, Path(real).suffix} != {".toml"}:  # its lines would be shown as errors
        raise SpecError(span.problem("a spec extends a .toml file only"))
    try:
        text = read_text(shown)
    except SpecError as error:
        problem = error.problems[0]
        if problem.line is not None:
            raise
        raise SpecError(span.problem(problem.what, hint=problem.hint)) from None
    return read_layers(shown, text, above=chain)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``: tables are merged, arrays and values replaced."""
    result = dict(base)
    for name, value in over.items():
        inherited = result.get(name)
        if isinstance(inherited, dict) and isinstance(value, dict):
            value = merge(inherited, value)
        result[name] = value
    return result


def merged_text(layers: Layers) -> str:
    """Return the text of a spec with everything in it that it inherits; comments and order are kept."""
    import tomlkit  # not needed for reading and checking a spec

    if layers.parent is None:
        return layers.text
    over, parent = tomlkit.parse(layers.text), tomlkit.parse(merged_text(layers.parent))
    if layers.parent.base != layers.base:
        move_paths(parent, layers.parent.base, layers.base)
    over["study"].pop("extends")
    try:
        _fill(over, parent)
        if toml.read(text := tomlkit.dumps(over)) == layers.data:
            return text
    except ValueError:
        pass
    # tomlkit cannot fill every form of a table (dotted keys, inline tables): then the comments are lost
    return tomlkit.dumps(layers.data)


def _fill(over: Any, base: MutableMapping[str, Any]) -> None:
    """Add to ``over`` what only ``base`` has."""
    for name, value in base.items():
        if name not in over:
            over[name] = value
        elif isinstance(over[name], dict) and isinstance(value, dict):
            _fill(over[name], value)


_PATHS = (
    ("models", "id"),
    ("compression", "id"),
    ("compression", "of"),
    ("compression", "calibration", "ids"),
    ("calibration", "ids"),
    ("text", "*", "files"),
    ("text", "*", "files", "*"),
    ("text", "*", "files", "*", "*"),
    ("text", "*", "files", "*", "*", "file"),
    ("evaluation", "tasks", "include"),
    ("evaluation", "tasks", "data", "*"),
    ("evaluation", "tasks", "data", "*", "*"),
    ("evaluation", "tasks", "own", "*", "file"),
)
"""Keys whose texts may be relative paths; lists on the way are entered."""


def move_paths(data: MutableMapping[str, Any], start: Path, to: Path) -> None:
    """Rewrite a spec's paths relative to ``start`` as relative to ``to``, in place.

    A model's id is a path only if such a folder exists.
    """

    def moved(value: str, key: str) -> str:
        is_name = (
            value == "pocket" if key == "include" else key in ("id", "of") and not (start / value).exists()
        )
        return value if is_name or Path(value).is_absolute() else os.path.relpath(start / value, to)

    for keys in _PATHS:
        _change_texts(data, keys, partial(moved, key=keys[-1]))


def _change_texts(data: Any, keys: tuple[str, ...], change: Callable[[str], str]) -> None:
    """Apply ``change`` to every text that these keys lead to."""
    if isinstance(data, list):
        items, below = [*enumerate(data)], keys
    elif isinstance(data, dict):
        items, below = [(key, data[key]) for key in data if keys and keys[0] in (key, "*")], keys[1:]
    else:
        return
    for key, value in items:
        if isinstance(value, str) and not below:
            data[key] = change(value)
        else:
            _change_texts(value, below, change)
