"""The rows of files that were timed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

from studyctl.contract.records import SpeedRun
from studyctl.contract.speed import Phase
from studyctl.findings.speed import Ratio, Session, seconds_of
from studyctl.journal.speed import StoredSession

Row = dict[str, Any]
Weights = tuple[str | None, str | None]
"""Key and hash of a trial's weights."""


class SpeedRows:
    """The sessions of a study, by the weights that they timed."""

    def __init__(self, sessions: Iterable[StoredSession]) -> None:
        """Take the sessions, the oldest first."""
        self._sessions: dict[Weights, list[StoredSession]] = defaultdict(list)
        for session in sessions:
            for weights in {(run.weights_key, run.weights_hash) for run in session.runs}:
                self._sessions[weights].append(session)

    def runs(self, weights: Weights) -> Iterator[Row]:
        """Yield the rows of the table ``speed_runs``."""
        for session in self._sessions.get(weights, ()):
            for run in _of(session, weights):
                for phase in Phase:
                    yield _run_row(session, run, phase)

    def summaries(self, weights: Weights) -> Iterator[Row]:
        """Yield the rows of the table ``speed``: of several sessions alike, the newest counts."""
        newest: dict[tuple[object, ...], Row] = {}
        for session in self._sessions.get(weights, ()):
            runs = _of(session, weights) if session.is_complete else []
            for threads in dict.fromkeys(run.threads for run in runs):
                row = _summary(session, [run for run in runs if run.threads == threads], threads)
                same = ("cpu", "runtime", "build", "threads", "prompt", "generate")
                newest[tuple(row[name] for name in same)] = row
        yield from newest.values()


def _of(session: StoredSession, weights: Weights) -> list[SpeedRun]:
    return [run for run in session.runs if (run.weights_key, run.weights_hash) == weights]


def _about(session: StoredSession) -> Row:
    started = session.started
    return {
        "session": session.journal.stem,
        "runtime": started.runtime,
        "build": started.build,
        "cpu": started.cpu,
        "host": started.host,
    }


def _run_row(session: StoredSession, run: SpeedRun, phase: Phase) -> Row:
    is_prefill, started = phase is Phase.PREFILL, session.started
    return _about(session) | {
        "round": run.round,
        "place": run.place,
        "copy": run.copy,
        "phase": phase,
        "threads": run.threads,
        "tokens": started.prompt if is_prefill else started.generate,
        "wall_seconds": seconds_of(run, phase),
        "cpu_seconds": run.prefill_cpu_seconds if is_prefill else run.decode_cpu_seconds,
        "load_seconds": run.load_seconds,
        "resident_bytes": run.resident_bytes,
        "file_bytes": run.file_bytes,
        "error": run.error or None,
        "complete": session.is_complete,
        "at": run.at,
    }


def _summary(session: StoredSession, runs: Sequence[SpeedRun], threads: int) -> Row:
    """Return the row of a file in a complete session, with so many threads."""
    file, started = runs[0].file, session.started
    dense = next((run.file for run in session.runs if run.copy), "")
    rounds = Session(session.runs, dense, threads)
    loads = [run.load_seconds for run in runs if run.load_seconds is not None]
    resident = [run.resident_bytes for run in runs if run.resident_bytes is not None]
    row = _about(session) | {
        "at": started.at,
        "threads": threads,
        "prompt": started.prompt,
        "generate": started.generate,
        "rounds": len({run.round for run in runs if not run.error}),
        "load_seconds": median(loads) if loads else None,
        "resident_bytes": round(median(resident)) if resident else None,
        "error": next((run.error for run in runs if run.error), None),
    }
    for phase, tokens in ((Phase.PREFILL, started.prompt), (Phase.DECODE, started.generate)):
        verdict, itself = rounds.verdict(file, phase), rounds.against_itself(phase)
        row |= {
            f"{phase}_rate": rounds.rate(file, phase, tokens),
            f"{phase}_verdict": verdict,
            f"{phase}_itself_low": itself and itself.low,
            f"{phase}_itself_high": itself and itself.high,
            **_ends(phase, rounds.ratio(file, phase)),
        }
    return row


def _ends(phase: Phase, ratio: Ratio | None) -> Row:
    return {
        f"{phase}_ratio": ratio and ratio.value,
        f"{phase}_low": ratio and ratio.low,
        f"{phase}_high": ratio and ratio.high,
    }
