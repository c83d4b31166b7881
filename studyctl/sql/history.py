"""The queries that were run in the app, newest first; kept between sessions (:mod:`~studyctl.sql.state`)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from studyctl.sql.state import change_lines, line_of, read_entries, state_file

MOST = 1000
"""Number of queries that are kept."""
WHAT = "the query history"


@dataclass(frozen=True, slots=True)
class PastQuery:
    """A query that was run: when, on which study, and its text."""

    at: str
    """UTC, ISO 8601."""
    study: str
    sql: str


def history_file() -> Path:
    """Return the file of the queries."""
    return state_file("sql_history.jsonl")


def remember(study: str, sql: str) -> None:
    """Append a query; the oldest make room.

    Raises:
        StudyError: the file cannot be written, or another app holds it.
    """
    if not (sql := sql.strip()):
        return
    past = PastQuery(datetime.now(UTC).isoformat(timespec="seconds"), study, sql)
    change_lines(history_file(), WHAT, lambda lines: [*lines, line_of(past)][-MOST:])


def recall() -> list[PastQuery]:
    """Return the past queries, newest first, each once; empty if there is no history.

    Raises:
        StudyError: the file cannot be read.
    """
    newest: dict[str, PastQuery] = {}
    for past in reversed(read_entries(history_file(), PastQuery, WHAT)):
        newest.setdefault(past.sql, past)
    return list(newest.values())
