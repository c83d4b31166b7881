"""lm-eval's metrics of a model's answers, and a row for every item."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean, stderr_for_metric
from lm_eval.api.task import Task

from studyctl.contract.item_texts import ANSWER_CHARACTERS, ITEM_TEXTS, cut
from studyctl.contract.records import TaskFigure
from studyctl.errors import Problem, StepError
from studyctl.evaluate.tasks.data import MISFITS, TaskRequest, misfit
from studyctl.evaluate.tasks.texts import item_text, room_of

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("task", pa.string()),
    ("item", pa.int32()),
    ("gold", pa.int32()),
    ("predicted", pa.int32()),
    ("correct", pa.bool_()),
    ("correct_norm", pa.bool_()),
    ("score", pa.float64()),
    ("passage", pa.string()),
    ("loglikelihoods", pa.list_(pa.float64())),
    ("answer", pa.string()),
]
ITEMS = pa.schema(_COLUMNS)
"""``item`` is lm-eval's ``doc_id``, ``gold`` the first right choice, ``predicted`` the most likely one. ``score`` is the item's value
of the task's main metric (null if it is not a number), ``correct`` whether that is 1, ``correct_norm`` whether ``acc_norm`` is 1 (null
if the value is neither 0 nor 1). ``passage`` is the hash of the text that an item is about: items about one passage are not
independent draws. ``loglikelihoods`` are in the order of the choices, in nats; empty if answers are generated. ``answer`` is the
generated answer as it was judged, cut to :data:`~studyctl.contract.item_texts.ANSWER_CHARACTERS`; null for choices."""
PASSAGES = ("passage", "article", "context", "paragraph", "page", "premise", "story", "support", "sentence1")
"""Fields of lm-eval's items with a text that several items may ask about."""
FRACTIONS = frozenset({"f1", "mcc", "acc_all"})
"""Metrics that are fractions, higher being better, though only the whole task has a value. Means over tasks include these, and
main metrics whose items' values are such fractions."""

BOOTSTRAP_SAMPLES = 1000
CORPUS_METRICS = ("bleu", "chrf", "chrfpp", "ter")
"""Slow metrics over a whole corpus, for which lm-eval takes 100 bootstrap samples."""
os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval would bootstrap in a pool of processes


@dataclass(frozen=True)
class TaskScores:
    """Scores of a model in a task."""

    metrics: list[TaskFigure]
    """Named as in lm-eval without the filter; if a task has several filters, all but the first are named ``metric,filter``."""
    items: pa.Table
    """Schema :data:`ITEMS`."""
    texts: pa.Table
    """Schema :data:`~studyctl.contract.item_texts.ITEM_TEXTS`."""


def collect(
    task: Task, docs: list[tuple[int, Any]], instances: Mapping[int, list[Instance]], request: TaskRequest
) -> TaskScores:
    """Return the scores of answered requests.

    Args:
        task: lm-eval's task.
        docs: items with their ``doc_id``.
        instances: the requests of each item, with the model's answers.
        request: the task, and how it is scored.

    Raises:
        StepError: an item's right answer is not among its choices, or the task cannot judge it.
    """
    task._instances = list(chain.from_iterable(instances.values()))
    task.apply_filters()
    by_metric: dict[str, list[Any]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    room = room_of(len(docs))
    for number, name in enumerate(task._instances[0].filtered_resps):
        suffix = f",{name}" if number else ""
        for doc_id, doc in docs:
            answers = [instance.filtered_resps[name] for instance in instances[doc_id]]
            item_metrics, row = _judge(task, request, doc_id, doc, answers)
            if number == 0:
                rows.append({"task": request.name, "item": doc_id, **row, "passage": passage_of(doc)})
                scored = len(row["loglikelihoods"])
                texts.append({"item": doc_id, **item_text(task, doc, instances[doc_id], scored, room)})
            for metric, value in item_metrics.items():
                by_metric[metric + suffix].append(value)
    main = _main_metric(task, request, list(by_metric))
    for row, value in zip(rows, by_metric[main], strict=True):
        row |= {"score": _number(value), "correct": _flag(value)}
    metrics = [_figure(task, request, metric, values) for metric, values in by_metric.items()]
    name = main.partition(",")[0]
    fractions = all(row["score"] is not None and 0 <= row["score"] <= 1 for row in rows)
    averaged = bool(task.higher_is_better().get(name)) and (fractions or name in FRACTIONS)
    for figure in metrics:
        figure.main = figure.metric == main
        figure.averaged = figure.main and averaged
    return TaskScores(
        metrics,
        pa.Table.from_pylist(rows, schema=ITEMS),
        pa.Table.from_pylist(texts, schema=ITEM_TEXTS),
    )


def passage_of(doc: Mapping[str, Any]) -> str:
    """Return the hash of the text that an item is about, 16 hex digits; without such a text, of the item itself."""
    texts = (doc.get(name) for name in PASSAGES)
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    hashed = " ".join(text.split()) if text is not None else json.dumps(doc, sort_keys=True, default=repr)
    return hashlib.blake2b(hashed.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _main_metric(task: Task, request: TaskRequest, metrics: list[str]) -> str:
    """Return the metric that the spec names, or the first of the definition.

    Raises:
        StepError: the task has no such metric.
    """
    if request.main is None:
        listed: list[str] = [metric["metric"] for metric in task.config.metric_list or ()]
        return next(name for name in (*listed, *metrics) if name in metrics)
    if request.main not in metrics:
        raise StepError(
            f"task `{request.name}` has no metric `{request.main}`",
            hint=f"it has {', '.join(f'`{name}`' for name in metrics)}; see [evaluation.tasks.main]",
        )
    return request.main


def _judge(
    task: Task, request: TaskRequest, doc_id: int, doc: Mapping[str, Any], answers: list[Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an item's metrics as lm-eval computes them, and its row."""
    try:
        choices, golds = choices_of(task, doc)
        if choices and not any(0 <= gold < len(choices) for gold in golds):
            hint = f"the choices are {choices}"
            problem = f"the right answer of item {doc_id} of {request.where} is not among its {len(choices)} choices"
            raise StepError(Problem(problem, file=request.task.test, hint=hint))
        metrics = task.process_results(doc, answers)
    except MISFITS as error:
        raise misfit(request, doc_id, doc, error, task.config.to_dict(keep_callable=True)) from error
    scored = task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood")
    likelihoods = [float(answer[0]) for answer in answers] if scored else []
    if choices:  # acc_mutual_info asks for the choices without their context as well
        likelihoods = likelihoods[: len(choices)]
    row = {
        "gold": golds[0] if golds else None,
        "predicted": int(np.argmax(likelihoods)) if choices else None,
        "correct_norm": _flag(metrics.get("acc_norm")),
        "loglikelihoods": likelihoods,
        "answer": _generated(answers[0]) if task.OUTPUT_TYPE == "generate_until" else None,
    }
    return metrics, row


def _generated(answer: Any) -> str | None:
    """Return a generated answer; None if the task's filter leaves several."""
    return cut(answer, ANSWER_CHARACTERS) if isinstance(answer, str) else None


def choices_of(task: Task, doc: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return the choices of an item and the indices of the right ones, as lm-eval finds them; empty if it has no choices."""
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results):
        return [], []
    choices: list[str] = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        return choices, [choices.index(gold)] if gold in choices else []
    return choices, [int(index) for index in (gold if isinstance(gold, list) else [gold])]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) else None


def _flag(value: Any) -> bool | None:
    """Return whether a value means right (1) or wrong (0); None if it is neither."""
    number = _number(value)
    return bool(number) if number in (0.0, 1.0) else None


def _figure(task: Task, request: TaskRequest, metric: str, values: list[Any]) -> TaskFigure:
    """Return the aggregate of the items' values, with its standard error as lm-eval defines it."""
    name = metric.partition(",")[0]
    aggregate = task.aggregation().get(name, mean)
    standard_error = stderr_for_metric(aggregate, 100 if name in CORPUS_METRICS else BOOTSTRAP_SAMPLES)
    return TaskFigure(
        task=request.name,
        metric=metric,
        value=float(aggregate(values)),
        stderr=float(standard_error(values)) if standard_error is not None and len(values) > 1 else None,
        items=len(values),
        shots=request.shots,
        limit=request.limit,
    )
