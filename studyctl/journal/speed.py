"""The sessions in which files were timed: a journal each, with one writer."""

from dataclasses import dataclass
from pathlib import Path

from studyctl.contract.records import SpeedFinished, SpeedRun, SpeedStarted
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session, as far as its journal says."""

    journal: Path
    started: SpeedStarted
    runs: tuple[SpeedRun, ...]
    is_complete: bool


def read_sessions(paths: StudyPaths) -> list[StoredSession]:
    """Return all sessions of a study, the oldest first.

    Raises:
        StudyError: a journal is damaged in the middle.
    """
    sessions = []
    for journal in paths.speed.glob("*.jsonl"):
        records = JournalTail(journal).new_records()
        if records and isinstance(started := records[0], SpeedStarted):  # else killed before its first line
            runs = tuple(record for record in records if isinstance(record, SpeedRun))
            complete = any(isinstance(record, SpeedFinished) for record in records)
            sessions.append(StoredSession(journal, started, runs, complete))
    return sorted(sessions, key=lambda session: session.started.at)
