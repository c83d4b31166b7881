"""Several queries on the published database, for the app's SQL screen.

A session keeps one reader open. A newer publication is opened with the next query, never during one; temporary tables of
earlier queries are gone then.
"""

import contextlib
import threading
import time
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.query import STOPPED, Content, fetch, file_stamp, open_database, open_reader
from studyctl.store.replaced import once_more_if_replaced
from studyctl.store.schema import column_comments, definitions, table_names


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of a query."""

    table: pa.Table
    seconds: float
    """Time of the query, without opening the file."""
    published_at: datetime | None
    """When the database that it read was published, UTC; None if the file does not say so."""


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column of a table or view."""

    name: str
    type: str
    comment: str


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table or a view with its comment."""

    name: str
    view: bool
    comment: str
    rows: int | None
    """None: the rows of the view could not be counted."""
    columns: tuple[CatalogColumn, ...]


class Session:
    """Queries on one study. :meth:`run` is for one thread at a time; the other methods may be called from any thread."""

    def __init__(self, paths: StudyPaths) -> None:
        self.paths = paths
        self._reader: duckdb.DuckDBPyConnection | None = None
        self._opened: object = None
        """Stamp of the file that the reader has open."""
        self._published_at: datetime | None = None
        self._lock = threading.Lock()
        """Held while a query runs."""
        self._closed = False

    @once_more_if_replaced
    def run(self, sql: str) -> Answer:
        """Return the rows of a query; of several statements, those of the last.

        Raises:
            StudyError: nothing is published yet, the query is wrong, or it was interrupted (a problem of severity
                ``warning``).
        """
        with self._lock:
            if self._closed:
                raise StudyError(STOPPED)
            reader = self._newest()
            began = time.perf_counter()
            table = fetch(reader, sql)
            return Answer(table, time.perf_counter() - began, self._published_at)

    def interrupt(self) -> None:
        """End the running query, if there is one; it raises in its own thread.

        A query that is just starting may miss it, so call again to be sure.
        """
        if self._lock.locked() and (reader := self._reader) is not None:
            # It may just be closed for a newer publication.
            with contextlib.suppress(duckdb.ConnectionException):
                reader.interrupt()

    def catalog(self) -> tuple[CatalogTable, ...]:
        """Return the views, then the tables, each with its columns; does not wait for a running query.

        Raises:
            StudyError: nothing is published yet, or the file cannot be read.
        """
        reader, content = open_database(self.paths)
        with contextlib.closing(reader):
            if content is Content.ROWS:  # the file's own comments may be anybody's
                reader.execute("".join(definitions().values()) + column_comments())
            elif content is Content.OTHER:
                reader.execute("USE study")
            columns: dict[str, list[CatalogColumn]] = {}
            for table, *column in reader.execute(_COLUMNS).fetchall():
                columns.setdefault(table, []).append(CatalogColumn(*column))
            tables = [
                CatalogTable(
                    name,
                    view and not (content is Content.ROWS and name in table_names()),
                    comment,
                    _count(reader, name) if view else rows,
                    tuple(columns.get(name, ())),
                )
                for name, view, comment, rows in reader.execute(_TABLES).fetchall()
            ]
            return tuple(sorted(tables, key=lambda table: not table.view))

    def close(self) -> None:
        """End the running query and close the file, now or as soon as the query has ended. Does not wait."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._let_go()
            self._lock.release()
        else:
            threading.Thread(target=self._end, name="end of a session", daemon=True).start()

    def _end(self) -> None:
        """Interrupt until the query has ended: the process could not exit before."""
        while not self._lock.acquire(timeout=0.05):
            self.interrupt()
        self._let_go()
        self._lock.release()

    def _newest(self) -> duckdb.DuckDBPyConnection:
        """Return a reader of the file as it is now."""
        seen = file_stamp(self.paths.database)
        if self._reader is None or seen is None or seen != self._opened:
            self._let_go()
            reader = open_reader(self.paths)
            self._published_at = _published_at(reader)
            # `seen` is never newer than the opened file: at worst the next query opens it again
            self._reader, self._opened = reader, seen
        return self._reader

    def _let_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _published_at(reader: duckdb.DuckDBPyConnection) -> datetime | None:
    try:
        rows = reader.execute("SELECT published_at FROM about").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):  # the file of another program
        return None
    return rows[0][0] if rows else None


def _count(reader: duckdb.DuckDBPyConnection, view: str) -> int | None:
    quoted = view.replace('"', '""')
    try:
        return int(reader.execute(f'SELECT count(*) FROM "{quoted}"').fetchall()[0][0])
    except duckdb.Error:  # a view on something missing; a query on it says why
        return None


_TABLES = """
SELECT * EXCLUDE place FROM (
    SELECT view_name AS name, true AS view, coalesce(comment, ''), NULL, view_oid AS place FROM duckdb_views()
    WHERE database_name = current_database() AND NOT internal
    UNION ALL
    SELECT table_name, false, coalesce(comment, ''), estimated_size, table_oid FROM duckdb_tables()
    WHERE database_name = current_database() AND NOT internal
    ORDER BY view DESC, place
)
"""
_COLUMNS = """
SELECT table_name, column_name, data_type, coalesce(comment, '') FROM duckdb_columns()
WHERE database_name = current_database() AND NOT internal ORDER BY table_oid, column_index
"""
