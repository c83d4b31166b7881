"""What a study asks for (``plan.json``), and how far each trial has come."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.store.index import Attempt, Failure, Stored, StoredStage

VERSION = 1
"""Of ``plan.json``."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial that the spec asks for."""

    trial: str
    model: str
    method: str
    variant: str
    backend: str
    seed: int | None
    settings: dict[str, Any]
    calibration: dict[str, Any] | None
    weights_key: str
    dtype: str
    bits_per_weight: float | None
    """Expected; what was measured is in the results."""
    sparsity: float | None
    available: bool = True
    """False when the sources could not be looked up, so that it could not be run."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Everything that the spec asks for."""

    study: str
    title: str = ""
    spec_hash: str = ""
    at: str | None = None
    notes: tuple[str, ...] = ()
    protocols: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Stage -> key, by model."""
    trials: tuple[PlannedTrial, ...] = ()

    def stages(self, trial: PlannedTrial) -> dict[str, str]:
        """Return the stages of a trial with their keys; ``load`` is no result and not among them."""
        compress = {} if trial.variant == "dense" else {"compress": trial.weights_key}
        protocol = self.protocols.get(trial.model, {})
        return compress | {stage: key for stage, key in protocol.items() if stage not in ("load", "compress")}


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """How far a trial has come."""

    state: str
    """``pending``, ``running``, ``done``, ``failed`` or ``stopped``."""
    done: dict[str, StoredStage]
    """Current results by stage."""
    asked: dict[str, str]
    """Stages with their keys."""
    latest: Attempt | None
    """Newest attempt on the weights that the plan asks for."""
    failure: Failure | None
    """Why it failed, if it did."""

    def stage_state(self, stage: str) -> str:
        """Return the state of one stage, in the words of a trial's."""
        if stage in self.done:
            return "done"
        if self.failure is not None and self.failure.stage == stage:
            return "stopped" if self.failure.cause == "stopped" else "failed"
        if self.latest is not None and self.latest.open_stage == stage:
            return "running" if self.state == "running" else "stopped"
        return "pending"


def trial_status(trial: PlannedTrial, asked: dict[str, str], stored: Stored, *, running: bool) -> TrialStatus:
    """Judge a trial by its current results and its newest attempt.

    Args:
        trial: What is asked for.
        asked: Its stages with their keys.
        stored: What the journals hold.
        running: Whether a living runner is at it; a journal alone cannot tell a running attempt from a killed one.
    """
    results = stored.has(trial.weights_key)
    done = {stage: results[key] for stage, key in asked.items() if key in results}
    attempts = [one for one in stored.attempts.get(trial.trial, ()) if one.weights_key == trial.weights_key]
    latest = attempts[-1] if attempts else None
    failure = latest.failure if latest is not None else None
    if failure is not None and failure.stage in asked and failure.key not in (None, asked[failure.stage]):
        failure = None  # something else is asked for by now
    if running:
        return TrialStatus("running", done, asked, latest, None)
    if len(done) == len(asked):
        return TrialStatus("done", done, asked, latest, None)
    return TrialStatus(_unfinished(latest, failure), done, asked, latest, failure)


def _unfinished(latest: Attempt | None, failure: Failure | None) -> str:
    if latest is None:
        return "pending"
    if latest.state in ("open", "stopped"):
        return "stopped"
    if latest.state == "failed" and (failure is not None or latest.failure is None):
        return "failed"
    return "pending"


def read_planned(paths: StudyPaths, stored: Stored) -> Planned:
    """Read ``plan.json``; without one, take every trial in the journals as asked for as it was attempted last.

    Raises:
        StudyError: the file is no plan, or of a later studyctl.
    """
    try:
        plan = json.loads(paths.plan.read_bytes())
    except FileNotFoundError:
        return _from_journals(paths.name, stored)
    except ValueError as error:
        raise _unreadable(paths, f"is no JSON ({error})") from error
    if not isinstance(plan, dict) or not isinstance(version := plan.get("version"), int):
        raise _unreadable(paths, "is no plan")
    if version > VERSION:
        raise StudyError(
            Problem(
                f"{paths.plan} was written by a later studyctl (plan version {version}; this one reads {VERSION})",
                file=paths.plan,
                hint="use that version of studyctl or a later one for this study",
            )
        )
    try:
        return Planned(
            study=plan["study"],
            title=plan.get("title") or "",
            spec_hash=plan.get("spec_hash") or "",
            at=plan.get("at"),
            notes=tuple(plan.get("notes") or ()),
            protocols=plan["protocols"],
            trials=tuple(_trial(trial) for trial in plan["trials"]),
        )
    except (KeyError, TypeError) as error:
        raise _unreadable(paths, f"misses something ({error})") from error


def _trial(entry: dict[str, Any]) -> PlannedTrial:
    return PlannedTrial(**{one.name: entry[one.name] for one in fields(PlannedTrial) if one.name in entry})


def _unreadable(paths: StudyPaths, why: str) -> StudyError:
    hint = f"run `studyctl run {paths.spec}`, which writes it anew; nothing that was measured is lost"
    return StudyError(Problem(f"{paths.plan} {why}", file=paths.plan, hint=hint))


def _from_journals(study: str, stored: Stored) -> Planned:
    """Rebuild a plan: every trial with its newest weights, every stage of its model with its newest key."""
    protocols: dict[str, dict[str, str]] = {}
    trials = []
    for name, attempts in stored.attempts.items():
        for attempt in attempts:
            protocol = protocols.setdefault(str(attempt.started["model"]), {})
            protocol.update({stage.stage: stage.key for stage in attempt.stages})
        started = attempts[-1].started
        trials.append(
            PlannedTrial(
                trial=name,
                model=started["model"],
                method=started["method"],
                variant=started["variant"],
                backend=started.get("backend") or "studyctl",
                seed=started.get("seed"),
                settings=started.get("settings") or {},
                calibration=started.get("calibration"),
                weights_key=attempts[-1].weights_key,
                dtype=started.get("dtype") or "",
                bits_per_weight=16.0 if started["variant"] == "dense" else None,
                sparsity=0.0 if started["variant"] == "dense" else None,
            )
        )
    return Planned(study=study, protocols=protocols, trials=tuple(trials))
