"""From journals to rows: the current results of every trial that the spec asks for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from studyctl.backends import OWN
from studyctl.contract.plan import Planned, PlannedTrial
from studyctl.contract.records import (
    AnyRecord,
    AttemptStarted,
    FidelityTotals,
    Items,
    Layer,
    Record,
    StepFinished,
    StepStarted,
    TaskFigure,
    TextTotals,
    Warned,
    Window,
)
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.files import StudyPaths
from studyctl.journal.files import decode, parse
from studyctl.journal.stored import Attempt, ResultPart, StepResult, Stored, StoredStep
from studyctl.store.planned import TrialStatus, trial_status
from studyctl.store.text_totals import totals_of

Row = dict[str, Any]
_ACCURACIES = ("acc", "acc_norm", "exact_match")
_TABLES: dict[type[Record], str] = {
    Layer: "layers",
    TextTotals: "perplexity",
    Window: "windows",
    FidelityTotals: "fidelity",
    TaskFigure: "tasks",
}
"""Kinds of records that become rows as they are, and their tables."""

_ATTEMPT_FIELDS = (
    "host", "pid", "device", "device_kind", "threads", "dtype", "backend", "studyctl", "spec_hash"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet part with item rows of a trial's current result."""

    path: Path
    trial: PlannedTrial
    step: StoredStep
    rows: int


@dataclass(slots=True)
class Rows:
    """Rows by table, and the Parquet parts that hold the items."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    def add(self, table: str, trial: PlannedTrial, values: Row) -> None:
        """Add a row that starts with what identifies the trial."""
        lead = {
            "trial_id": trial.trial,
            "model": trial.model,
            "method": trial.method,
            "variant": trial.variant,
        }
        self.tables.setdefault(table, []).append(lead | values)

    def warn(self, trial: PlannedTrial, step: StoredStep, message: str) -> None:
        """Add a warning about a result that could not be published whole."""
        row = {"stage": str(step.step), "message": message, "attempt": step.attempt, "at": timestamp(step.at)}
        self.add("warnings", trial, row)


def collect(paths: StudyPaths, planned: Planned, stored: Stored, running: frozenset[str]) -> Rows:
    """Return every row of the database but the items, which stay in their parts.

    Args:
        paths: Files of the study.
        planned: What is asked for.
        stored: What the journals hold.
        running: Trials that a living runner is at.

    Raises:
        StudyError: a journal is damaged in the middle of a current result.
    """
    rows = Rows()
    for position, trial in enumerate(planned.trials):
        is_running = trial.trial in running
        status = trial_status(trial, planned.steps(trial), stored, running=is_running)
        attempts = stored.attempts.get(trial.trial, ())
        rows.add("trials", trial, _trial_row(trial, status, stored, attempts) | {"position": position})
        for attempt in attempts:
            rows.add("attempts", trial, _attempt_row(trial, attempt, is_running and attempt is attempts[-1]))
        for row in _step_rows(trial, status, stored):
            rows.add("steps", trial, row)
        _collect_results(rows, paths, trial, status)
    return rows


def timestamp(at: str | None) -> datetime | None:
    """Return a journal's time as DuckDB's TIMESTAMP: UTC without saying so."""
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None) if at else None


def _trial_row(
    trial: PlannedTrial, status: TrialStatus, stored: Stored, attempts: tuple[Attempt, ...]
) -> Row:
    done = status.done.values()
    load = _load(trial, stored)
    timed = [*done, load] if load is not None else list(done)
    compress = status.compressed
    weights = compress.latest if compress is not None else None
    started = status.latest.started if status.latest is not None else None
    failure = status.failure
    return {
        "state": status.state,
        "bits_per_weight": _first(weights.bits_per_weight if weights else None, trial.bits_per_weight),
        "sparsity": _first(weights.sparsity if weights else None, trial.sparsity),
        "compress_seconds": compress and compress.seconds,
        "total_seconds": _over(sum, timed, lambda step: step.seconds),
        "peak_memory_bytes": _over(max, timed, lambda step: step.peak_memory_bytes),
        "error": status.error,
        "cause": failure and failure.cause,
        "hint": failure and failure.hint,
        "stage": status.step and str(status.step),
        "stages": len(status.asked),
        "stages_done": len(status.done),
        "attempts": len(attempts),
        "backend": trial.backend,
        "backend_version": _backend_version(_compressed_in(status, stored)),
        "seed": trial.seed,
        "options": json.dumps(trial.settings),
        "calibration": json.dumps(trial.calibration) if trial.calibration is not None else None,
        "started_at": timestamp(attempts[0].started.at) if attempts else None,
        "finished_at": timestamp(max((step.latest.at for step in done), default=None)),
        "host": started and started.host,
        "device": started and started.device,
        "device_kind": started and started.device_kind,
        "dtype": (started and started.dtype) or trial.dtype,
        "available": trial.available,
        "weights_key": trial.weights_key,
    }


def _compressed_in(status: TrialStatus, stored: Stored) -> AttemptStarted | None:
    """Return how the attempt began that made the current weights; before there are any, the newest attempt."""
    if status.compressed is not None:
        made = status.compressed.latest
        for attempt in stored.attempts.get(made.trial, ()):
            if attempt.attempt == made.attempt:
                return attempt.started
    return status.latest.started if status.latest is not None else None


def _backend_version(started: AttemptStarted | None) -> str | None:
    """Return the version of the implementation; journals from before the field have that of studyctl only."""
    if started is None:
        return None
    if started.backend_version is None and started.backend == OWN:
        return started.studyctl
    return started.backend_version


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _over(
    combine: Callable[[list[Any]], Any],
    steps: list[StepResult],
    value: Callable[[StepResult], float | None],
) -> Any:
    known = [number for step in steps if (number := value(step)) is not None]
    return combine(known) if known else None


def _load(trial: PlannedTrial, stored: Stored) -> StepResult | None:
    found = stored.loads.get(trial.weights_key) if trial.weights_key is not None else None
    return StepResult((ResultPart(found, (None,)),)) if found is not None else None


def _attempt_row(trial: PlannedTrial, attempt: Attempt, running: bool) -> Row:
    finished, started = attempt.finished, attempt.started
    failure = attempt.failures[0] if attempt.failures else None
    state = attempt.state
    if state == "open":
        state = "running" if running else "stopped"
    step = failure.step if failure else attempt.open_step
    return {
        "attempt": attempt.attempt,
        "state": state,
        "stage": step and str(step),
        "error": failure.error if failure else (finished and finished.error) or None,
        "cause": failure and failure.cause,
        "hint": failure and failure.hint,
        "seconds": finished and finished.seconds,
        "peak_memory_bytes": finished and finished.peak_memory_bytes,
        "started_at": timestamp(started.at),
        "finished_at": timestamp(finished.at if finished else None),
        "versions": json.dumps(started.versions),
        "weights_key": attempt.weights_key,
        "current": attempt.weights_key == trial.weights_key,
        "journal": attempt.journal.name,
        **{name: getattr(started, name) for name in _ATTEMPT_FIELDS},
        "backend_version": _backend_version(started),
    }


def _step_rows(trial: PlannedTrial, status: TrialStatus, stored: Stored) -> Iterator[Row]:
    load = Step(StepKind.LOAD)
    results = {load.id: _load(trial, stored)} | status.done
    for step in (load, *status.asked):
        result = results.get(step.id)
        row: Row = {"step": str(step), "kind": step.kind, "subject": step.subject, "key": step.key}
        if result is None:
            yield row | {"state": status.step_state(step.id)}
            continue
        latest = result.latest
        yield row | {
            "state": "done",
            "seconds": result.seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
            "attempt": latest.attempt,
            "finished_at": timestamp(latest.at),
            "key": latest.step.key,
            "weights_hash": latest.weights_hash,
        }


def _collect_results(rows: Rows, paths: StudyPaths, trial: PlannedTrial, status: TrialStatus) -> None:
    """Add the records of a trial's current steps, and the warnings of what runs or failed just now."""
    for step, result in sorted(status.done.items(), key=_where):
        found = [(part, list(records_of(part))) for part in result.parts]
        for part, records in found:
            _add_records(rows, paths, trial, part.stored, records)
        if step.kind is StepKind.PERPLEXITY:
            for total in totals_of([record for _, records in found for record in records]):
                rows.add(_TABLES[type(total)], trial, structs.asdict(total))
    latest = status.latest
    if latest is not None and (latest.open_step or latest.failures):
        failed = {failure.step.id for failure in latest.failures}
        open_steps = (failed | {latest.open_step.id} if latest.open_step else failed) - status.done.keys()
        for record in _records(latest.journal, 0, None):
            if isinstance(record, Warned) and record.step.id in open_steps:
                rows.add("warnings", trial, _warning_row(record))


def _where(found: tuple[StepId, StepResult]) -> tuple[str, int, int]:
    """Return where in the journals a result begins."""
    first = found[1].parts[0].stored
    return first.trial, first.attempt, first.begin


def _add_records(
    rows: Rows, paths: StudyPaths, trial: PlannedTrial, stored: StoredStep, records: list[AnyRecord]
) -> None:
    place = figures = 0
    for record in records:
        match record:
            case StepStarted(step=step) if step.windows is not None:
                place = step.windows[0]
            case Warned():
                rows.add("warnings", trial, _warning_row(record))
            case Items():
                rows.parts.append(Part(paths.journal / record.part, trial, stored, record.rows))
            case Window():
                rows.add("windows", trial, structs.asdict(record) | {"place": place})
                place += 1
            case TaskFigure():
                # Before 0.2 every task was shown by its first metric.
                main = figures == 0 if record.main is None else record.main
                averaged = record.averaged or (record.main is None and main and record.metric in _ACCURACIES)
                rows.add("tasks", trial, structs.asdict(record) | {"main": main, "averaged": averaged})
                figures += 1
            case Layer() | TextTotals() | FidelityTotals():
                rows.add(_TABLES[type(record)], trial, structs.asdict(record))


def _warning_row(record: Warned) -> Row:
    return {
        "stage": str(record.step),
        "message": record.message,
        "attempt": record.attempt,
        "at": timestamp(record.at),
        "details": json.dumps(record.details) if record.details else None,
    }


def records_of(part: ResultPart) -> Iterator[AnyRecord]:
    """Yield what was recorded of a result, each batch after its ``step_started``.

    Of a try that ran out of memory and was begun again there are the warnings only.
    """
    since_begin: list[AnyRecord] = []
    for record in _records(part.stored.journal, part.stored.begin, part.stored.end):
        match record:
            case StepStarted():
                since_begin = [*(one for one in since_begin if isinstance(one, Warned)), record]
            case StepFinished(step=step):
                if step.windows in part.batches:
                    yield from since_begin
                since_begin = []
            case _:
                since_begin.append(record)


def _records(journal: Path, begin: int, end: int | None) -> list[AnyRecord]:
    """Return the records of a stretch of a journal, without those of progress, which are most of it."""
    with journal.open("rb") as file:
        file.seek(begin)
        data = file.read() if end is None else file.read(end - begin)
        lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
        found = [decode(line) for line in lines if b'"kind":"progress"' not in line]
        whole = [record for record in found if record is not None]
        if len(whole) == len(found):
            return whole
        file.seek(0)
        first_line = file.read(begin).count(b"\n") + 1
        return parse(data, journal, first_line)[0]
