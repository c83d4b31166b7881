"""Fetching everything that a study needs, so that it can run without a connection."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from studyctl.contract.identity import Purpose
from studyctl.contract.methods import Checkpoint, MethodSettings
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
from studyctl.spec.models import Calibration, Model, Tasks

Fetch = Callable[[], None]


def prefetch(document: Document, reporter: Reporter) -> None:
    """Download models and datasets at their commits, and convert GGUF files, into the user's caches.

    Local folders and files need nothing. Everything is tried; what failed is raised together at the end.

    Raises:
        StudyError: something could not be fetched; carries a problem for each.
    """
    problems: list[Problem] = []
    sources = list(_Prefetch(document, reporter).sources())
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


class _Prefetch:
    """Fetches the sources of a spec; texts are tokenised by the tokenizers of the models that were fetched before."""

    def __init__(self, document: Document, reporter: Reporter) -> None:
        self.spec, self.base, self.reporter = document.spec, document.base, reporter
        self.tokenizers: list[Any] = []

    def sources(self) -> Iterator[tuple[str, Fetch]]:
        """Yield every source with what fetches it: models, checkpoints, texts, tasks."""
        for model in self.spec.models:
            yield model.id, partial(self.model, model)
        models = {model.id for model in self.spec.models}
        for settings, _ in self.variants():
            # Checkpoints of other models are left out of the study.
            if isinstance(settings, Checkpoint) and settings.of in models:
                yield settings.id, partial(self.checkpoint, settings)
        for text in dict.fromkeys(self.texts()):
            yield ", ".join(text[:3]), partial(self.text, *text)
        if (tasks := self.spec.evaluation.tasks) is not None:
            for name in tasks.names:
                yield name, partial(self.task, name, tasks)

    def variants(self) -> Iterator[tuple[MethodSettings, Calibration]]:
        for table in self.spec.compression:
            for settings, override, _ in table.expand():
                yield settings, override.applied_to(self.spec.calibration)

    def texts(self) -> Iterator[tuple[str, Purpose, str, int]]:
        """Yield source, purpose, language and how many tokens are needed."""
        if (perplexity := self.spec.evaluation.perplexity) is not None:
            needed = needed_tokens(perplexity.windows, perplexity.sequence_length)
            for language in perplexity.languages:
                yield perplexity.source, "perplexity", language, needed
        for settings, calibration in self.variants():
            if settings.needs_data and calibration.ids is None:
                languages = calibration.languages
                needed = calibration_tokens(calibration.samples, calibration.sequence_length, len(languages))
                for language in languages:
                    yield calibration.source, "calibration", language, needed

    def model(self, model: Model) -> None:
        identity = identify_model(model, self.base)
        folder = model_folder(identity, allow_pickle=model.allow_pickle, reporter=self.reporter)
        self.tokenizers.append(load_tokenizer(folder))

    def checkpoint(self, settings: Checkpoint) -> None:
        identity = identify_checkpoint(settings, self.base)
        folder = model_folder(identity, allow_pickle=False, reporter=self.reporter)
        if identity.tokenizer:
            self.tokenizers.append(load_tokenizer(folder))

    def text(self, name: str, purpose: Purpose, language: str, needed: int) -> None:
        text = identify_text(name, self.spec.text.get(name), purpose, language, self.base)
        if text.key is None:
            raise StepError(f"text `{name}` in {language} could not be looked up: {text.unknown}")
        if text.dataset is not None:
            # Tokenising shows how many documents of a dataset are needed.
            for tokenizer in self.tokenizers:
                tokenized_text(text, tokenizer, needed=needed, reporter=self.reporter)

    def task(self, name: str, tasks: Tasks) -> None:
        task = identify_task(name, tasks, self.base)
        if task.key is None:
            raise StepError(f"task `{name}` could not be looked up: {task.unknown}")
        # Loading a task leaves its dataset in the cache.
        load_task(
            TaskRequest(
                name, task.yaml, task.test, task.fewshot, tasks.shots, tasks.limit, False, "auto", task.commit
            )
        )
