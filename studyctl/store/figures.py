"""The figures of one trial, compared with the dense model, read from the journals: current while a study runs.

Reports read the published database (:mod:`studyctl.store.results`); a model card is written within the attempt, before its
figures are published.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from studyctl.contract.records import AnyRecord, FidelityTotals, Items, TaskFigure, TextTotals
from studyctl.contract.steps import Step
from studyctl.journal.stored import Results, Stored
from studyctl.store.rows import records_of
from studyctl.store.task_items import CHANCE_LEVEL, Guessing
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
    bits_per_byte: float | None = None
    dense_bits_per_byte: float | None = None
    dense_knows: bool | None = None
    """Whether the dense model predicts the language better than bzip2; None: not known."""

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
    averaged: bool = False
    """Whether it counts in means over tasks."""
    above_chance: bool | None = None
    """Whether this model and dense together answer better than chance; None: not tested."""

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
    records, answers = _records(stored.results_of(weights_key), evaluations)
    dense, dense_answers = _records(
        stored.results_of(dense_key if dense_key != weights_key else None), evaluations
    )
    if dense_key == weights_key:
        dense_answers = answers
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
                        bits_per_byte=record.bits_per_byte,
                        dense_bits_per_byte=dense_text.bits_per_byte if dense_text else None,
                        dense_knows=_knows(record if dense_key == weights_key else dense_text),
                    )
                )
            case TaskFigure(task=task, metric=metric):
                dense_task = dense_tasks.get((task, metric))
                dense_value = dense_task.value if dense_task else None
                above = _above_chance(answers.get(task, ()), dense_answers.get(task, ()))
                figures.tasks.append(
                    TaskFigures(
                        task, metric, record.value, record.stderr, dense_value,
                        averaged=record.averaged, above_chance=above if record.main else None,
                    )
                )  # fmt: skip
    return figures


def _knows(dense: TextTotals | None) -> bool | None:
    if dense is None or dense.bits_per_byte is None or dense.bzip2_bits_per_byte is None:
        return None
    return dense.bits_per_byte < dense.bzip2_bits_per_byte


def _above_chance(parts: Sequence[Path], dense_parts: Sequence[Path]) -> bool | None:
    """Return whether the answers in these files of items and the dense model's are better than chance by the main metric."""
    if not parts or not dense_parts:
        return None
    columns = ["correct", "gold", "loglikelihoods"]
    own, dense = (
        pa.concat_tables(pq.read_table(part, columns=columns) for part in of) for of in (parts, dense_parts)
    )
    right = [table["correct"].to_pylist() for table in (own, dense)]
    if None in right[0] or None in right[1] or len(right[0]) != len(right[1]):
        return None
    guessing = Guessing.of(
        Counter(map(len, dense["loglikelihoods"].to_pylist())), Counter(dense["gold"].to_pylist())
    )
    return guessing.p((sum(right[0]) + sum(right[1])) / 2) < CHANCE_LEVEL


def _records(results: Results, evaluations: Iterable[Step]) -> tuple[list[AnyRecord], dict[str, list[Path]]]:
    """Return the records of the stored evaluations of some weights, with the totals of texts, and the files of items by task."""
    records: list[AnyRecord] = []
    items: dict[str, list[Path]] = defaultdict(list)
    for step in evaluations:
        if (result := results.of(step)) is not None:
            of_step = [(part, record) for part in result.parts for record in records_of(part)]
            of_step_records = [record for _, record in of_step]
            records += [*of_step_records, *totals_of(of_step_records)]
            for part, record in of_step:
                if isinstance(record, Items):
                    items[record.task].append(part.stored.journal.parent / record.part)
    return records, items
