"""Queries that the user saved under a name, for every study; kept between sessions (:mod:`~studyctl.sql.state`)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from studyctl.sql.state import change_lines, entry_of, line_of, read_entries, state_file

WHAT = "the saved queries"


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """A query with its name."""

    name: str
    at: str
    """When it was saved: UTC, ISO 8601."""
    sql: str


class NameTaken(Exception):
    """Another query is saved under the name."""


def saved_file() -> Path:
    """Return the file of the saved queries."""
    return state_file("sql_saved.jsonl")


def saved_queries() -> list[SavedQuery]:
    """Return the saved queries in the order of their names.

    Raises:
        StudyError: the file cannot be read.
    """
    newest = {query.name: query for query in read_entries(saved_file(), SavedQuery, WHAT)}
    return sorted(newest.values(), key=lambda query: (query.name.casefold(), query.name))


def save_query(name: str, sql: str, *, replace: bool) -> None:
    """Save a query.

    Args:
        name: its name; not empty.
        sql: its text.
        replace: whether it may take the place of the one that has this name.

    Raises:
        NameTaken: another query has the name, and must not be replaced.
        StudyError: the file cannot be written, or another app holds it.
    """
    query = SavedQuery(name, datetime.now(UTC).isoformat(timespec="seconds"), sql.strip())

    def change(lines: list[bytes]) -> list[bytes]:
        others = [line for line in lines if _name(line) != name]
        if len(others) < len(lines) and not replace:
            raise NameTaken
        return [*others, line_of(query)]

    change_lines(saved_file(), WHAT, change)


def delete_query(name: str) -> None:
    """Delete a saved query; nothing happens if another app did already.

    Raises:
        StudyError: the file cannot be written, or another app holds it.
    """
    change_lines(saved_file(), WHAT, lambda lines: [line for line in lines if _name(line) != name])


def _name(line: bytes) -> str | None:
    query = entry_of(line, SavedQuery)
    return None if query is None else query.name
