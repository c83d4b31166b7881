"""Downloading everything that a study needs, so that it can run without a network."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from studyctl.contract.identity import ModelIdentity, TextIdentity
from studyctl.errors import ProblemCode, StudyError
from studyctl.evaluate.tasks.data import TaskRequest, load_task
from studyctl.evaluate.text.windows import needed_tokens
from studyctl.plan.planner import StudyPlan
from studyctl.reporter import Reporter
from studyctl.sources.models import load_tokenizer, model_folder
from studyctl.sources.tokens import calibration_tokens, tokenized_text

Fetch = Callable[[], object]


def prefetch(plan: StudyPlan, reporter: Reporter) -> None:
    """Download models and datasets at their commits, and convert GGUF files, into the user's caches.

    Local folders and files need nothing. Every source is tried; errors are raised together at the end.

    Raises:
        StudyError: something could not be looked up or fetched; carries a problem for each.
    """
    problems = [
        problem
        for problem in plan.problems
        if problem.severity == "error" or problem.code is ProblemCode.NOT_LOOKED_UP
    ]
    tokenizers: list[Any] = []
    sources = [*_models(plan, tokenizers, reporter), *_texts(plan, tokenizers, reporter), *_tasks(plan)]
    for done, (note, fetch) in enumerate(sources):
        reporter.check_stop()
        reporter.progress(done, len(sources), "source", note=note)
        try:
            fetch()
        except StudyError as error:
            problems += error.problems
    reporter.progress(len(sources), len(sources), "source")
    if problems:
        raise StudyError(problems)


def _models(plan: StudyPlan, tokenizers: list[Any], reporter: Reporter) -> Iterator[tuple[str, Fetch]]:
    """Yield each model and checkpoint with a function that fetches it and adds its tokenizer to ``tokenizers``."""

    def fetch(identity: ModelIdentity, allow_pickle: bool) -> None:
        folder = model_folder(identity, allow_pickle=allow_pickle, reporter=reporter)
        if identity.tokenizer:
            tokenizers.append(load_tokenizer(folder))

    for model in plan.models:
        for identity in (model.identity, *model.checkpoints.values()):
            if identity is not None and identity.key is not None:
                allow_pickle = identity is model.identity and model.spec.allow_pickle
                yield identity.id, partial(fetch, identity, allow_pickle)


def _texts(plan: StudyPlan, tokenizers: list[Any], reporter: Reporter) -> Iterator[tuple[str, Fetch]]:
    """Yield each text with a function that fetches it."""

    def fetch(text: TextIdentity, needed: int) -> None:
        if text.dataset is not None:
            # How many documents of a dataset are needed shows only when they are tokenised.
            for tokenizer in tokenizers:
                tokenized_text(text, tokenizer, needed=needed, reporter=reporter)

    for text, needed in dict.fromkeys(_needed_texts(plan)):
        if text.key is not None:
            yield str(text), partial(fetch, text, needed)


def _needed_texts(plan: StudyPlan) -> Iterator[tuple[TextIdentity, int]]:
    """Yield each text with the number of tokens needed of it."""
    perplexity = plan.document.spec.evaluation.perplexity
    for text in plan.texts.values():
        if perplexity is not None and text.purpose != "calibration":
            yield text, needed_tokens(perplexity.windows, perplexity.sequence_length)
    for model in plan.models:
        for calibration in filter(None, model.calibrations.values()):
            texts = calibration.texts
            needed = calibration_tokens(calibration.samples, calibration.sequence_length, max(len(texts), 1))
            yield from ((text, needed) for text in texts)


def _tasks(plan: StudyPlan) -> Iterator[tuple[str, Fetch]]:
    """Yield each task with a function that fetches it: loading a task leaves its dataset in the cache."""
    tasks = plan.document.spec.evaluation.tasks
    for name, task in plan.tasks.items():
        if tasks is not None and task.key is not None:
            request = TaskRequest(task, tasks.shots, tasks.limit, chat_template=False, bos="auto")
            yield name, partial(load_task, request)
