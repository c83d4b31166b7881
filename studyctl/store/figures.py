"""What was measured of one trial so far, beside the dense model, from the journals: current while a study runs.

Reports read the published database (:mod:`studyctl.store.results`); a model card is written by the attempt whose figures it
tells, before they are published.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from studyctl.contract.records import AnyRecord, FidelityTotals, TaskFigure, TextTotals
from studyctl.contract.steps import Step
from studyctl.journal.stored import Results, Stored
from studyctl.store.rows import records_of
from studyctl.store.text_totals import totals_of


@dataclass(frozen=True, slots=True)
class LanguageFigures:
    """One language."""

    language: str
    perplexity: float | None
    """None where it is not finite."""
    dense_perplexity: float | None
    """None for the dense model itself, and while it is not measured."""
    kl_nats: float | None
    top1: float | None

    @property
    def ratio(self) -> float | None:
        """Return perplexity / dense perplexity."""
        return self.perplexity / self.dense_perplexity if self.perplexity and self.dense_perplexity else None


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """One metric of a task."""

    task: str
    metric: str
    value: float | None
    stderr: float | None
    dense_value: float | None
    """None for the dense model itself, and while it is not measured."""

    @property
    def change(self) -> float | None:
        """Return value − dense value."""
        return None if self.value is None or self.dense_value is None else self.value - self.dense_value


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was measured."""

    languages: list[LanguageFigures]
    tasks: list[TaskFigures]


def read_figures(
    stored: Stored, weights_key: str, dense_key: str | None, evaluations: Iterable[Step]
) -> Figures:
    """Return the acknowledged figures of a trial.

    Args:
        stored: what the journals hold.
        weights_key: of the trial.
        dense_key: ``weights_key`` of the dense trial of the model; None: nothing to compare with.
        evaluations: what is asked for, in the order in which it is told.

    Raises:
        StudyError: a journal is damaged.
    """
    evaluations = tuple(evaluations)
    mine = _Measured(stored.has(weights_key), evaluations)
    dense = _Measured(stored.has(dense_key if dense_key != weights_key else None), evaluations)
    languages = [
        LanguageFigures(
            language=language,
            perplexity=text.perplexity,
            dense_perplexity=dense.texts[language].perplexity if language in dense.texts else None,
            kl_nats=mine.distances[language].kl_nats if language in mine.distances else None,
            top1=mine.distances[language].top1 if language in mine.distances else None,
        )
        for language, text in mine.texts.items()
    ]
    tasks = [
        TaskFigures(
            task=one.task,
            metric=one.metric,
            value=one.value,
            stderr=one.stderr,
            dense_value=dense.tasks[key].value if key in dense.tasks else None,
        )
        for key, one in mine.tasks.items()
    ]
    return Figures(languages, tasks)


class _Measured:
    """What is stored of some weights."""

    def __init__(self, results: Results, evaluations: Iterable[Step]) -> None:
        self.texts: dict[str, TextTotals] = {}
        self.distances: dict[str, FidelityTotals] = {}
        self.tasks: dict[tuple[str, str], TaskFigure] = {}
        for step in evaluations:
            if (found := results.of(step)) is not None:
                self._take([record for part in found.parts for record in records_of(part)])

    def _take(self, records: list[AnyRecord]) -> None:
        for record in [*records, *totals_of(records)]:
            match record:
                case TextTotals():
                    self.texts[record.language] = record
                case FidelityTotals():
                    self.distances[record.language] = record
                case TaskFigure():
                    self.tasks[record.task, record.metric] = record
