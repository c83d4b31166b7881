"""The queries that were run in the app, newest first; kept between sessions, shared by all apps of the user.

One JSON object a line: ``at`` (UTC, ISO 8601), ``study``, ``sql``. Written under a lock, as a whole; a line that is no query is skipped.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import platformdirs
from filelock import Timeout

from studyctl.errors import StudyError
from studyctl.files import file_lock, write_atomic

MOST = 1000
"""Number of queries that are kept."""
PATIENCE_SECONDS = 5.0
"""How long an app waits while another one writes."""


@dataclass(frozen=True, slots=True)
class PastQuery:
    """A query that was run: when, on which study, and its text."""

    at: str
    """UTC, ISO 8601."""
    study: str
    sql: str


def history_file() -> Path:
    """Return the file of the queries, in the folder of what the app remembers (``STUDYCTL_STATE`` moves it)."""
    return (
        Path(os.environ.get("STUDYCTL_STATE") or platformdirs.user_state_dir("studyctl"))
        / "sql_history.jsonl"
    )


def remember(study: str, sql: str) -> None:
    """Append a query; the oldest make room.

    Raises:
        StudyError: the file cannot be written, or another app holds it.
    """
    path, sql = history_file(), sql.strip()
    if not sql:
        return
    past = PastQuery(datetime.now(UTC).isoformat(timespec="seconds"), study, sql)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock"), PATIENCE_SECONDS):
            lines = [
                *_lines(path),
                json.dumps(asdict(past), ensure_ascii=False).encode(errors="surrogatepass"),
            ]
            write_atomic(path, b"".join(line + b"\n" for line in lines[-MOST:]))
    except (OSError, Timeout) as error:
        raise StudyError(
            f"the query history cannot be written: {error}",
            file=path,
            hint="make the folder writable, or move it with STUDYCTL_STATE",
        ) from error


def recall() -> list[PastQuery]:
    """Return the past queries, newest first, each once; empty if there is no history.

    Raises:
        StudyError: the file cannot be read.
    """
    path = history_file()
    try:
        lines = _lines(path)
    except OSError as error:
        raise StudyError(f"the query history cannot be read: {error}", file=path) from error
    newest: dict[str, PastQuery] = {}
    for line in reversed(lines):
        try:
            past = msgspec.json.decode(line.decode(errors="replace"), type=PastQuery)
        except ValueError:
            continue  # torn or of another program; the others are good
        newest.setdefault(past.sql, past)
    return list(newest.values())


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []
