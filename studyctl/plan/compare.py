"""A plan compared with the stored results: what would run, and why."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from studyctl.contract.plan import VERSION, Planned, PlannedStep
from studyctl.contract.steps import ALL_WINDOWS, Step, StepId, StepKind
from studyctl.journal.stored import Stored
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial

CONTENT = " changed"
"""Said of what is known by a hash, such as the items of a task."""
_DIGEST = re.compile("[0-9a-f]{20}|[0-9a-f]{64}")
_UPGRADED = "version 0.1 → 0.2, once: results have new keys"


class Todo(NamedTuple):
    """A trial with steps that are not stored."""

    trial: Trial
    steps: tuple[Step, ...]
    """The missing steps, in order; a text that is stored in part is one step with all of its windows."""
    reason: str
    """Why they run, for the user: ``new``, ``unfinished``, ``calibration.samples 4 → 5`` ..."""
    again: bool = False
    """Whether the model is compressed although that is stored, since the weights were not kept; a checkpoint is only loaded."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A plan compared with what is stored."""

    todo: list[Todo]
    """Trials that can be run here."""
    unavailable: list[Trial]
    steps: int
    """Steps that the spec asks for, available or not."""

    @property
    def steps_to_run(self) -> int:
        """Return the number of steps to run."""
        return sum(len(todo.steps) for todo in self.todo)


def compare(
    plan: StudyPlan, stored: Stored, saved: Planned | None, weights: frozenset[str] = frozenset()
) -> Comparison:
    """Compare every trial with what is stored.

    Args:
        plan: the plan.
        stored: the results.
        saved: the plan of the last run.
        weights: keys of the compressed weights that are on the disk; others are made again where an evaluation needs them.
    """
    saved = saved or Planned(study="")
    parts = {trial.trial: trial.parts for trial in saved.trials}
    evaluations_before = {
        model: {planned.step.id: planned for planned in steps} for model, steps in saved.evaluations.items()
    }
    evaluations = {model.index: model.steps for model in plan.models}
    todo: list[Todo] = []
    unavailable: list[Trial] = []
    steps = 0
    for trial in plan.trials:
        missing = evaluations[trial.model.index]
        steps += len(missing) + (not trial.is_dense)
        if not plan.is_available(trial.variant):
            unavailable.append(trial)
            continue
        if results := stored.results_of(trial.weights_key, trial.steps):
            missing = results.missing(missing)
        compress, again = (Step(StepKind.COMPRESS, key=trial.weights_key),), False
        if trial.weights_key in results.by_key:
            again = not trial.is_dense and trial.weights_key not in weights
        elif not trial.is_dense:
            missing = compress + missing
        if missing:
            before = evaluations_before.get(trial.model.spec.id, {})
            reason = (
                _trial_reason(trial, parts.get(trial.id), stored)
                or (_UPGRADED if saved.version < VERSION and results else "")
                or _failure(trial, missing, stored)
                or (_step_reason(trial, missing, before) if results else "unfinished")
            )
            todo.append(
                Todo(
                    trial,
                    compress + missing if again else missing,
                    reason,
                    again and trial.checkpoint is None,
                )
            )
    return Comparison(todo, unavailable, steps)


def _trial_reason(trial: Trial, before: dict[str, Any] | None, stored: Stored) -> str:
    """Return why the whole trial runs: it is new, or a part of its weights key changed; empty otherwise."""
    if before is None or trial.id not in stored.attempts:
        return "new"
    return what_changed(before, trial.parts())


def _failure(trial: Trial, missing: tuple[Step, ...], stored: Stored) -> str:
    failure = stored.last_failure(trial.id)
    failed = failure is not None and failure.step.id in {step.id for step in missing}
    return f"failed at {failure.step}" if failure is not None and failed else ""


def _step_reason(trial: Trial, missing: tuple[Step, ...], before: Mapping[StepId, PlannedStep]) -> str:
    """Return why steps of a trial run although its weights are the same."""
    new = [step for step in missing if step.id not in before and step.kind is not StepKind.COMPRESS]
    if new:
        return f"new {', '.join(map(str, new))}"
    ids = {step.id for step in missing}
    for step, parts in trial.model.evaluations:
        if step.id not in ids:
            continue
        earlier = before[step.id]
        if changed := what_changed(earlier.parts, dict(parts)):
            return f"{step} {changed}" if changed.endswith(CONTENT) else f"{step.kind}.{changed}"
        if step.windows != earlier.step.windows:
            return f"{step.kind}.windows {_windows(earlier.step)} → {_windows(step)}"
    return "unfinished export" if {step.kind for step in missing} == {StepKind.EXPORT} else "unfinished"


def _windows(step: Step) -> int | str:
    """Return how many windows a step asks for."""
    return "all" if step.windows is None or step.windows[1] == ALL_WINDOWS else step.windows[1]


def what_changed(before: Any, now: Any, path: str = "") -> str:
    """Return the first difference between the parts of two keys, such as ``calibration.samples 128 → 256``; empty if there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        values = {**now, **before}
        parts = ((before.get(key), now.get(key), f"{path}.{key}" if path else key) for key in values)
        return next(filter(None, (what_changed(*part) for part in parts)), "")
    if before == now or (isinstance(now, tuple) and list(now) == before):
        return ""
    if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (before, now)):
        return f"{path}{CONTENT}"
    return f"{path} {_show(before)} → {_show(now)}"


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
