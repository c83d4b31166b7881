"""The figures of one trial, compared with the dense model, read from the journals: current while a study runs.

Reports read the published database (:mod:`studyctl.store.results`); a model card is written within the attempt, before its
figures are published.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial
from studyctl.contract.steps import Step
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.store.publish import publish_in_memory
from studyctl.store.results import LanguageResult, Results, Standing, TaskResult

_TRIAL = "the trial"


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a trial."""

    languages: list[LanguageResult]
    tasks: list[TaskResult]
    means: Standing


def read_figures(
    paths: StudyPaths, stored: Stored, weights_key: str, dense_key: str | None, evaluations: Iterable[Step]
) -> Figures:
    """Return the acknowledged figures of a trial.

    Args:
        paths: files of the study.
        stored: what the journals hold.
        weights_key: of the trial.
        dense_key: ``weights_key`` of the dense trial of the model; None: nothing to compare with.
        evaluations: the planned evaluations, in the order in which they are reported.

    Raises:
        StudyError: a journal is damaged.
    """
    steps = tuple(evaluations)
    keys = {} if dense_key in (None, weights_key) else {"dense": dense_key}
    keys["dense" if dense_key == weights_key else _TRIAL] = weights_key
    planned = Planned(
        paths.name,
        evaluations={"": tuple(map(PlannedStep, steps))},
        trials=tuple(_trial(variant, key) for variant, key in keys.items()),
    )
    order = {step.subject: place for place, step in enumerate(steps)}
    with Results(publish_in_memory(paths, planned, stored, frozenset())) as results:
        (means,) = [row for row in results.leaderboard() if keys[row.variant] == weights_key]
        languages, tasks = results.perplexity(means.trial_id), results.tasks(means.trial_id)
    languages.sort(key=lambda row: order[row.language])
    tasks.sort(key=lambda row: order[row.task])
    return Figures(languages, tasks, means)


def _trial(variant: str, weights_key: str | None) -> PlannedTrial:
    """Return what the results are put under; they are found by the key of the weights alone."""
    return PlannedTrial(
        trial=variant, model="", method="", variant=variant, backend="", seed=None, settings={}, calibration=None,
        weights_key=weights_key, dtype="", bits_per_weight=None, sparsity=None,
    )  # fmt: skip
