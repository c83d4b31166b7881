"""The figures of one trial, compared with the dense model, read from the journals: current while a study runs.

Reports read the published database (:mod:`studyctl.store.results`); a model card is written within the attempt, before its
figures are published.
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
    """None for the dense model itself, and while dense is not measured."""
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
    """None for the dense model itself, and while dense is not measured."""

    @property
    def change(self) -> float | None:
        """Return value − dense value."""
        return None if self.value is None or self.dense_value is None else self.value - self.dense_value


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a trial."""

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
        evaluations: the planned evaluations, in the order in which they are reported.

    Raises:
        StudyError: a journal is damaged.
    """
    evaluations = tuple(evaluations)
    records = _records(stored.results_of(weights_key), evaluations)
    dense = _records(stored.results_of(dense_key if dense_key != weights_key else None), evaluations)
    distances = {record.language: record for record in records if isinstance(record, FidelityTotals)}
    dense_texts = {record.language: record for record in dense if isinstance(record, TextTotals)}
    dense_tasks = {(record.task, record.metric): record for record in dense if isinstance(record, TaskFigure)}
    figures = Figures([], [])
    for record in records:
        match record:
            case TextTotals(language=language):
                distance, dense_text = distances.get(language), dense_texts.get(language)
                figures.languages.append(
                    LanguageFigures(
                        language=language,
                        perplexity=record.perplexity,
                        dense_perplexity=dense_text.perplexity if dense_text else None,
                        kl_nats=distance.kl_nats if distance else None,
                        top1=distance.top1 if distance else None,
                    )
                )
            case TaskFigure(task=task, metric=metric):
                dense_task = dense_tasks.get((task, metric))
                dense_value = dense_task.value if dense_task else None
                figures.tasks.append(TaskFigures(task, metric, record.value, record.stderr, dense_value))
    return figures


def _records(results: Results, evaluations: Iterable[Step]) -> list[AnyRecord]:
    """Return the records of the stored evaluations of some weights, with the totals of texts."""
    records: list[AnyRecord] = []
    for step in evaluations:
        if (result := results.of(step)) is not None:
            of_step = [record for part in result.parts for record in records_of(part)]
            records += [*of_step, *totals_of(of_step)]
    return records
