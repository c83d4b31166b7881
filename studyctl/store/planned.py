"""How far each trial of a study has come."""

from dataclasses import dataclass, field

from studyctl.backends import OWN
from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial, read_plan
from studyctl.contract.records import StepFailed
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import FailureCause
from studyctl.files import StudyPaths
from studyctl.journal.stored import Attempt, StepResult, Stored


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """How far a trial has come."""

    state: str
    """``pending``, ``running``, ``done``, ``failed`` or ``stopped``."""
    done: dict[StepId, StepResult]
    """Current results."""
    steps: tuple[Step, ...]
    """The planned steps."""
    latest: Attempt | None
    """Newest attempt for the weights that the plan asks for."""
    failures: dict[StepId, StepFailed] = field(default_factory=dict)
    """Failures of that attempt whose steps are still planned and have no result."""

    @property
    def failure(self) -> StepFailed | None:
        """Why the trial failed, if it did: the first failure, which may have caused others."""
        return next(iter(self.failures.values()), None) if self.state == "failed" else None

    @property
    def step(self) -> StepId | None:
        """Step that runs now, or that failed."""
        if self.failure is not None:
            return self.failure.step.id
        return self.open_step if self.state == "running" else None

    @property
    def open_step(self) -> StepId | None:
        """Step that the newest attempt has started and not ended."""
        return self.latest.open_step.id if self.latest is not None and self.latest.open_step else None

    @property
    def compressed(self) -> StepResult | None:
        """Result of the step that made the current weights."""
        return self.done.get(StepId(StepKind.COMPRESS))

    @property
    def error(self) -> str | None:
        """Why the trial failed, on one line."""
        if self.failure is not None:
            return self.failure.error
        if self.state != "failed" or self.latest is None or self.latest.finished is None:
            return None
        return self.latest.finished.error

    def step_state(self, step: StepId) -> str:
        """Return the state of one step, one of the words for the state of a trial."""
        if step in self.done:
            return "done"
        if step in self.failures:
            return "stopped" if self.failures[step].cause is FailureCause.STOPPED else "failed"
        if self.open_step == step:
            return "running" if self.state == "running" else "stopped"
        return "pending"


def trial_status(
    trial: PlannedTrial, steps: tuple[Step, ...], stored: Stored, *, running: bool
) -> TrialStatus:
    """Return how far a trial has come, from its current results and its newest attempt.

    Args:
        trial: the trial.
        steps: its planned steps.
        stored: what the journals hold.
        running: whether a living runner runs it; in the journal a running attempt looks like a killed one.
    """
    results = stored.results_of(trial.weights_key, steps)
    done = {step.id: result for step in steps if (result := results.of(step)) is not None}
    all_attempts = stored.attempts.get(trial.trial, ())
    attempts = [attempt for attempt in all_attempts if attempt.weights_key == trial.weights_key]
    latest = attempts[-1] if attempts else None
    keys = {step.id: step.key for step in steps}
    failures = {
        failure.step.id: failure
        for failure in (latest.failures if latest is not None else ())
        if failure.step.id not in done
        and failure.step.key in (None, "", keys.get(failure.step.id, failure.step.key))
    }
    if running:
        state = "running"
    elif len(done) == len(steps):
        state = "done"
    else:
        state = _unfinished_state(latest, failures)
    return TrialStatus(state, done, steps, latest, failures)


def _unfinished_state(latest: Attempt | None, failures: dict[StepId, StepFailed]) -> str:
    if latest is None:
        return "pending"
    if latest.state in ("open", "stopped"):
        return "stopped"
    if latest.state == "failed" and (failures or not latest.failures):
        return "failed"
    return "pending"  # it was done, or failed at a step that is no longer planned


def read_planned(paths: StudyPaths, stored: Stored) -> Planned:
    """Read ``plan.json``; without one, rebuild a plan from the last attempt of every trial in the journals.

    Raises:
        StudyError: the file is no plan, or of a later studyctl.
    """
    return read_plan(paths) or _from_journals(paths.name, stored)


def _from_journals(study: str, stored: Stored) -> Planned:
    """Rebuild a plan: every trial with its newest weights, every step of its model with its newest key and all measured windows."""
    steps: dict[str, dict[StepId, Step]] = {}
    trials = []
    for name, attempts in stored.attempts.items():
        for attempt in attempts:
            of_model = steps.setdefault(attempt.started.model, {})
            for stored_step in attempt.steps:
                step = stored_step.step
                of_model[step.id] = _all_windows(of_model.get(step.id), step)
        started = attempts[-1].started
        trials.append(
            PlannedTrial(
                trial=name,
                model=started.model,
                method=started.method,
                variant=started.variant,
                backend=started.backend or OWN,
                seed=started.seed,
                settings=started.settings,
                calibration=started.calibration,
                weights_key=attempts[-1].weights_key,
                dtype=started.dtype or "",
                bits_per_weight=16.0 if started.variant == "dense" else None,
                sparsity=0.0 if started.variant == "dense" else None,
            )
        )
    evaluations = {
        model: tuple(
            PlannedStep(step)
            for step in of_model.values()
            if step.kind not in (StepKind.LOAD, StepKind.COMPRESS)
        )
        for model, of_model in steps.items()
    }
    return Planned(study=study, evaluations=evaluations, trials=tuple(trials))


def _all_windows(earlier: Step | None, step: Step) -> Step:
    """Return a step with all windows up to the end of this batch or of an earlier one."""
    if step.windows is None:
        return step
    end = step.windows[1]
    if earlier is not None and earlier.key == step.key and earlier.windows is not None:
        end = max(end, earlier.windows[1])
    return Step(step.kind, step.subject, (0, end), step.key)
