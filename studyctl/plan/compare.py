"""What is stored already, what would run, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from studyctl.plan.planner import StudyPlan
from studyctl.plan.saved import SavedPlan
from studyctl.plan.trials import Trial
from studyctl.store.index import Stored


class Cause(StrEnum):
    """What kind of change makes a stage run."""

    NEW = "new"
    MODEL = "model"
    VARIANT = "variant"
    CALIBRATION = "calibration"
    PROTOCOL = "protocol"
    CODE = "code"
    WEIGHTS = "weights"
    FAILED = "failed"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why stages of a trial run, with what the key was made of before and now."""

    cause: Cause
    what: str = ""
    before: Any = None
    now: Any = None

    def __str__(self) -> str:
        if self.cause in (Cause.NEW, Cause.FAILED, Cause.UNFINISHED, Cause.WEIGHTS):
            return f"{self.cause} {self.what}".rstrip()
        return f"{self.what} {_show(self.before)} → {_show(self.now)}"


class Todo(NamedTuple):
    """A trial with stages that are not stored."""

    trial: Trial
    stages: tuple[str, ...]
    """Those to run, in order."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Comparison:
    """A plan held against what is stored."""

    todo: list[Todo]
    """Of this version's methods only."""
    unavailable: list[Trial]
    stages: int
    """Stages that the spec asks for, available or not."""

    @property
    def stages_to_run(self) -> int:
        """Return the number of stages to run."""
        return sum(len(todo.stages) for todo in self.todo)


def compare(plan: StudyPlan, stored: Stored, saved: SavedPlan) -> Comparison:
    """Hold every trial against the store: one look-up and one set difference each."""
    todo: list[Todo] = []
    unavailable: list[Trial] = []
    stages = 0
    available = {id(variant): plan.is_available(variant) for variant in plan.variants}
    keys = {model.index: model.stage_keys for model in plan.models}
    dense = {model.index: tuple(stage.name for stage in model.stages) for model in plan.models}
    compressed = {index: ("compress", *names) for index, names in dense.items()}
    for trial in plan.trials:
        index = trial.model.index
        missing = (dense if trial.is_dense else compressed)[index]
        stages += len(missing)
        if not available[id(trial.variant)]:
            unavailable.append(trial)
            continue
        have = stored.has(trial.weights_key)
        if have:
            all_there = None not in keys[index] and keys[index] <= have.keys()
            missing = () if all_there else missing_stages(trial, have)
        if missing:
            todo.append(Todo(trial, missing, _reason(trial, missing, stored, saved, bool(have))))
    return Comparison(todo, unavailable, stages)


def missing_stages(trial: Trial, have: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stages of a trial that are not stored. Weights are made again only for an evaluation that needs them."""
    evaluations = tuple(
        stage.name for stage in trial.model.stages if stage.key is None or stage.key not in have
    )
    if trial.is_dense or trial.weights_key in have:
        return evaluations
    return ("compress", *evaluations)


def _reason(
    trial: Trial, missing: tuple[str, ...], stored: Stored, saved: SavedPlan, has_results: bool
) -> Reason:
    before = saved.trials.get(trial.id)
    failure = stored.last_failure(trial.id)
    if before is None or trial.id not in stored.attempts:
        return Reason(Cause.NEW)
    if changed := _first_difference(before, trial.parts()):
        what, old, new = changed
        return Reason(_cause_of(what), what, old, new)
    if failure is not None and failure.stage in missing:
        return Reason(Cause.FAILED, f"at {failure.stage}")
    if not has_results:
        return Reason(Cause.UNFINISHED)
    return _stage_reason(trial, missing, saved)


def _stage_reason(trial: Trial, missing: tuple[str, ...], saved: SavedPlan) -> Reason:
    before = saved.stages.get(trial.model.spec.id, {})
    new = [name for name in missing if name not in before and name != "compress"]
    if new:
        return Reason(Cause.NEW, ", ".join(new))
    for stage in trial.model.stages:
        if stage.name in missing and (changed := _first_difference(before[stage.name], dict(stage.parts))):
            what, old, now = changed
            cause = Cause.CODE if what == "code" else Cause.PROTOCOL
            return Reason(cause, f"{stage.name.split(':')[0]}.{what}", old, now)
    return Reason(Cause.UNFINISHED, "export" if missing == ("export",) else "")


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
