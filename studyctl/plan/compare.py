"""What is stored already, what would run, and why."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from studyctl.contract.plan import VERSION, Planned
from studyctl.contract.steps import ALL_WINDOWS, Step, StepKind
from studyctl.journal.stored import Results, Stored
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial


class Cause(StrEnum):
    """What kind of change makes a step run."""

    NEW = "new"
    MODEL = "model"
    VARIANT = "variant"
    CALIBRATION = "calibration"
    PROTOCOL = "protocol"
    CODE = "code"
    WEIGHTS = "weights"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    VERSION = "version"
    """Results of an earlier version are addressed otherwise."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why steps of a trial run, with what the key was made of before and now."""

    cause: Cause
    what: str = ""
    before: Any = None
    now: Any = None

    def __str__(self) -> str:
        if self.cause is Cause.VERSION:
            return f"version {self.before} → {self.now}, once: results are addressed otherwise"
        if self.cause in (Cause.NEW, Cause.FAILED, Cause.UNFINISHED, Cause.WEIGHTS):
            return f"{self.cause} {self.what}".rstrip()
        return f"{self.what} {_show(self.before)} → {_show(self.now)}"


class Todo(NamedTuple):
    """A trial with steps that are not stored."""

    trial: Trial
    steps: tuple[Step, ...]
    """Those to run, in order; of a text that is stored in part, all of it."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Comparison:
    """A plan held against what is stored."""

    todo: list[Todo]
    """Of this version's methods only."""
    unavailable: list[Trial]
    steps: int
    """Steps that the spec asks for, available or not."""

    @property
    def steps_to_run(self) -> int:
        """Return the number of steps to run."""
        return sum(len(todo.steps) for todo in self.todo)


def compare(plan: StudyPlan, stored: Stored, saved: Planned | None) -> Comparison:
    """Hold every trial against the store."""
    todo: list[Todo] = []
    unavailable: list[Trial] = []
    steps = 0
    available = {id(variant): plan.is_available(variant) for variant in plan.variants}
    before = _Before(saved)
    evaluations = {model.index: model.steps for model in plan.models}
    for trial in plan.trials:
        wanted = evaluations[trial.model.index]
        steps += len(wanted) + (not trial.is_dense)
        if not available[id(trial.variant)]:
            unavailable.append(trial)
            continue
        have = stored.has(trial.weights_key)
        if missing := missing_steps(trial, wanted, have):
            todo.append(Todo(trial, missing, _reason(trial, missing, stored, before, bool(have))))
    return Comparison(todo, unavailable, steps)


def missing_steps(trial: Trial, evaluations: tuple[Step, ...], have: Results) -> tuple[Step, ...]:
    """Return the steps of a trial that are not stored. Weights are made again only for an evaluation that needs them."""
    missing = have.missing(evaluations) if have else evaluations
    if trial.is_dense or trial.weights_key in have.by_key:
        return missing
    return (Step(StepKind.COMPRESS, key=trial.weights_key), *missing)


class _Before:
    """The plan of the last run: tells what changed since."""

    def __init__(self, saved: Planned | None) -> None:
        self.version = saved.version if saved is not None else VERSION
        self.trials = {trial.trial: trial.parts for trial in saved.trials} if saved is not None else {}
        evaluations = saved.evaluations if saved is not None else {}
        self.steps = {model: {one.step.id: one for one in planned} for model, planned in evaluations.items()}


def _reason(
    trial: Trial, missing: tuple[Step, ...], stored: Stored, before: _Before, has_results: bool
) -> Reason:
    parts = before.trials.get(trial.id)
    failure = stored.last_failure(trial.id)
    if parts is None or trial.id not in stored.attempts:
        return Reason(Cause.NEW)
    if changed := _first_difference(parts, trial.parts()):
        what, old, new = changed
        return Reason(_cause_of(what), what, old, new)
    if before.version < VERSION and has_results:
        return Reason(Cause.VERSION, before="0.1", now="0.2")
    if failure is not None and failure.step.id in {step.id for step in missing}:
        return Reason(Cause.FAILED, f"at {failure.step}")
    if not has_results:
        return Reason(Cause.UNFINISHED)
    return _step_reason(trial, missing, before)


def _step_reason(trial: Trial, missing: tuple[Step, ...], before: _Before) -> Reason:
    known = before.steps.get(trial.model.spec.id, {})
    new = [step for step in missing if step.id not in known and step.kind is not StepKind.COMPRESS]
    if new:
        return Reason(Cause.NEW, ", ".join(map(str, new)))
    ids = {step.id for step in missing}
    for step, parts in trial.model.evaluations:
        if step.id not in ids:
            continue
        earlier = known[step.id]
        if changed := _first_difference(earlier.parts, dict(parts)):
            what, old, now = changed
            cause = Cause.CODE if what == "code" else Cause.PROTOCOL
            return Reason(cause, f"{step.kind}.{what}", old, now)
        if step.windows != earlier.step.windows:
            return Reason(Cause.PROTOCOL, f"{step.kind}.windows", _asked(earlier.step), _asked(step))
    exports = {step.kind for step in missing} == {StepKind.EXPORT}
    return Reason(Cause.UNFINISHED, str(StepKind.EXPORT) if exports else "")


def _asked(step: Step) -> int | str:
    """Return how many windows a step asks for."""
    if step.windows is None or step.windows[1] == ALL_WINDOWS:
        return "all"
    return step.windows[1]


def what_changed(before: Any, now: Any) -> str:
    """Return the first part of a key that differs, such as ``calibration.samples 128 → 256``; empty if none does."""
    changed = _first_difference(before, now)
    return f"{changed[0]} {_show(changed[1])} → {_show(changed[2])}" if changed else ""


_CAUSES = {
    "model": Cause.MODEL,
    "dtype": Cause.MODEL,
    "code": Cause.CODE,
    "settings": Cause.VARIANT,
    "checkpoint": Cause.VARIANT,
}


def _cause_of(path: str) -> Cause:
    return _CAUSES.get(path.split(".")[0], Cause.CALIBRATION)


def _first_difference(before: Any, now: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Return ``(dotted path, before, now)`` of the first value that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            found = _first_difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if before == now or (isinstance(now, tuple) and list(now) == before):
        return None
    return path, before, now


def _show(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
