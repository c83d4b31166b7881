"""lm-eval task definitions, with their items from local files where these are given.

Local items never pass through the cache of ``datasets``, so they cannot be stale, and no hub is asked.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import jinja2
import jinja2.meta
import pyarrow as pa
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from studyctl.errors import Problem, ProblemCode, StepError
from studyctl.files import cache_folder

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""``dataset_path`` values that mean: files named in ``dataset_kwargs.data_files``."""

MISFITS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    AssertionError,
    jinja2.TemplateError,
)
"""What the templates and functions of a task raise when an item is not what they expect."""

_SPLITS = ("training_split", "validation_split", "test_split")


@dataclass(frozen=True)
class TaskRequest:
    """A task, where its definition and items are, and how it is asked."""

    name: str
    yaml: Path | None
    """lm-eval's definition; None: the one that lm-eval ships under this name."""
    test: Path | None
    """JSON lines that are scored instead of the task's own data."""
    fewshot: Path | None
    """JSON lines that few-shot examples are drawn from; used with ``test``."""
    shots: int
    limit: int
    """The first n items; 0: all."""
    chat_template: bool
    bos: Literal["auto", "none", "prepend"]
    revision: str | None = None
    """Commit of the hub dataset that the items come from; None: the newest."""
    main: str | None = None
    """The metric that tables show; None: lm-eval's first."""
    files: frozenset[Path] | None = None
    """Local files that the task was planned with: no others are read. None: not planned."""

    @property
    def where(self) -> str:
        """Return what to call the items in a message."""
        return str(self.test) if self.test is not None else f"task `{self.name}`"


def load_task(request: TaskRequest) -> Task:
    """Build lm-eval's task object.

    Raises:
        StepError: the definition, the files or the dataset are missing, or do not fit each other.
    """
    path = request.yaml or _shipped(request.name)
    entry = TaskIndex.entry_from_path(path) if path.is_file() else None
    if entry is None or entry.kind not in (Kind.TASK, Kind.PY_TASK):
        raise StepError(
            f"{path} is not the definition of one lm-eval task", hint="groups: name their tasks one by one"
        )
    config = load_yaml(path, resolve_func=False)
    if request.test is not None and entry.kind is Kind.PY_TASK:
        raise StepError(
            f"task `{request.name}` is written in Python: its items cannot be read from {request.test}"
        )
    overrides = _overrides(request, config, path.parent)
    try:
        task = TaskFactory().build(entry, overrides=overrides, registry={})
    except (*MISFITS, OSError, datasets.exceptions.DatasetsError) as error:
        if request.test is None and isinstance(
            error, OSError | ValueError | datasets.exceptions.DatasetsError
        ):
            raise StepError(
                f"the data of task `{request.name}` cannot be loaded: {error}",
                hint="fetch it while there is a network, or give a local file under [evaluation.tasks.data]",
            ) from error
        raise misfit(request, 0, {}, error, config) from error
    if request.test is not None:
        _check_fields(request, task, config)
    return task


def misfit(
    request: TaskRequest, item: int, doc: Mapping[str, Any], error: BaseException, config: Mapping[str, Any]
) -> StepError:
    """Return the error to raise when a task cannot use an item."""
    reason = str(error)
    if isinstance(error, KeyError):
        key = error.args[0]
        unknown = isinstance(key, str) and key not in doc
        reason = f"it has no field `{key}`" if unknown else f"the task does not know the value {key!r}"
    wanted = _wanted_fields(config)
    hint = f"the task reads {_list(wanted)}" if wanted else ""
    if doc:
        hint += ("; " if hint else "") + f"the item has {_list(doc)}"
    what = f"item {item} of {request.where} does not fit task `{request.name}`: {reason}"
    return StepError(Problem(what, file=request.test, hint=hint))


def _shipped(name: str) -> Path:
    entry = TaskManager().task_index.get(name)
    if entry is None or entry.yaml_path is None:
        raise StepError(f"lm-eval has no task `{name}`", hint="`lm-eval ls tasks` lists them")
    return Path(entry.yaml_path)


def _overrides(request: TaskRequest, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what replaces keys of the definition so that it finds its items."""
    if request.test is not None:
        files, overrides = _local_splits(request, config)
        return overrides | _in_memory({split: [path] for split, path in files.items()})
    options = dict(config.get("dataset_kwargs") or {})
    if config.get("custom_dataset") is not None:
        return {}
    if config.get("dataset_path") not in FILE_FORMATS or "data_files" not in options:
        # lm-eval hands every option on to `datasets.load_dataset`.
        pinned = {"revision": request.revision} if request.revision else {}
        return {"dataset_kwargs": {"cache_dir": str(_cache()), **pinned, **options}}
    named = _resolve(options["data_files"], folder)
    _check_planned(request, named)
    if config["dataset_path"] == "json" and all(
        path.suffix == ".jsonl" for paths in named.values() for path in paths
    ):
        return _in_memory(named)
    options["data_files"] = {split: [str(path) for path in paths] for split, paths in named.items()}
    return {"dataset_kwargs": options | {"cache_dir": str(_cache() / _content(named))}}


def _local_splits(request: TaskRequest, config: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the file of each split, under the names that the task uses, and what to change in the definition.

    Which split examples come from is lm-eval's rule: the named one, else training, validation, test. Splits without a
    file are taken out of the definition, as lm-eval would look for them.
    """
    assert request.test is not None
    scored = config.get("test_split") or config.get("validation_split")
    if scored is None:
        raise StepError(f"task `{request.name}` names neither a test nor a validation split to score")
    examples = dict(config.get("fewshot_config") or {})
    named = examples.get("split") or config.get("fewshot_split")
    pool = named or next(config[split] for split in _SPLITS if config.get(split))
    files = {scored: request.test}
    changes: dict[str, Any] = {}
    if request.fewshot is not None:
        source = "fewshot" if pool == scored else pool
        files[source] = request.fewshot
        named = source if named or pool == scored else None
    elif pool != scored:
        if request.shots > 0 and not (named is None and examples.get("samples")):
            raise StepError(
                f"task `{request.name}` has no items to draw {request.shots} examples from",
                hint=f'give {request.name} = {{ test = "{request.test.name}", fewshot = "..." }} under [evaluation.tasks.data]',
            )
        named = None
    changes |= {split: None for split in _SPLITS if config.get(split) not in files}
    changes["fewshot_split"] = named
    if examples:
        changes["fewshot_config"] = {key: value for key, value in examples.items() if key != "split"}
    return files, changes


def _in_memory(files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """Return overrides that make a task take its items from JSON lines."""
    splits = datasets.DatasetDict({split: _read(paths) for split, paths in files.items()})

    def dataset(**_: object) -> datasets.DatasetDict:
        return splits

    return {"custom_dataset": dataset, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": None}


def _read(paths: list[Path]) -> datasets.Dataset:
    rows = [row for path in paths for row in _rows(path)]
    if not rows:
        raise StepError(
            Problem(f"{paths[0]} is empty", file=paths[0], hint="one JSON object a line is wanted")
        )
    try:
        return datasets.Dataset.from_list(rows)
    except pa.ArrowException as error:
        raise StepError(
            Problem(
                f"the items of {paths[0]} are not alike: {error}",
                file=paths[0],
                hint="a field has one type in all lines",
            )
        ) from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file; all of them have the fields of the first."""
    fields: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = _object(path, number, line)
                fields = fields or set(row)
                if different := fields.symmetric_difference(row):
                    name = min(different)
                    what = (
                        f"has no field `{name}`, line 1 has"
                        if name in fields
                        else f"has a field `{name}`, line 1 has not"
                    )
                    hint = "every line has the same fields; null stands for no value"
                    raise StepError(
                        Problem(f"line {number} of {path} {what}", file=path, line=number, hint=hint)
                    )
                yield row
    except OSError as error:
        raise StepError(Problem(f"{path} cannot be read: {error.strerror}", file=path)) from error
    except UnicodeDecodeError as error:
        raise StepError(
            Problem(f"{path} is not UTF-8: {error.reason}", file=path, hint="save it as UTF-8")
        ) from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"line {number} of {path} is not JSON: {error.msg}"
        raise StepError(
            Problem(
                problem, file=path, line=number, column=error.colno, hint="one JSON object a line is wanted"
            )
        ) from error
    if not isinstance(row, dict):
        problem = f"line {number} of {path} is no JSON object"
        raise StepError(Problem(problem, file=path, line=number, hint="one JSON object a line is wanted"))
    return row


def _resolve(data_files: Any, folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; relative paths and patterns are relative to the definition's folder."""
    splits = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    resolved: dict[str, list[Path]] = {}
    for split, names in splits.items():
        resolved[split] = []
        for name in [names] if isinstance(names, str) else names:
            found = sorted(folder.glob(name)) if not Path(name).is_absolute() else [Path(name)]
            if not found or not found[0].is_file():
                raise StepError(
                    f"the data file {folder / name} is missing", hint=f"`data_files` are relative to {folder}"
                )
            resolved[split] += found
    return resolved


def _check_planned(request: TaskRequest, named: Mapping[str, list[Path]]) -> None:
    """Refuse files that match a pattern of the definition since the study was planned."""
    found = {path.absolute() for paths in named.values() for path in paths}
    if request.files is not None and (added := found - request.files):
        raise StepError(
            f"task `{request.name}` changed since the study was planned: {min(added)} was added",
            hint="run the study again: what depends on it is planned anew",
            code=ProblemCode.CHANGED,
        )


def _cache() -> Path:
    return cache_folder() / "datasets"


def _content(files: Mapping[str, list[Path]]) -> str:
    """Return a name for the bytes of files: `datasets` names its cache by path and time, which may stay the same."""
    state = hashlib.blake2b(digest_size=10)
    for paths in files.values():
        for path in paths:
            state.update(hashlib.blake2b(path.read_bytes()).digest())
    return state.hexdigest()


def _check_fields(request: TaskRequest, task: Task, config: Mapping[str, Any]) -> None:
    """Raise where a definition names a field that the items lack: lm-eval would take the name itself for the text."""
    features = getattr(task, "features", [])
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        name = config.get(key)
        if isinstance(name, str) and name.isidentifier() and name not in features:
            raise misfit(request, 0, dict.fromkeys(features), KeyError(name), config)


def _wanted_fields(config: Mapping[str, Any]) -> list[str]:
    """Return the fields that the templates of a definition name; those that functions read are not known."""
    wanted: list[str] = []
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        template = config.get(key)
        if not isinstance(template, str):
            continue
        if template.isidentifier():
            wanted.append(template)
        elif "{" in template:
            wanted += sorted(jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template)))
    return list(dict.fromkeys(wanted))


def _list(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
