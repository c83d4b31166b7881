"""Fetching all that a study needs, so that it can run without a connection."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from studyctl.contract.identity import Purpose
from studyctl.contract.methods import Checkpoint
from studyctl.errors import Problem, StepError, StudyError
from studyctl.evaluate.tasks.data import TaskRequest, load_task
from studyctl.evaluate.text.windows import needed_tokens
from studyctl.reporter import Reporter
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import load_tokenizer, model_folder
from studyctl.sources.task_files import identify_task
from studyctl.sources.text_files import identify_text
from studyctl.sources.tokens import calibration_tokens, tokenized_text
from studyctl.spec.loading import Document
from studyctl.spec.models import Model, Spec

Step = Callable[[], None]


def prefetch(document: Document, reporter: Reporter) -> None:
    """Download models and datasets at their commits, and convert GGUF files, into the user's caches.

    Local folders and files need nothing. Everything is tried; what failed is raised together at the end.

    Raises:
        StudyError: something could not be had; carries a problem for each.
    """
    problems: list[Problem] = []
    tokenizers: list[Any] = []
    steps = [
        *_models(document, tokenizers, reporter),
        *_texts(document, tokenizers, reporter),
        *_tasks(document),
    ]
    for done, (note, step) in enumerate(steps):
        reporter.check_stop()
        reporter.progress(done, len(steps), "source", note=note)
        try:
            step()
        except StudyError as error:
            problems += error.problems
    reporter.progress(len(steps), len(steps), "source")
    if problems:
        raise StudyError(problems)


def _models(document: Document, tokenizers: list[Any], reporter: Reporter) -> Iterator[tuple[str, Step]]:
    """Yield a step for each model and published checkpoint; their tokenizers are collected."""

    def fetch(model: Model) -> None:
        identity = identify_model(model, document.base)
        folder = model_folder(identity, allow_pickle=model.allow_pickle, reporter=reporter)
        tokenizers.append(load_tokenizer(folder))

    def fetch_checkpoint(settings: Checkpoint) -> None:
        identity = identify_checkpoint(settings, document.base)
        folder = model_folder(identity, allow_pickle=False, reporter=reporter)
        if identity.tokenizer:
            tokenizers.append(load_tokenizer(folder))

    for model in document.spec.models:
        yield model.id, partial(fetch, model)
    for settings in _checkpoints(document.spec):
        yield settings.id, partial(fetch_checkpoint, settings)


def _checkpoints(spec: Spec) -> Iterator[Checkpoint]:
    """Yield every checkpoint that is compared with a model of the spec; the others are left out of the study."""
    models = {model.id for model in spec.models}
    for table in spec.compression:
        for settings, _, _ in table.expand():
            if isinstance(settings, Checkpoint) and settings.of in models:
                yield settings


def _texts(document: Document, tokenizers: list[Any], reporter: Reporter) -> Iterator[tuple[str, Step]]:
    """Yield a step for each text of each language."""

    def fetch(name: str, purpose: Purpose, language: str, needed: int) -> None:
        text = identify_text(name, document.spec.text.get(name), purpose, language, document.base)
        if text.key is None:
            raise StepError(f"text `{name}` in {language} could not be looked up: {text.unknown}")
        if text.dataset is not None:
            # How many documents of a dataset are needed shows when they are tokenised.
            for tokenizer in tokenizers:
                tokenized_text(text, tokenizer, needed=needed, reporter=reporter)

    for text in dict.fromkeys(_wanted_texts(document.spec)):
        yield f"{text[0]}, {text[1]}, {text[2]}", partial(fetch, *text)


def _wanted_texts(spec: Spec) -> Iterator[tuple[str, Purpose, str, int]]:
    """Yield source, purpose, language and tokens needed."""
    perplexity = spec.evaluation.perplexity
    if perplexity is not None:
        for language in perplexity.languages:
            yield (
                perplexity.source,
                "perplexity",
                language,
                needed_tokens(perplexity.windows, perplexity.sequence_length),
            )
    for table in spec.compression:
        for settings, override, _ in table.expand():
            calibration = override.applied_to(spec.calibration)
            if settings.needs_data and calibration.ids is None:
                languages = calibration.languages
                needed = calibration_tokens(calibration.samples, calibration.sequence_length, len(languages))
                for language in languages:
                    yield calibration.source, "calibration", language, needed


def _tasks(document: Document) -> Iterator[tuple[str, Step]]:
    """Yield a step for each task."""
    tasks = document.spec.evaluation.tasks
    if tasks is None:
        return

    def fetch(name: str) -> None:
        task = identify_task(name, tasks, document.base)
        if task.key is None:
            raise StepError(f"task `{name}` could not be looked up: {task.unknown}")
        # Loading a task leaves its dataset in the cache.
        load_task(
            TaskRequest(
                name, task.yaml, task.test, task.fewshot, tasks.shots, tasks.limit, False, "auto", task.commit
            )
        )

    for name in tasks.names:
        yield name, partial(fetch, name)
