"""The identity of an lm-eval task: its YAML files, its Python functions and its items."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from studyctl.contract.identity import TaskIdentity
from studyctl.errors import StudyError
from studyctl.files import digest
from studyctl.sources.hashes import identify_file, remembered
from studyctl.sources.own_tasks import own_task
from studyctl.sources.task_index import find_task, lm_eval_metrics, lm_eval_tasks, lm_eval_version
from studyctl.sources.text_files import count_json_lines
from studyctl.spec.models import TaskData, Tasks
from studyctl.units import count_text

FILE_FORMATS = ("json", "csv", "parquet", "arrow", "text")
"""Values of ``dataset_path`` that read files instead of a hub dataset."""


@dataclass(frozen=True, slots=True)
class _Function:
    """A ``!function module.name`` of a YAML file."""

    name: str
    folder: Path

    @property
    def file(self) -> Path | None:
        """Return the file of its module; None: the module is not in the folder of the YAML file but an installed one."""
        file = self.folder / f"{self.name.rpartition('.')[0].replace('.', '/')}.py"
        return file if file.is_file() else None


def identify_task(name: str, tasks: Tasks, base: Path) -> TaskIdentity:
    """Return the identity of a task of the spec.

    Args:
        name: of the task.
        tasks: the spec's table.
        base: folder that relative paths are resolved against.

    Raises:
        StudyError: there is no such task, it is a group or a tag, or a YAML or data file is missing or malformed.
    """
    path = (
        own_task(name, tasks.own[name], base) if name in tasks.own else find_task(name, tasks.include, base)
    )
    if path is None or lm_eval_tasks() is None:
        return TaskIdentity(
            name, None, path, unknown="lm-eval is not installed (`pip install 'studyctl[engine]'`)"
        )
    paths: dict[Path, None] = {}
    named: list[_Function] = []
    config = _merged(path, paths, named, ())
    for function in named:
        if function.file is not None:  # and the others in its folder, which it may import
            paths.update(dict.fromkeys(sorted(function.file.parent.glob("*.py"))))
    files = tuple(map(identify_file, paths))
    code = digest([lm_eval_version(), [(file.path.name, file.sha256) for file in files]])
    kind = str(config.get("output_type", "generate_until"))
    task = TaskIdentity(name, None, path.absolute(), files, tuple(_code(named, config)), output_type=kind)
    if name in tasks.main:
        _check_metric(name, tasks.main[name], config)
    if name in tasks.data:
        return _with_items_of_spec(task, code, tasks, base)
    if config.get("dataset_path") in FILE_FORMATS:
        return _with_own_files(task, code, config, tasks.shots)
    return _with_hub_data(task, code, config)


def _check_metric(name: str, main: str, config: dict[str, Any]) -> None:
    """Refuse a main metric that the definition does not list; one that computes its metrics by a function may have any.

    Raises:
        StudyError: the task has no such metric.
    """
    listed = config.get("metric_list")
    if config.get("process_results") is not None or not isinstance(listed, list):
        return
    metrics = [entry.get("metric") if isinstance(entry, dict) else None for entry in listed]
    if main.partition(",")[0] not in metrics and all(isinstance(metric, str) for metric in metrics):
        raise StudyError(
            f"task `{name}` has no metric `{main}`",
            hint=f"it has {', '.join(f'`{metric}`' for metric in metrics)}; see `main` of [evaluation.tasks]",
        )


def _check_shots(name: str, shots: int, available: int) -> None:
    """Refuse more examples before each item than there are.

    Raises:
        StudyError: there are too few.
    """
    if shots > available:
        raise StudyError(
            f"task `{name}` has {count_text(available, 'item')} to draw examples from, and shots = {shots}",
            hint=f"write `shots = {available}` or less in [evaluation.tasks]",
        )


def _with_items_of_spec(task: TaskIdentity, code: str, tasks: Tasks, base: Path) -> TaskIdentity:
    entry = tasks.data[task.name]
    data = entry if isinstance(entry, TaskData) else TaskData(test=entry)
    if tasks.shots and data.fewshot is None:
        raise StudyError(
            f"task `{task.name}` needs `fewshot`: {tasks.shots} examples before each item, and only "
            f"`{data.test}` is there",
            hint=f'{task.name} = {{ test = "{data.test}", fewshot = "..." }}',
        )
    test = _existing(task.name, base / data.test)
    fewshot = _existing(task.name, base / data.fewshot) if data.fewshot is not None else None
    items = {path: _items(task.name, path) for path in (test, fewshot) if path is not None}
    if fewshot is not None:
        _check_shots(task.name, tasks.shots, items[fewshot])
    files = tuple(map(identify_file, items))
    return replace(
        task,
        key=digest(["task", task.name, code, [file.sha256 for file in files]]),
        files=task.files + files,
        test=test,
        fewshot=fewshot,
        items=items[test],
        bytes=test.stat().st_size,
    )


def _with_own_files(task: TaskIdentity, code: str, config: dict[str, Any], shots: int) -> TaskIdentity:
    """Return the task with the files that its YAML names, relative to its folder, as names or patterns."""
    assert task.yaml is not None
    kwargs = config.get("dataset_kwargs")
    data_files = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if data_files is None:
        raise StudyError(f"task `{task.name}` reads files, but `{task.yaml}` has no `data_files`")
    by_split = data_files if isinstance(data_files, dict) else {"train": data_files}
    splits: dict[str, list[Path]] = {}
    for split, names in by_split.items():
        splits[str(split)] = paths = []
        for name in map(str, names if isinstance(names, list) else [names]):
            matches = [] if Path(name).is_absolute() else sorted(task.yaml.parent.glob(name))
            files = [path.absolute() for path in matches if path.is_file()]
            paths += files or [_existing(task.name, task.yaml.parent / name)]
    # Rows of other formats are not counted.
    items = {
        split: sum(_items(task.name, path) for path in paths)
        for split, paths in splits.items()
        if all(path.suffix == ".jsonl" for path in paths)
    }
    scored = str(config.get("test_split") or config.get("validation_split"))
    pool = _pool(config)
    if pool in items:
        _check_shots(task.name, shots, items[pool] - (pool == scored))  # an item is no example of itself
    identities = {split: [identify_file(path) for path in splits[split]] for split in sorted(splits)}
    hashes = [(split, [file.sha256 for file in files]) for split, files in identities.items()]
    return replace(
        task,
        key=digest(["task", task.name, code, hashes]),
        files=task.files + tuple(file for files in identities.values() for file in files),
        items=items.get(scored),
        bytes=sum(path.stat().st_size for path in splits[scored]) if scored in items else None,
    )


def _pool(config: dict[str, Any]) -> str | None:
    """Return the split that lm-eval draws examples from; None: the definition lists them, or has no split."""
    examples = config.get("fewshot_config")
    examples = examples if isinstance(examples, dict) else {}
    if examples.get("samples") is not None:
        return None
    splits = (config.get(key) for key in ("training_split", "validation_split", "test_split"))
    return examples.get("split") or config.get("fewshot_split") or next(filter(None, splits), None)


def _with_hub_data(task: TaskIdentity, code: str, config: dict[str, Any]) -> TaskIdentity:
    dataset = config.get("dataset_path")
    if not isinstance(dataset, str):
        # The items come from a Python function, whose file is part of the code.
        return replace(task, key=digest(["task", task.name, code]))
    # Imported here: a study of local items starts a quarter of a second sooner without it.
    from studyctl.sources import hub

    kwargs = config.get("dataset_kwargs")
    revision = kwargs.get("revision") if isinstance(kwargs, dict) else None
    try:
        resolved = hub.resolve("dataset", dataset, str(revision or "main"))
    except hub.HubUnreachable as error:
        return replace(task, dataset=dataset, unknown=str(error))
    key = digest(["task", task.name, code, dataset, resolved.commit])
    return replace(task, key=key, dataset=dataset, commit=resolved.commit, note=resolved.note)


def _existing(task: str, path: Path) -> Path:
    if not path.is_file():
        raise StudyError(f"task `{task}`: there is no data file `{path}`")
    return path.absolute()


def _items(task: str, path: Path) -> int:
    items = remembered(path, "json lines 1", count_json_lines)
    if items == 0:
        raise StudyError(f"task `{task}`: the data file `{path}` is empty")
    return items


def _code(named: Iterable[_Function], config: dict[str, Any]) -> Iterator[str]:
    """Yield what runs code as soon as lm-eval reads a task or scores it, without what lm-eval itself brings along."""
    lm_eval = lm_eval_tasks()
    names: dict[str, list[str]] = defaultdict(list)
    for function in named:
        if lm_eval is None or not function.folder.is_relative_to(lm_eval.resolve()):
            names[str(function.file or "an installed package")].append(f"`{function.name}`")
    for file, functions in names.items():
        yield f"{', '.join(dict.fromkeys(functions))} of {file}"
    metrics = config.get("metric_list")
    if config.get("process_results") is not None or not isinstance(metrics, list):
        return
    for entry in metrics:
        metric = entry.get("metric") if isinstance(entry, dict) else None
        if isinstance(metric, str) and (entry.get("hf_evaluate") is True or metric not in lm_eval_metrics()):
            yield f"metric `{metric}` of the package `evaluate`, from the hub or a folder of that name"


def _merged(
    path: Path, files: dict[Path, None], named: list[_Function], above: tuple[Path, ...]
) -> dict[str, Any]:
    """Return a YAML file merged over the files that it includes.

    The files read are added to ``files``. Every function is added to ``named``, also one that another file overrides: lm-eval
    imports them all.
    """
    path = path.resolve()
    if path in above:
        raise StudyError(f"`{path}` includes itself")
    config = _load(path, named)
    files[path] = None
    merged: dict[str, Any] = {}
    includes = config.pop("include", [])
    for name in includes if isinstance(includes, list) else [includes]:
        other = path.parent / str(name)
        if not other.is_file():
            raise StudyError(f"`{path}` includes `{name}`, which does not exist")
        merged |= _merged(other, files, named, (*above, path))
    return merged | config


def _load(path: Path, named: list[_Function]) -> dict[str, Any]:
    class Loader(yaml.CSafeLoader):
        """Reads lm-eval's ``!function`` as a name, and ignores other tags."""

    def function(loader: yaml.CSafeLoader, node: yaml.Node) -> _Function:
        named.append(_Function(str(getattr(node, "value", "")), path.parent))
        return named[-1]

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
