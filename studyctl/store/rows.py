"""The rows of the database, from the journals: the current results of every trial that the spec asks for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import structs

from studyctl.backends import OWN
from studyctl.contract.plan import Planned, PlannedTrial
from studyctl.contract.records import (
    AnyRecord,
    AttemptStarted,
    BlockDistance,
    FidelityTotals,
    FileFacts,
    Items,
    Layer,
    Record,
    RuntimeDistance,
    StepFinished,
    StepStarted,
    TaskFigure,
    TextTotals,
    Warned,
    Window,
)
from studyctl.contract.servers import Server
from studyctl.contract.steps import Step, StepKind
from studyctl.files import StudyPaths, open_plain
from studyctl.journal.files import decode, parse
from studyctl.journal.hypotheses import declared
from studyctl.journal.notes import read_notes
from studyctl.journal.speed import read_sessions
from studyctl.journal.stored import Attempt, ResultPart, StepResult, Stored, StoredStep
from studyctl.store.planned import TrialStatus, trial_status
from studyctl.store.speed import SpeedRows
from studyctl.store.text_totals import block_figures, totals_of

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

_LOAD = Step(StepKind.LOAD)
_ATTEMPT_FIELDS = (
    "host", "pid", "device", "device_kind", "threads", "dtype", "backend", "studyctl", "spec_hash"
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A Parquet part with item rows of a trial's current result."""

    path: Path
    trial: PlannedTrial
    step: StoredStep
    rows: int


@dataclass(frozen=True, slots=True)
class Texts:
    """A file with the texts of a task's items, and the step whose journal names it."""

    folder: Path
    name: str
    task: str
    trial: PlannedTrial
    step: StoredStep

    @property
    def path(self) -> Path:
        """Return where the file should be."""
        return self.folder / self.name

    @property
    def key(self) -> str:
        """Return the hash of what determines the texts."""
        return self.path.stem


@dataclass(slots=True)
class Rows:
    """Rows by table, and the Parquet files that hold the items and their texts."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    declared: dict[str, datetime] = field(default_factory=dict)
    """When each hypothesis was first recorded, by its hash."""
    texts: dict[tuple[str, str], Texts] = field(default_factory=dict)
    """By model and task: all trials of a model see the same prompts, also those that were measured before texts were kept."""

    def add(self, table: str, trial: PlannedTrial, values: Row) -> None:
        """Add a row, with the columns that identify the trial."""
        self.tables.setdefault(table, []).append(lead(trial) | values)


def lead(trial: PlannedTrial) -> Row:
    """Return the columns :data:`LEAD`, which identify a trial in every table."""
    return {"trial_id": trial.trial, "model": trial.model, "method": trial.method, "variant": trial.variant}


def collect(paths: StudyPaths, planned: Planned, stored: Stored, running: frozenset[str]) -> Rows:
    """Return every row of the database except the items and their texts, which stay in their files.

    Args:
        paths: files of the study.
        planned: the plan.
        stored: what the journals hold.
        running: trials that a living runner runs.

    Raises:
        StudyError: a journal is damaged in the middle of a current result.
    """
    rows = Rows()
    speed = SpeedRows(read_sessions(paths))
    notes = read_notes(paths)
    rows.declared = {name: at for name, text in declared(paths).items() if (at := timestamp(text))}
    for position, trial in enumerate(planned.trials):
        is_running = trial.trial in running
        status = trial_status(trial, planned.steps(trial), stored, running=is_running)
        attempts = stored.attempts.get(trial.trial, ())
        results = dict(status.done)
        if (loaded := stored.loads.get(trial.weights_key or "")) is not None:
            results[_LOAD.id] = StepResult((ResultPart(loaded, (None,)),))
        row = _trial_row(trial, status, attempts, list(results.values()))
        row |= _file_row(stored.file_of(trial.weights_key, status.steps))
        version = _backend_version(_compressed_in(status, stored))
        note = notes.get(trial.trial)
        row |= {"position": position, "backend_version": version, "note": note and note.text}
        rows.add("trials", trial, row)
        for attempt in attempts:
            rows.add("attempts", trial, _attempt_row(trial, attempt, is_running and attempt is attempts[-1]))
        for step in (_LOAD, *status.steps):
            rows.add("steps", trial, _step_row(step, status, results.get(step.id), stored))
        _collect_results(rows, paths, trial, status)
        weights = trial.weights_key, stored.results_of(trial.weights_key, status.steps).weights_hash
        for row in speed.runs(weights):
            rows.add("speed_runs", trial, row | {"at": timestamp(row["at"])})
        for row in speed.summaries(weights):
            rows.add("speed", trial, row | {"at": timestamp(row["at"])})
    for row in rows.tables.get("tasks", ()):
        row["language"] = planned.task_languages.get(row["task"])
    return rows


def timestamp(at: str | None) -> datetime | None:
    """Return a journal's time as DuckDB's TIMESTAMP: UTC, without a time zone."""
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None) if at else None


def _trial_row(
    trial: PlannedTrial, status: TrialStatus, attempts: tuple[Attempt, ...], results: list[StepResult]
) -> Row:
    compress, failure = status.compressed, status.failure
    weights = compress.latest if compress is not None else None
    started = status.latest.started if status.latest is not None else None
    seconds = [result.seconds for result in results if result.seconds is not None]
    peaks = [result.peak_memory_bytes for result in results if result.peak_memory_bytes is not None]
    on_device = [result.peak_device_bytes for result in results if result.peak_device_bytes is not None]
    return {
        "state": status.state,
        "bits_per_weight": _first(weights.bits_per_weight if weights else None, trial.bits_per_weight),
        "size_mib": trial.stored_bytes / 2**20 if trial.stored_bytes is not None else None,
        "sparsity": _first(weights.sparsity if weights else None, trial.sparsity),
        "compress_seconds": compress and compress.seconds,
        "total_seconds": sum(seconds) if seconds else None,
        "peak_memory_bytes": max(peaks, default=None),
        "peak_device_bytes": max(on_device, default=None),
        "error": status.error,
        "cause": failure and failure.cause,
        "hint": failure and failure.hint,
        "stage": status.step and str(status.step),
        "stages": len(status.steps),
        "stages_done": len(status.done),
        "attempts": len(attempts),
        "backend": trial.backend,
        "seed": trial.seed,
        "options": json.dumps(trial.settings),
        "calibration": json.dumps(trial.calibration) if trial.calibration is not None else None,
        "started_at": timestamp(attempts[0].started.at) if attempts else None,
        "finished_at": timestamp(max((result.latest.at for result in status.done.values()), default=None)),
        "host": started and started.host,
        "device": started and started.device,
        "device_kind": started and started.device_kind,
        "dtype": (started and started.dtype) or trial.dtype,
        "available": trial.available,
        **{server: trial.servers.get(server) for server in Server},
        "weights_key": trial.weights_key,
    }


def _file_row(file: FileFacts | None) -> Row:
    if file is None or file.bytes is None:
        return {"why_no_file": file and file.why_none}
    share = (file.vocabulary_bytes or 0) / file.bytes
    return {"file_mib": file.bytes / 2**20, "embedding_share": share}


def _compressed_in(status: TrialStatus, stored: Stored) -> AttemptStarted | None:
    """Return the ``attempt_started`` of the attempt that made the current weights; without these, of the newest attempt."""
    if status.compressed is not None:
        made = status.compressed.latest
        for attempt in stored.attempts.get(made.trial, ()):
            if attempt.attempt == made.attempt:
                return attempt.started
    return status.latest.started if status.latest is not None else None


def _backend_version(started: AttemptStarted | None) -> str | None:
    """Return the version of the backend; journals from before this field have only that of studyctl."""
    if started is not None and started.backend_version is None and started.backend == OWN:
        return started.studyctl
    return started.backend_version if started is not None else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _attempt_row(trial: PlannedTrial, attempt: Attempt, running: bool) -> Row:
    finished, started = attempt.finished, attempt.started
    failure = attempt.failures[0] if attempt.failures else None
    step = failure.step if failure else attempt.open_step
    return {
        "attempt": attempt.attempt,
        "state": attempt.state_if(running=running),
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


@lru_cache(maxsize=4096)  # one string for the same step of every trial: a large study has a million
def _text(step: Step) -> str:
    return str(step)


def _step_row(step: Step, status: TrialStatus, result: StepResult | None, stored: Stored) -> Row:
    row: Row = {"step": _text(step), "kind": step.kind, "subject": step.subject, "key": step.key}
    if result is None:
        return row | {"state": status.step_state(step.id)}
    latest = result.latest
    return row | {
        "state": "done",
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "peak_device_bytes": result.peak_device_bytes,
        "attempt": latest.attempt,
        "finished_at": timestamp(latest.at),
        "key": latest.step.key,
        "weights_hash": latest.weights_hash,
        "measured_since": timestamp(_measured_since(result, stored)),
    }


def _measured_since(result: StepResult, stored: Stored) -> str | None:
    """Return when the first attempt began that contributed to a result."""
    contributed = {(part.stored.trial, part.stored.attempt) for part in result.parts}
    return min(
        (
            attempt.started.at
            for trial in {trial for trial, _ in contributed}
            for attempt in stored.attempts.get(trial, ())
            if (trial, attempt.attempt) in contributed
        ),
        default=None,
    )


def _collect_results(rows: Rows, paths: StudyPaths, trial: PlannedTrial, status: TrialStatus) -> None:
    """Add the records of a trial's current results, and the warnings of steps that run or failed."""

    def place(result: StepResult) -> tuple[str, int, int]:
        first = result.parts[0].stored
        return first.trial, first.attempt, first.begin

    for result in sorted(status.done.values(), key=place):
        records: list[AnyRecord] = []
        for part in result.parts:
            of_part = list(records_of(part))
            _add_records(rows, paths, trial, part.stored, of_part)
            records += of_part
        if result.latest.step.kind is StepKind.PERPLEXITY:
            for total in totals_of(records):
                rows.add(_TABLES[type(total)], trial, structs.asdict(total))
    latest = status.latest
    if latest is not None and (latest.open_step or latest.failures):
        failed = {failure.step.id for failure in latest.failures}
        open_steps = (failed | {latest.open_step.id} if latest.open_step else failed) - status.done.keys()
        # A worker that died before its first record has no journal.
        for record in _records(latest.journal, 0, None) if latest.journal.exists() else ():
            if isinstance(record, Warned) and record.step.id in open_steps:
                rows.add("warnings", trial, _warning_row(record))


def _add_records(  # noqa: C901 - one case for each kind of record
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
                if record.texts:
                    texts = Texts(paths.items, record.texts, record.task, trial, stored)
                    rows.texts.setdefault((trial.model, record.task), texts)
            case Window():
                rows.add("windows", trial, structs.asdict(record) | {"place": place})
                place += 1
            case RuntimeDistance(kl_nats=kl, tokens=tokens):
                mean = None if kl is None else kl / tokens
                rows.add("runtime_fidelity", trial, structs.asdict(record) | {"kl_nats": mean})
            case BlockDistance():
                rows.add("activations", trial, structs.asdict(record) | block_figures(record))
            case TaskFigure():
                # Before 0.2 the main metric was the first one.
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
    """Yield the records of a result, each batch after its ``step_started``.

    Of a try that ran out of memory and was started again, only the warnings are yielded.
    """
    since_begin: list[AnyRecord] = []
    for record in _records(part.stored.journal, part.stored.begin, part.stored.end):
        match record:
            case StepStarted():
                since_begin = [*(earlier for earlier in since_begin if isinstance(earlier, Warned)), record]
            case StepFinished(step=step):
                if step.windows in part.batches:
                    yield from since_begin
                since_begin = []
            case _:
                since_begin.append(record)


def _records(journal: Path, begin: int, end: int | None) -> list[AnyRecord]:
    """Return the records of a part of a journal, without progress records, which are most of it."""
    with open_plain(journal) as file:
        file.seek(begin)
        data = file.read() if end is None else file.read(end - begin)
        lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
        decoded = [decode(line) for line in lines if b'"kind":"progress"' not in line]
        records = [record for record in decoded if record is not None]
        if len(records) == len(decoded):
            return records
        file.seek(0)
        first_line = file.read(begin).count(b"\n") + 1
        return parse(data, journal, first_line)[0]
