"""lm-eval task definitions, with their items from local files if the spec names some.

Local items never pass through the cache of ``datasets``, so they cannot be stale, and no hub is needed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import jinja2
import jinja2.meta
import pyarrow as pa
from lm_eval.api.task import Task
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from studyctl.contract.identity import Bos, TaskIdentity
from studyctl.errors import Problem, ProblemCode, StepError
from studyctl.evaluate.tasks.templates import sandbox_templates
from studyctl.files import cache_entry, digest

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Values of ``dataset_path`` for which the items are in the files of ``dataset_kwargs.data_files``."""

MISFITS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    AssertionError,
    ArithmeticError,
    jinja2.TemplateError,
)
"""Errors that the templates and functions of a task raise if an item is not what they expect."""

_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
_SPLITS = ("training_split", "validation_split", "test_split")


@dataclass(frozen=True)
class TaskRequest:
    """A task, and how it is scored."""

    task: TaskIdentity
    shots: int
    limit: int
    """The first n items; 0: all."""
    chat_template: bool
    bos: Bos
    main: str | None = None
    """The metric that tables show; None: lm-eval's first."""

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.task.name

    @property
    def where(self) -> str:
        """Return the name of the task's items in messages."""
        return f"task `{self.name}`" if self.task.test is None else str(self.task.test)


def load_task(request: TaskRequest) -> Task:
    """Build lm-eval's task object.

    Raises:
        StepError: the definition, the files or the dataset are missing, or cannot be used together.
    """
    sandbox_templates()
    path, test = request.task.yaml, request.task.test
    assert path is not None
    entry = TaskIndex.entry_from_path(path) if path.is_file() else None
    if entry is None or entry.kind is not Kind.TASK:
        raise StepError(
            f"{path} is not the definition of one lm-eval task", hint="groups: name their tasks one by one"
        )
    config = load_yaml(path, resolve_func=False)
    overrides = _overrides(request, config, path.parent)
    try:
        task = TaskFactory().build(entry, overrides=overrides, registry={})
    except (*MISFITS, OSError, datasets.exceptions.DatasetsError) as error:
        if test is None and isinstance(error, OSError | ValueError | datasets.exceptions.DatasetsError):
            raise StepError(
                f"the data of task `{request.name}` cannot be loaded: {error}",
                hint="fetch it while there is a network, or give a local file under [evaluation.tasks.data]",
            ) from error
        raise misfit(request, 0, {}, error, config) from error
    if test is not None:
        _check_fields(request, task, config)
    return task


def misfit(
    request: TaskRequest, item: int, doc: Mapping[str, Any], error: BaseException, config: Mapping[str, Any]
) -> StepError:
    """Return the error to raise if a task cannot use an item."""
    reason = str(error)
    if isinstance(error, KeyError):
        key = error.args[0]
        unknown = isinstance(key, str) and key not in doc
        reason = f"it has no field `{key}`" if unknown else f"the task does not know the value {key!r}"
    fields = _template_fields(config)
    hints = [f"the task reads {_list(fields)}"] if fields else []
    hints += [f"the item has {_list(doc)}"] if doc else []
    problem = f"item {item} of {request.where} does not fit task `{request.name}`: {reason}"
    return StepError(Problem(problem, file=request.task.test, hint="; ".join(hints)))


def _overrides(request: TaskRequest, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return keys that replace those of the definition so that it finds its items."""
    if request.task.test is not None:
        by_split, overrides = _local_splits(request, config, request.task.test)
        return overrides | _in_memory({split: [path] for split, path in by_split.items()})
    if config.get("custom_dataset") is not None:
        return {}
    options, cache = dict(config.get("dataset_kwargs") or {}), cache_entry("datasets")
    if config.get("dataset_path") not in FILE_FORMATS or "data_files" not in options:
        # lm-eval hands every option on to `datasets.load_dataset`.
        pinned = {"revision": request.task.commit} if request.task.commit else {}
        return {"dataset_kwargs": {"cache_dir": str(cache), **pinned, **options}}
    splits = _files_by_split(options["data_files"], folder)
    files = [path for paths in splits.values() for path in paths]
    if added := {path.absolute() for path in files} - {file.path for file in request.task.files}:
        raise StepError(
            f"task `{request.name}` changed since the study was planned: {min(added)} was added",
            hint="run the study again: what depends on it is planned again",
            code=ProblemCode.CHANGED,
        )
    if config["dataset_path"] == "json" and all(path.suffix == ".jsonl" for path in files):
        return _in_memory(splits)
    options["data_files"] = {split: [str(path) for path in paths] for split, paths in splits.items()}
    # `datasets` names its cache by path and time, which may stay the same when the content changes.
    content = digest([file.sha256 for file in request.task.files])
    return {"dataset_kwargs": options | {"cache_dir": str(cache / content)}}


def _local_splits(
    request: TaskRequest, config: Mapping[str, Any], test: Path
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the file of each split, under the names that the task uses, and changes to the definition.

    Few-shot examples come from the split that lm-eval would take: the named one, else training, validation or test. Splits
    without a file are removed from the definition, since lm-eval would look for them.
    """
    scored = config.get("test_split") or config.get("validation_split")
    if scored is None:
        raise StepError(f"task `{request.name}` names neither a test nor a validation split to score")
    examples = dict(config.get("fewshot_config") or {})
    example_split = examples.get("split") or config.get("fewshot_split")
    pool = example_split or next(config[split] for split in _SPLITS if config.get(split))
    files = {scored: test}
    if request.task.fewshot is not None:
        source = "fewshot" if pool == scored else pool
        files[source] = request.task.fewshot
        example_split = source if example_split or pool == scored else None
    elif pool != scored:
        example_split = None  # planning made sure that no examples are needed
    changes: dict[str, Any] = {split: None for split in _SPLITS if config.get(split) not in files}
    changes["fewshot_split"] = example_split
    if examples:
        changes["fewshot_config"] = {key: value for key, value in examples.items() if key != "split"}
    return files, changes


def _in_memory(files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """Return overrides that make a task read its items from files of JSON lines."""
    splits = datasets.DatasetDict({split: _read(paths) for split, paths in files.items()})
    return {
        "custom_dataset": lambda **_: splits,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": None,
    }


def _read(paths: list[Path]) -> datasets.Dataset:
    """Return the items of JSON lines files; planning checked that they are JSON, but not that they have the same fields."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        first = len(rows)
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
            if not line.strip():
                continue
            rows.append(json.loads(line))
            if different := set(rows[first]).symmetric_difference(rows[-1]):
                name = min(different)
                extra = name not in rows[first]
                has = f"a field `{name}`, line 1 has not" if extra else f"no field `{name}`, line 1 has"
                hint = "every line has the same fields; null stands for no value"
                problem = f"line {number} of {path} has {has}"
                raise StepError(Problem(problem, file=path, line=number, hint=hint))
    try:
        return datasets.Dataset.from_list(rows)
    except pa.ArrowException as error:
        problem = f"the items of {paths[0]} are not alike: {error}"
        hint = "a field has one type in all lines"
        raise StepError(Problem(problem, file=paths[0], hint=hint)) from error


def _files_by_split(data_files: Any, folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; relative paths and patterns are relative to the definition's folder."""
    splits = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    return {
        split: [
            path
            for name in ([names] if isinstance(names, str) else names)
            for path in ([Path(name)] if Path(name).is_absolute() else sorted(folder.glob(name)))
        ]
        for split, names in splits.items()
    }


def _check_fields(request: TaskRequest, task: Task, config: Mapping[str, Any]) -> None:
    """Refuse a definition that names a field which the items do not have: lm-eval would use the name itself as text."""
    features = getattr(task, "features", [])
    for key in _TEMPLATES:
        name = config.get(key)
        if isinstance(name, str) and name.isidentifier() and name not in features:
            raise misfit(request, 0, dict.fromkeys(features), KeyError(name), config)


def _template_fields(config: Mapping[str, Any]) -> list[str]:
    """Return the fields that the templates of a definition name, without those that only Python functions read."""
    fields: list[str] = []
    for key in _TEMPLATES:
        template = config.get(key)
        if isinstance(template, str) and template.isidentifier():
            fields.append(template)
        elif isinstance(template, str) and "{" in template:
            fields += sorted(jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template)))
    return list(dict.fromkeys(fields))


def _list(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
