"""What lm-eval makes of a model's answers: aggregated metrics, and a row for every item."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from studyctl.errors import Problem, StageError
from studyctl.evaluate.statistics import standard_error
from studyctl.evaluate.task_data import MISFITS, TaskRequest, misfit

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("task", pa.string()),
    ("item", pa.int32()),
    ("gold", pa.int32()),
    ("predicted", pa.int32()),
    ("correct", pa.bool_()),
    ("correct_norm", pa.bool_()),
    ("loglikelihoods", pa.list_(pa.float64())),
]
ITEMS = pa.schema(_COLUMNS)
"""``item`` is lm-eval's ``doc_id``, ``gold`` the first right choice, ``predicted`` the likeliest one. ``correct`` goes with
``acc`` (``exact_match`` where answers are generated), ``correct_norm`` with ``acc_norm``: null where a task has none.
``loglikelihoods`` are in the order of the choices, in nats; empty where answers are generated."""


@dataclass(frozen=True)
class TaskMetric:
    """An aggregated figure of a task."""

    metric: str
    """lm-eval's name without its filter; where a task has several filters, all but the first are named ``metric,filter``."""
    value: float
    stderr: float | None
    items: int


@dataclass(frozen=True)
class TaskScores:
    """What a model reaches in a task."""

    metrics: list[TaskMetric]
    items: pa.Table
    """Schema :data:`ITEMS`."""


def collect(
    task: Task, docs: list[tuple[int, Any]], instances: Mapping[int, list[Instance]], request: TaskRequest
) -> TaskScores:
    """Return the scores of answered requests.

    Args:
        task: lm-eval's task.
        docs: items with their ``doc_id``.
        instances: the requests of each item, with the model's answers.
        request: what was asked for.

    Raises:
        StageError: an item's right answer is not among its choices, or the task cannot judge it.
    """
    task._instances = [one for ones in instances.values() for one in ones]
    task.apply_filters()
    metrics: list[TaskMetric] = []
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(task._instances[0].filtered_resps):
        values: dict[str, list[Any]] = defaultdict(list)
        for doc_id, doc in docs:
            answers = [one.filtered_resps[name] for one in instances[doc_id]]
            found, row = _judge(task, request, doc_id, doc, answers)
            if number == 0:
                rows.append({"task": request.name, "item": doc_id, **row})
            for metric, value in found.items():
                values[metric].append(value)
        metrics += _aggregate(task, values, f",{name}" if number else "")
    return TaskScores(metrics, pa.Table.from_pylist(rows, schema=ITEMS))


def _judge(
    task: Task, request: TaskRequest, doc_id: int, doc: Mapping[str, Any], answers: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an item's metrics by lm-eval, and its row."""
    try:
        choices, golds = _choices(task, doc)
        if choices and not any(0 <= gold < len(choices) for gold in golds):
            hint = f"the choices are {choices}"
            what = f"the right answer of item {doc_id} of {request.where} is not among its {len(choices)} choices"
            raise StageError(Problem(what, file=request.test, hint=hint))
        found = task.process_results(doc, answers)
    except MISFITS as error:
        raise misfit(request, doc_id, doc, error, task.config.to_dict(keep_callable=True)) from error
    scored = task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood")
    likelihoods = [float(answer[0]) for answer in answers] if scored else []
    if choices:  # acc_mutual_info asks for the choices without their context as well
        likelihoods = likelihoods[: len(choices)]
    row = {
        "gold": golds[0] if golds else None,
        "predicted": int(np.argmax(likelihoods)) if choices else None,
        "correct": _flag(found, "acc", "exact_match"),
        "correct_norm": _flag(found, "acc_norm"),
        "loglikelihoods": likelihoods,
    }
    return found, row


def _choices(task: Task, doc: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return the choices of an item and the indices of the right ones, as lm-eval finds them; empty where there are none."""
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results):
        return [], []
    choices: list[str] = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        return choices, [choices.index(gold)] if gold in choices else []
    return choices, [int(index) for index in (gold if isinstance(gold, list) else [gold])]


def _flag(found: Mapping[str, Any], *names: str) -> bool | None:
    """Return the first of these metrics as right or wrong."""
    return next((bool(found[name]) for name in names if isinstance(found.get(name), int | float)), None)


def _aggregate(task: Task, values: Mapping[str, list[Any]], suffix: str) -> list[TaskMetric]:
    metrics = []
    for metric, collected in values.items():
        aggregate = task.aggregation().get(metric, mean)
        error = standard_error(aggregate, collected)
        metrics.append(TaskMetric(metric + suffix, float(aggregate(collected)), error, len(collected)))
    return metrics
