"""What was measured of one trial so far, beside the dense model, from the journals: current while a study runs.

Reports read the published database (:mod:`studyctl.store.results`); a model card is written by the attempt whose figures it
tells, before they are published.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from studyctl.store.index import Stored, StoredStage
from studyctl.store.journal import Record, parse


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
    stored: Stored, weights_key: str, dense_key: str | None, evaluations: Mapping[str, str]
) -> Figures:
    """Return the acknowledged figures of a trial.

    Args:
        stored: what the journals hold.
        weights_key: of the trial.
        dense_key: ``weights_key`` of the dense trial of the model; None: nothing to compare with.
        evaluations: stage -> key, in the order in which they are told.

    Raises:
        StudyError: a journal is damaged.
    """
    mine = _records(stored, weights_key, evaluations)
    dense = _records(stored, dense_key, evaluations) if dense_key not in (None, weights_key) else []
    perplexity = _by(dense, "perplexity", "language")
    fidelity = _by(mine, "fidelity", "language")
    values = _by(dense, "task", "task", "metric")
    languages = [
        LanguageFigures(
            language=one["language"],
            perplexity=one["perplexity"],
            dense_perplexity=perplexity.get((one["language"],), {}).get("perplexity"),
            kl_nats=fidelity.get((one["language"],), {}).get("kl_nats"),
            top1=fidelity.get((one["language"],), {}).get("top1"),
        )
        for one in mine
        if one["kind"] == "perplexity"
    ]
    tasks = [
        TaskFigures(
            task=one["task"],
            metric=one["metric"],
            value=one["value"],
            stderr=one["stderr"],
            dense_value=values.get((one["task"], one["metric"]), {}).get("value"),
        )
        for one in mine
        if one["kind"] == "task"
    ]
    return Figures(languages, tasks)


def _by(records: list[Record], kind: str, *fields: str) -> dict[tuple[str, ...], Record]:
    return {tuple(one[field] for field in fields): one for one in records if one["kind"] == kind}


def _records(stored: Stored, weights_key: str | None, evaluations: Mapping[str, str]) -> list[Record]:
    have = stored.has(weights_key)
    return [record for key in evaluations.values() if key in have for record in _of_stage(have[key])]


def _of_stage(stage: StoredStage) -> Iterator[Record]:
    """Yield the records of a stage, without those of a try that ran out of memory and was begun again."""
    with stage.journal.open("rb") as file:
        file.seek(stage.begin)
        records, _ = parse(file.read(stage.end - stage.begin), stage.journal)
    begun = max((place for place, one in enumerate(records) if one["kind"] == "stage_started"), default=0)
    yield from records[begun:]
