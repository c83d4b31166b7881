"""Task scores by lm-eval: its definitions, prompts, filters and aggregation, with a row for every item.

Does what ``lm_eval.simple_evaluate`` does for one task, without its progress bars and process pools, and with errors that
say which item of which file is wrong.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from studyctl.errors import Problem, StepError
from studyctl.evaluate.tasks.data import MISFITS, TaskRequest, load_task, misfit
from studyctl.evaluate.tasks.results import TaskScores, choices_of, collect
from studyctl.evaluate.tasks.scorer import ResumableChunks, Scorer
from studyctl.evaluate.tasks.templates import bounded
from studyctl.reporter import Reporter

FEWSHOT_SEED = 1234
"""lm-eval's default, as are the other seeds."""
CHATTY = ("lm_eval", "transformers", "datasets")
"""Loggers that repeat themselves for each task; what matters is reported as a warning."""


def score_task(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    *,
    batch_tokens: int,
    reporter: Reporter,
    resumable: ResumableChunks | None = None,
    reading: AbstractContextManager[None] | None = None,
) -> TaskScores:
    """Score a task.

    Seeds the generators of ``random``, ``numpy`` and ``torch``, as lm-eval does.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        tokenizer: the model's; it is not changed.
        request: the task.
        batch_tokens: tokens of a forward pass, padding included; at least one prompt.
        reporter: gets progress after every chunk, and warnings.
        resumable: where answers are saved, and those of an earlier attempt are found; None: nothing is saved.
        reading: context in which the task's definition and items are read.

    Raises:
        StepError: the task, its data or the tokenizer cannot be used together.
    """
    with _quiet():
        random.seed(0)
        np.random.seed(1234)
        torch.manual_seed(1234)
        with reading or nullcontext():
            task = load_task(request)
            docs = list(task.doc_iterator(limit=request.limit or None))
        _check_runnable(task, request, tokenizer)
        _set_shots(task, request, reporter)
        scorer = Scorer(model, tokenizer, request.bos, batch_tokens, reporter, resumable)
        instances = _ask(task, docs, request, scorer)
        by_kind: dict[str, list[Instance]] = defaultdict(list)
        for instance in chain.from_iterable(instances.values()):
            by_kind[instance.request_type] += [instance] * (instance.repeats or 1)
        for kind, same_kind in by_kind.items():
            for instance, answer in zip(same_kind, scorer.run(kind, same_kind), strict=True):
                instance.resps.append(answer)
        return collect(task, docs, instances, request)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loggers and progress bars of libraries for a while."""
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    bars = not datasets.are_progress_bars_disabled()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def _check_runnable(task: Task, request: TaskRequest, tokenizer: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise StepError(f"task `{request.name}` runs code that the model writes; this is not supported")
    if getattr(task, "MULTIMODAL", False):
        raise StepError(f"task `{request.name}` needs images or sound; only text is supported")
    if request.chat_template and not tokenizer.chat_template:
        raise StepError(
            "the tokenizer has no chat template", hint="set `chat_template = false` for this model"
        )


def _set_shots(task: Task, request: TaskRequest, reporter: Reporter) -> None:
    if task.get_config("num_fewshot") == 0 and request.shots:
        reporter.warning(
            f"task `{request.name}` is defined without examples: shots = {request.shots} is ignored"
        )
    else:
        task.set_config(key="num_fewshot", value=request.shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _ask(
    task: Task, docs: list[tuple[int, Any]], request: TaskRequest, scorer: Scorer
) -> dict[int, list[Instance]]:
    """Return lm-eval's requests for each item, by ``doc_id``."""
    chat = {
        "apply_chat_template": request.chat_template,
        "chat_template": bounded()(scorer.apply_chat_template) if request.chat_template else None,
    }
    instances: dict[int, list[Instance]] = {}
    for doc_id, doc in docs:
        try:
            context = task.fewshot_context(
                doc,
                num_fewshot=task.config.num_fewshot,
                fewshot_as_multiturn=True,
                gen_prefix=task.doc_to_prefix(doc),
                **chat,
            )
            choices, _ = choices_of(task, doc)
            if "" in choices:
                problem = f"item {doc_id} of {request.where} has an empty choice"
                raise StepError(Problem(problem, file=request.task.test, hint=f"the choices are {choices}"))
            origin = (request.name, doc_id, task.config.repeats)
            built = task.construct_requests(doc=doc, ctx=context, metadata=origin, **chat)
        except MISFITS as error:
            raise misfit(request, doc_id, doc, error, task.config.to_dict(keep_callable=True)) from error
        instances[doc_id] = built if isinstance(built, list) else [built]
    return instances
