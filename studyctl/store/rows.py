"""From journals to rows: the current results of every trial that the spec asks for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from studyctl.backends import OWN
from studyctl.files import StudyPaths
from studyctl.store.index import Attempt, Stored, StoredStage
from studyctl.store.journal import Record, parse
from studyctl.store.planned import Planned, PlannedTrial, TrialStatus, trial_status

RESULT_KINDS = {
    "layer": "layers",
    "perplexity": "perplexity",
    "window": "windows",
    "fidelity": "fidelity",
    "task": "tasks",
}
"""Kinds of records that become rows as they are, and their tables."""

_ATTEMPT_FIELDS = ("host", "pid", "device", "threads", "dtype", "backend", "studyctl", "spec_hash")


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet part with item rows of a trial's current result."""

    path: Path
    trial: PlannedTrial
    stage: StoredStage
    rows: int


@dataclass(slots=True)
class Rows:
    """Rows by table, and the Parquet parts that hold the items."""

    tables: dict[str, list[Record]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    def add(self, table: str, trial: PlannedTrial, values: Record) -> None:
        """Add a row that starts with what identifies the trial."""
        lead = {
            "trial_id": trial.trial,
            "model": trial.model,
            "method": trial.method,
            "variant": trial.variant,
        }
        self.tables.setdefault(table, []).append(lead | values)

    def warn(self, trial: PlannedTrial, stage: StoredStage, message: str) -> None:
        """Add a warning about a result that could not be published whole."""
        row = {"stage": stage.stage, "message": message, "attempt": stage.attempt, "at": timestamp(stage.at)}
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
        status = trial_status(trial, planned.stages(trial), stored, running=is_running)
        attempts = stored.attempts.get(trial.trial, ())
        rows.add("trials", trial, _trial_row(trial, status, stored, attempts) | {"position": position})
        for attempt in attempts:
            rows.add("attempts", trial, _attempt_row(trial, attempt, is_running and attempt is attempts[-1]))
        for row in _stage_rows(trial, status, stored):
            rows.add("stages", trial, row)
        _collect_results(rows, paths, trial, status)
    return rows


def timestamp(at: str | None) -> datetime | None:
    """Return a journal's time as DuckDB's TIMESTAMP: UTC without saying so."""
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None) if at else None


def _trial_row(
    trial: PlannedTrial, status: TrialStatus, stored: Stored, attempts: tuple[Attempt, ...]
) -> Record:
    done = status.done.values()
    load = _load(trial, stored)
    timed = [*done, load] if load is not None else list(done)
    compress = status.done.get("compress")
    started = status.latest.started if status.latest is not None else {}
    failure = status.failure
    return {
        "state": status.state,
        "bits_per_weight": _first(compress.bits_per_weight if compress else None, trial.bits_per_weight),
        "sparsity": _first(compress.sparsity if compress else None, trial.sparsity),
        "compress_seconds": compress and compress.seconds,
        "total_seconds": _over(sum, timed, lambda stage: stage.seconds),
        "peak_memory_bytes": _over(max, timed, lambda stage: stage.peak_memory_bytes),
        "error": status.error,
        "cause": failure and failure.cause,
        "hint": failure and failure.hint,
        "stage": status.stage,
        "stages": len(status.asked),
        "stages_done": len(status.done),
        "attempts": len(attempts),
        "backend": trial.backend,
        "backend_version": _backend_version(_compressed_in(status, stored)),
        "seed": trial.seed,
        "options": json.dumps(trial.settings),
        "calibration": json.dumps(trial.calibration) if trial.calibration is not None else None,
        "started_at": timestamp(attempts[0].started["at"]) if attempts else None,
        "finished_at": timestamp(max((stage.at for stage in done), default=None)),
        "host": started.get("host"),
        "device": started.get("device"),
        "dtype": started.get("dtype") or trial.dtype,
        "available": trial.available,
        "weights_key": trial.weights_key,
    }


def _compressed_in(status: TrialStatus, stored: Stored) -> Record:
    """Return how the attempt began that made the current weights; before there are any, the newest attempt."""
    compress = status.done.get("compress")
    made = (
        [one.started for one in stored.attempts.get(compress.trial, ()) if one.attempt == compress.attempt]
        if compress is not None
        else []
    )
    latest = status.latest.started if status.latest is not None else {}
    return made[0] if made else latest


def _backend_version(started: Record) -> str | None:
    """Return the version of the implementation; journals from before the field have that of studyctl only."""
    version: str | None = started.get("backend_version")
    if version is None and started.get("backend") == OWN:
        version = started.get("studyctl")
    return version


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _over(
    combine: Callable[[list[Any]], Any],
    stages: list[StoredStage],
    value: Callable[[StoredStage], float | None],
) -> Any:
    known = [number for stage in stages if (number := value(stage)) is not None]
    return combine(known) if known else None


def _load(trial: PlannedTrial, stored: Stored) -> StoredStage | None:
    return stored.loads.get(trial.weights_key) if trial.weights_key is not None else None


def _attempt_row(trial: PlannedTrial, attempt: Attempt, running: bool) -> Record:
    finished = attempt.finished or {}
    failure = attempt.failures[0] if attempt.failures else None
    state = attempt.state
    if state == "open":
        state = "running" if running else "stopped"
    return {
        "attempt": attempt.attempt,
        "state": state,
        "stage": failure.stage if failure else attempt.open_stage,
        "error": failure.error if failure else finished.get("error") or None,
        "cause": failure and failure.cause,
        "hint": failure and failure.hint,
        "seconds": finished.get("seconds"),
        "peak_memory_bytes": finished.get("peak_memory_bytes"),
        "started_at": timestamp(attempt.started["at"]),
        "finished_at": timestamp(finished.get("at")),
        "versions": json.dumps(attempt.started.get("versions") or {}),
        "weights_key": attempt.weights_key,
        "current": attempt.weights_key == trial.weights_key,
        "journal": attempt.journal.name,
        "backend_version": _backend_version(attempt.started),
        **{name: attempt.started.get(name) for name in _ATTEMPT_FIELDS},
    }


def _stage_rows(trial: PlannedTrial, status: TrialStatus, stored: Stored) -> Iterator[Record]:
    load = _load(trial, stored)
    stages = {"load": load} | {stage: status.done.get(stage) for stage in status.asked}
    for name, stage in stages.items():
        if stage is None:
            yield {"stage": name, "state": status.stage_state(name), "key": status.asked.get(name)}
            continue
        yield {
            "stage": name,
            "state": "done",
            "seconds": stage.seconds,
            "peak_memory_bytes": stage.peak_memory_bytes,
            "attempt": stage.attempt,
            "finished_at": timestamp(stage.at),
            "key": stage.key,
            "weights_hash": stage.weights_hash,
        }


def _collect_results(rows: Rows, paths: StudyPaths, trial: PlannedTrial, status: TrialStatus) -> None:
    """Add the records of a trial's current stages, and the warnings of what runs or failed just now."""
    for stage in sorted(status.done.values(), key=lambda stage: (stage.trial, stage.attempt, stage.begin)):
        records = list(_records(stage.journal, stage.begin, stage.end))
        begun = max((place for place, one in enumerate(records) if one["kind"] == "stage_started"), default=0)
        for place, record in enumerate(records):
            if record["kind"] == "warning":
                rows.add("warnings", trial, _warning_row(record))
            elif place < begun:
                continue  # of a try that ran out of memory and was begun again
            elif record["kind"] in RESULT_KINDS:
                rows.add(RESULT_KINDS[record["kind"]], trial, record)
            elif record["kind"] == "item":
                rows.parts.append(Part(paths.journal / record["part"], trial, stage, record["rows"]))
    latest = status.latest
    if latest is not None and (latest.open_stage or latest.failures):
        open_stages = {
            latest.open_stage,
            *(failure.stage for failure in latest.failures),
        } - status.done.keys()
        for record in _records(latest.journal, 0, None):
            if record["kind"] == "warning" and record.get("stage") in open_stages:
                rows.add("warnings", trial, _warning_row(record))


def _warning_row(record: Record) -> Record:
    known = ("seq", "at", "kind", "trial", "attempt", "stage", "message")
    details = {name: value for name, value in record.items() if name not in known}
    return {
        "stage": record.get("stage"),
        "message": record["message"],
        "attempt": record["attempt"],
        "at": timestamp(record["at"]),
        "details": json.dumps(details) if details else None,
    }


def _records(journal: Path, begin: int, end: int | None) -> Iterator[Record]:
    """Yield a stretch of a journal without its progress records, which are most of it."""
    with journal.open("rb") as file:
        file.seek(begin)
        data = file.read() if end is None else file.read(end - begin)
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    wanted = [line for line in lines if b'"kind":"progress"' not in line]
    try:
        yield from json.loads(b"[%b]" % b",".join(wanted))  # at once: a third faster than line by line
    except ValueError:
        with journal.open("rb") as file:
            first_line = file.read(begin).count(b"\n") + 1
        yield from parse(data, journal, first_line)[0]
