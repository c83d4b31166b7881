"""Finds the YAML file of an lm-eval task without importing lm_eval (seconds) or parsing 14,000 files."""

import functools
import importlib.metadata
import importlib.util
import json
import re
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

import yaml

from studyctl.errors import StudyError, did_you_mean
from studyctl.files import cache_folder, digest, write_cache

_CODE = 1
"""Raised when the same files give another index."""
_KEY = re.compile(
    r"""^(["']?)(task|group|class|tag|include)\1[ \t]*:[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)""", re.MULTILINE
)
"""A top-level key with its value: the rest of the line and a block list below it."""
_PLAIN = re.compile(r"[A-Za-z_][\w.+-]*")
_PLAIN_LIST = re.compile(r"(?:[ \t]*-[ \t]+[A-Za-z_][\w.+-]*[ \t]*(?:\n|\Z))+")
"""Most values are one of these two; parsing the rest as YAML takes a hundred times as long."""
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
BUNDLED = "pocket"


@dataclass(slots=True)
class TaskIndex:
    """Paths by name of what a folder of YAML files defines, relative to it."""

    tasks: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)
    python: dict[str, str] = field(default_factory=dict)
    """Tasks that are a Python class."""


def find_task(name: str, include: tuple[str, ...], base: Path) -> Path | None:
    """Return the YAML file of a task, from the first folder that has it; lm-eval's own folder comes last.

    Returns:
        The file, or None if lm-eval is not installed and no folder has the task.

    Raises:
        StudyError: a folder is missing, or the name is a group, a tag, a Python task, or unknown.
    """
    indices = []
    for entry in include:
        folder = base / Path(entry).expanduser()
        if entry == BUNDLED:
            folder = Path(str(resources.files("studyctl") / BUNDLED / "tasks"))
        elif not folder.is_dir():
            raise StudyError(f"there is no folder of tasks `{folder}`")
        indices.append((folder, scan(folder)))
    lm_eval = lm_eval_tasks()
    if lm_eval is not None:
        indices.append((lm_eval, _lm_eval_index(lm_eval)))
    for folder, index in indices:
        if name in index.tasks:
            return folder / index.tasks[name]
    if lm_eval is None:
        return None
    raise _not_a_task(name, indices)


def lm_eval_tasks() -> Path | None:
    """Return the folder of lm-eval's own tasks, without importing it; None: it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "tasks"


@functools.cache
def lm_eval_metrics() -> frozenset[str]:
    """Return the names of lm-eval's own metrics; it looks for others in the package ``evaluate``."""
    folder = lm_eval_tasks()
    if folder is None:
        return frozenset()
    registered = (folder.parent / "api" / "metrics.py").read_text("utf-8")
    return frozenset(re.findall(r'@register_metric\(\s*metric="([^"]+)"', registered))


def lm_eval_version() -> str:
    """Return the version of the installed lm-eval."""
    return importlib.metadata.version("lm_eval")


@functools.cache
def _lm_eval_index(folder: Path) -> TaskIndex:
    entry = cache_folder() / "tasks" / f"{digest([lm_eval_version(), str(folder), _CODE])}.json"
    if entry.is_file():
        return TaskIndex(**json.loads(entry.read_bytes()))
    index = scan(folder)
    write_cache(entry, json.dumps(asdict(index)))
    return index


def scan(folder: Path) -> TaskIndex:
    """Return what the YAML files of a folder define; the first file in order of paths wins, as in lm-eval."""
    index, merged = TaskIndex(), dict[Path, dict[str, str]]()
    for path in sorted(folder.glob("**/*.yaml"), key=Path.as_posix):
        if not _IGNORED.isdisjoint(path.parts):
            continue
        keys, place = _resolved(path, merged), str(path.relative_to(folder))
        names = _list(keys.get("group", keys.get("task", "")))
        if not names:
            continue  # a template that others include
        name = names[0]
        if "class" in keys:
            index.python.setdefault(name, place)
        elif "group" in keys:
            index.groups.setdefault(name, place)
        elif name not in index.tasks:
            index.tasks[name] = place
            for tag in _list(keys.get("tag", "")):
                index.tags.setdefault(tag, []).append(name)
    return index


def _resolved(path: Path, merged: dict[Path, dict[str, str]]) -> dict[str, str]:
    """Return a file's top-level keys merged over those of the files that it includes; ``merged`` caches them."""
    if path not in merged:
        merged[path] = {}  # ends a cycle of includes
        keys, included = _top_level(path), dict[str, str]()
        for name in _list(keys.get("include", "")):
            other = (path.parent / name).resolve()
            if other.is_file():
                included |= _resolved(other, merged)
        merged[path] = included | keys
    return merged[path]


def _top_level(path: Path) -> dict[str, str]:
    matches = _KEY.finditer(path.read_text("utf-8", errors="replace"))
    return {match[2]: match[3] for match in matches}


def _list(value: str) -> list[str]:
    value = value.strip()
    if _PLAIN.fullmatch(value):
        return [value]
    if _PLAIN_LIST.fullmatch(value):
        return [line.split()[1] for line in value.splitlines()]
    try:
        parsed = yaml.load(value, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:  # such as a YAML tag: it names no task
        return []
    return [str(item) for item in parsed] if isinstance(parsed, list) else [str(parsed)] if parsed else []


def _not_a_task(name: str, indices: list[tuple[Path, TaskIndex]]) -> StudyError:
    for folder, index in indices:
        if name in index.groups:
            value = _top_level(folder / index.groups[name]).get("task", "")
            pattern = r"^[ \t]*-[ \t]+(?:(?:task|group)[ \t]*:[ \t]*)?(\S+)"
            members = re.findall(pattern, value, re.MULTILINE) or _list(value)
            return StudyError(f"`{name}` is a group, not a task", hint=f"its tasks are {_some(members)}")
        if name in index.tags:
            members = index.tags[name]
            return StudyError(f"`{name}` is a tag, not a task", hint=f"its tasks are {_some(members)}")
        if name in index.python:
            return StudyError(f"task `{name}` is a Python class; tasks defined by YAML files can be run")
    hint = did_you_mean(name, {task for _, index in indices for task in index.tasks})
    return StudyError(f"there is no task `{name}`", hint=hint or "`lm-eval ls tasks` lists lm-eval's own")


def _some(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
