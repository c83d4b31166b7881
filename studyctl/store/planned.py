"""What a study asks for (``plan.json``), and how far each trial has come."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from studyctl.backends import OWN
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
    weights_key: str | None
    """None when the sources could not be looked up."""
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
    protocols: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """Stage -> key, by model; None where the sources could not be looked up."""
    trials: tuple[PlannedTrial, ...] = ()

    def stages(self, trial: PlannedTrial) -> dict[str, str | None]:
        """Return the stages of a trial with their keys; ``load`` is no result and not among them."""
        compress: dict[str, str | None] = {} if trial.variant == "dense" else {"compress": trial.weights_key}
        protocol = self.protocols.get(trial.model, {})
        return compress | {stage: key for stage, key in protocol.items() if stage not in ("load", "compress")}


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """How far a trial has come."""

    state: str
    """``pending``, ``running``, ``done``, ``failed`` or ``stopped``."""
    done: dict[str, StoredStage]
    """Current results by stage."""
    asked: dict[str, str | None]
    """Stages with their keys."""
    latest: Attempt | None
    """Newest attempt on the weights that the plan asks for."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """Failures of that attempt by stage, as far as the plan still asks for these stages and nothing is stored."""

    @property
    def failure(self) -> Failure | None:
        """Why the trial failed, if it did: the first failure, which may have caused others."""
        return next(iter(self.failures.values()), None) if self.state == "failed" else None

    @property
    def stage(self) -> str | None:
        """Stage that runs now, or that failed."""
        if self.failure is not None:
            return self.failure.stage
        return self.latest.open_stage if self.latest is not None and self.state == "running" else None

    @property
    def error(self) -> str | None:
        """Why the trial failed, on one line."""
        if self.failure is not None:
            return self.failure.error
        if self.state != "failed" or self.latest is None or self.latest.finished is None:
            return None
        return self.latest.finished.get("error")

    def stage_state(self, stage: str) -> str:
        """Return the state of one stage, in the words of a trial's."""
        if stage in self.done:
            return "done"
        if stage in self.failures:
            return "stopped" if self.failures[stage].cause == "stopped" else "failed"
        if self.latest is not None and self.latest.open_stage == stage:
            return "running" if self.state == "running" else "stopped"
        return "pending"


def trial_status(
    trial: PlannedTrial, asked: dict[str, str | None], stored: Stored, *, running: bool
) -> TrialStatus:
    """Judge a trial by its current results and its newest attempt.

    Args:
        trial: What is asked for.
        asked: Its stages with their keys.
        stored: What the journals hold.
        running: Whether a living runner is at it; a journal alone cannot tell a running attempt from a killed one.
    """
    results = stored.has(trial.weights_key)
    done = {stage: results[key] for stage, key in asked.items() if key is not None and key in results}
    attempts = [one for one in stored.attempts.get(trial.trial, ()) if one.weights_key == trial.weights_key]
    latest = attempts[-1] if attempts else None
    failures = {
        failure.stage: failure
        for failure in (latest.failures if latest is not None else ())
        if failure.stage not in done and failure.key in (None, "", asked.get(failure.stage, failure.key))
    }
    if running:
        state = "running"
    elif len(done) == len(asked):
        state = "done"
    else:
        state = _unfinished_state(latest, failures)
    return TrialStatus(state, done, asked, latest, failures)


def _unfinished_state(latest: Attempt | None, failures: dict[str, Failure]) -> str:
    if latest is None:
        return "pending"
    if latest.state in ("open", "stopped"):
        return "stopped"
    if latest.state == "failed" and (failures or not latest.failures):
        return "failed"
    return "pending"  # it was done, or failed at what is no longer asked for


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
                backend=started.get("backend") or OWN,
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
