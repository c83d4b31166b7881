"""What an lm-eval task is: its YAML files and Python functions, and the items they are applied to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.hashes import content_hash, remembered
from studyctl.sources.task_index import find_task, lm_eval_tasks, lm_eval_version
from studyctl.sources.text_files import count_json_lines
from studyctl.spec.models import TaskData, Tasks

_LOCAL_FORMATS = ("json", "csv", "parquet", "arrow", "text")
"""Values of ``dataset_path`` that read files instead of a hub dataset."""


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """What a task is and where its items come from: local files, or a hub dataset."""

    name: str
    key: str | None
    """Equal keys mean equal prompts and items; None: could not be looked up, ``unknown`` says why."""
    yaml: Path | None = None
    """None only where lm-eval is not installed."""
    test: Path | None = None
    """Local file of the items."""
    fewshot: Path | None = None
    output_type: str = ""
    items: int | None = None
    """Of the local file; None for a dataset of the hub."""
    dataset: str | None = None
    commit: str | None = None
    unknown: str = ""
    note: str = ""
    """Something to tell: the commit is the one that was seen last, for the hub does not answer."""


@dataclass(frozen=True, slots=True)
class _Function:
    """A ``!function module.name`` of a YAML file."""

    name: str
    folder: Path


def identify_task(name: str, tasks: Tasks, base: Path) -> TaskIdentity:
    """Return what a task of the spec is.

    Args:
        name: of the task.
        tasks: the spec's table.
        base: folder that relative paths are resolved against.

    Raises:
        StudyError: no such task, a group or tag, a YAML file or a data file that is missing or malformed.
    """
    path = find_task(name, tasks.include, base)
    if path is None or lm_eval_tasks() is None:
        return TaskIdentity(
            name, None, path, unknown="lm-eval is not installed (`pip install 'studyctl[engine]'`)"
        )
    files: dict[Path, None] = {}
    config = _merged(path, files, ())
    test, fewshot = _given_data(name, tasks, base) or _local_data(config, path)
    if test is not None and tasks.shots and fewshot is None:
        raise StudyError(
            f"task `{name}` needs `fewshot`: {tasks.shots} examples before each item, and only `{test.name}` is given",
            hint=f'{name} = {{ test = "...", fewshot = "..." }} in [evaluation.tasks.data]',
        )
    for functions in _functions(config):
        files.update(dict.fromkeys(functions))
    code: list[object] = [lm_eval_version(), [(file.name, content_hash(file)) for file in files]]
    output_type = str(config.get("output_type", "generate_until"))
    if test is not None:
        return TaskIdentity(
            name,
            key=digest(["task", name, code, [content_hash(file) for file in (test, fewshot) if file]]),
            yaml=path,
            test=test,
            fewshot=fewshot,
            output_type=output_type,
            items=_items(name, test) if fewshot is None or _items(name, fewshot) else None,
        )
    return _hub_task(name, path, config, code, output_type)


def _hub_task(
    name: str, path: Path, config: dict[str, Any], code: list[object], output_type: str
) -> TaskIdentity:
    dataset = config.get("dataset_path")
    if not isinstance(dataset, str):
        # The items come from a Python function, whose file is in `code`.
        return TaskIdentity(name, digest(["task", name, code]), path, output_type=output_type)
    if dataset in _LOCAL_FORMATS:
        raise StudyError(
            f"task `{name}` reads its items from `{dataset}` files; hub datasets and local JSON lines are supported",
            hint=f"give a .jsonl file as `{name}` in [evaluation.tasks.data]",
        )
    # Imported here: a study of local items starts a quarter of a second sooner without it.
    from studyctl.sources import hub

    kwargs = config.get("dataset_kwargs")
    revision = kwargs.get("revision") if isinstance(kwargs, dict) else None
    try:
        found = hub.resolve("dataset", dataset, str(revision or "main"))
    except hub.HubUnreachable as error:
        return TaskIdentity(name, None, path, output_type=output_type, dataset=dataset, unknown=str(error))
    return TaskIdentity(
        name,
        key=digest(["task", name, code, dataset, found.commit]),
        yaml=path,
        output_type=output_type,
        dataset=dataset,
        commit=found.commit,
        note=found.note,
    )


def _given_data(name: str, tasks: Tasks, base: Path) -> tuple[Path, Path | None] | None:
    """Return test and few-shot files that the spec gives for this task."""
    given = tasks.data.get(name)
    if given is None:
        return None
    data = given if isinstance(given, TaskData) else TaskData(test=given)
    fewshot = _existing(name, base / data.fewshot) if data.fewshot is not None else None
    return _existing(name, base / data.test), fewshot


def _local_data(config: dict[str, Any], path: Path) -> tuple[Path | None, Path | None]:
    """Return test and few-shot files of a YAML file that names JSON lines itself, relative to its folder."""
    kwargs = config.get("dataset_kwargs")
    files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if config.get("dataset_path") != "json" or files is None:
        return None, None
    splits = files if isinstance(files, dict) else {"train": files}
    test = config.get("test_split") or config.get("validation_split")
    fewshot = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split")
    names = [splits.get(split) if split else None for split in (test, fewshot)]
    if not isinstance(names[0], str) or "://" in names[0]:
        return None, None
    own = str(config.get("task", path.stem))
    found = [_existing(own, path.parent / name) if isinstance(name, str) else None for name in names]
    return found[0], found[1]


def _existing(task: str, path: Path) -> Path:
    if not path.is_file():
        raise StudyError(f"task `{task}`: there is no data file `{path}`")
    return path


def _items(task: str, path: Path) -> int:
    items = remembered(path, "json lines 1", count_json_lines)
    if items == 0:
        raise StudyError(f"task `{task}`: the data file `{path}` is empty")
    return items


def _merged(path: Path, files: dict[Path, None], above: tuple[Path, ...]) -> dict[str, Any]:
    """Return a YAML file with what it includes; its own keys win. The files read are added to ``files``."""
    path = path.resolve()
    if path in above:
        raise StudyError(f"`{path}` includes itself")
    config = _load(path)
    files[path] = None
    merged: dict[str, Any] = {}
    includes = config.pop("include", [])
    for name in includes if isinstance(includes, list) else [includes]:
        other = path.parent / str(name)
        if not other.is_file():
            raise StudyError(f"`{path}` includes `{name}`, which does not exist")
        merged |= _merged(other, files, (*above, path))
    return merged | config


def _load(path: Path) -> dict[str, Any]:
    class Loader(yaml.CSafeLoader):
        """Reads lm-eval's ``!function`` as a name, and passes over other tags."""

    def function(loader: yaml.CSafeLoader, node: yaml.Node) -> _Function:
        return _Function(str(getattr(node, "value", "")), path.parent)

    def other(loader: yaml.CSafeLoader, suffix: str, node: yaml.Node) -> None:
        return None

    Loader.add_constructor("!function", function)
    Loader.add_multi_constructor("!", other)
    try:
        config = yaml.load(path.read_text("utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"`{path}` is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise StudyError(f"`{path}` is no YAML mapping")
    return config


def _functions(value: object) -> Iterator[list[Path]]:
    """Yield the Python files behind every ``!function``: its module and those beside it, which it may import."""
    if isinstance(value, _Function):
        module, _, _ = value.name.rpartition(".")
        file = value.folder / f"{module.replace('.', '/')}.py"
        # A module that is not beside the YAML file belongs to an installed package.
        yield sorted(file.parent.glob("*.py")) if file.is_file() else []
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _functions(item)
