"""Reading the results database: always read-only, never in the publisher's way.

A reader attaches the file to a database in memory. A second ``connect`` to the same path would return the old file as long as
any connection of the process has it open; this way a new reader sees the newest file, and older readers keep theirs.
"""

import errno
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import duckdb

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.index import read_stored
from studyctl.store.planned import read_planned
from studyctl.store.replaced import REPLACED, is_stale, once_more_if_replaced
from studyctl.store.schema import VERSION, definitions, table_names
from studyctl.units import bytes_text

if TYPE_CHECKING:
    import pyarrow as pa


MEMORY = "25%"
"""Memory that a query may take, of the machine's: others work on it, too."""
LARGEST_ANSWER = 1 << 30
"""Bytes of the rows that are kept in memory; a larger answer is only written to a stream."""
BATCH_ROWS = 10_000
"""Rows that are computed and converted at a time."""
_SETTINGS = {
    "memory_limit": MEMORY,
    "temp_directory": "",  # else DuckDB makes a folder `.tmp` where the command runs
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,  # no Python variables as tables
}
STOPPED = Problem("the query was stopped", severity="warning")


class Content(Enum):
    """What an opened database holds."""

    ROWS = "rows"
    """``study``, with this version's tables. :func:`~studyctl.store.schema.definitions` makes tables and views of it."""
    ALL = "all"
    """This version's tables and views."""
    OTHER = "other"
    """``study``, of another program."""


def open_reader(paths: StudyPaths, *, external_access: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the published database for queries: a file of another program as it is, else with this version's tables and views.

    Args:
        paths: files of the study.
        external_access: whether queries may read and write other files.

    Raises:
        StudyError: see :func:`open_database`.
    """
    connection, content = open_database(paths, external_access=external_access)
    if content is Content.ROWS:
        try:
            connection.execute("".join(definitions().values()))
        except duckdb.Error as error:
            connection.close()
            raise StudyError(unreadable(paths, error)) from error
    elif content is Content.OTHER:
        connection.execute("USE study")
    return connection


def open_database(
    paths: StudyPaths, *, external_access: bool = False
) -> tuple[duckdb.DuckDBPyConnection, Content]:
    """Open the published database; one of an earlier version is built again in memory.

    Raises:
        StudyError: nothing is published yet, the file is damaged or of a later version, or another program has it open for
            writing.
    """
    # DuckDB opens a file twice to attach it. If it is replaced in between, the old header is used for the new file: an error at
    # best. So only a file that is the same before and after is read.
    while True:
        if (before := file_stamp(paths.database)) is None:
            raise StudyError(_nothing_published(paths))
        _check_plain(paths)
        connection = duckdb.connect(":memory:")
        try:
            _attach(connection, paths)
            _shut(connection, external_access=external_access)
            tables = connection.execute(_TABLES).fetchall()
            about = connection.execute(_ABOUT).fetchone() if ("about",) in tables else None
        except duckdb.Error as error:
            connection.close()
            if before == file_stamp(paths.database):
                raise StudyError(unreadable(paths, error)) from error
        else:
            if before == file_stamp(paths.database):
                break
            connection.close()
    if about is None:
        return connection, Content.OTHER
    version, published_at, writer = about
    if version == VERSION and table_names() <= {name for (name,) in tables}:
        return connection, Content.ROWS
    connection.close()
    if not isinstance(version, int) or version >= VERSION or not paths.journal.is_dir():
        raise StudyError(other_tables(paths, f"studyctl {writer}"))
    from studyctl.store.publish import publish_in_memory  # with pyarrow, which takes time to import

    stored = read_stored(paths)
    current = publish_in_memory(paths, read_planned(paths, stored), stored, frozenset(), at=published_at)
    _shut(current, external_access=external_access)
    return current, Content.ALL


_TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'study' AND schema_name = 'main'"
_ABOUT = "SELECT schema_version, published_at::TIMESTAMP, studyctl FROM study.main.about"


def _check_plain(paths: StudyPaths) -> None:
    """Refuse a pipe, which would block, and a device, which may never end."""
    for file in (paths.database, Path(f"{paths.database}.wal")):
        if file.exists() and not file.is_file():
            hint = f"delete it; `studyctl db rebuild {quote(paths.name)}` publishes the results from the journals"
            raise StudyError(f"{file} is not a plain file", file=file, hint=hint)


def other_tables(paths: StudyPaths, writer: str) -> Problem:
    """Return the problem with a database that has not this version's tables."""
    return Problem(
        f"{paths.database} was published by {writer}, with other tables than this version's",
        file=paths.database,
        hint=f"`studyctl db rebuild {quote(paths.name)}` publishes it again from the journals",
    )


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes whenever a file or folder changes; None if it does not exist, or is a link to itself.

    It is opened, since only then a network file system asks its server.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ESTALE):
            return None
        status = path.stat()  # it cannot be opened: who reads it says why
    return status.st_mtime_ns, status.st_ino, status.st_size


def _attach(connection: duckdb.DuckDBPyConnection, paths: StudyPaths) -> None:
    file = str(paths.database).replace("'", "''")
    connection.execute(f"ATTACH '{file}' AS study (READ_ONLY)")


def _shut(connection: duckdb.DuckDBPyConnection, *, external_access: bool) -> None:
    for name, value in _SETTINGS.items():
        connection.execute(f"SET {name} = {value!r}")
    if not external_access:
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")


@once_more_if_replaced
def run_sql(paths: StudyPaths, sql: str, *, external_access: bool = False) -> "pa.Table":
    """Return the rows of a query; of several statements, those of the last.

    Args:
        paths: files of the study.
        sql: in DuckDB's dialect; the tables and views are described in ``docs/results.md``.
        external_access: whether the query may read and write other files (``COPY``, ``read_csv`` ...).

    Raises:
        StudyError: nothing is published yet, or the query is wrong.
    """
    with closing(open_reader(paths, external_access=external_access)) as connection:
        return fetch(connection, sql)


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> "pa.Table":
    """Return the rows of a query on an open reader.

    Raises:
        StudyError: the query is wrong, or was interrupted, or its rows take more than :data:`LARGEST_ANSWER`.
    """
    import pyarrow as pa  # a fifth of the time that the app takes to start

    with stream(connection, sql) as reader:
        batches: list[pa.RecordBatch] = []
        size = 0
        for batch in reader:
            batches.append(batch)
            if (size := size + batch.nbytes) > LARGEST_ANSWER:
                rows = sum(batch.num_rows for batch in batches)
                what = f"the answer has more than {rows:,} rows: more than {bytes_text(LARGEST_ANSWER)}"
                raise StudyError(
                    what,
                    hint="add `limit 1000000`; `studyctl sql --format csv`, json and parquet write any number",
                )
        return pa.Table.from_batches(batches, reader.schema)


def stream(connection: duckdb.DuckDBPyConnection, sql: str) -> "pa.RecordBatchReader":
    """Return the rows of a query on an open reader, which are computed while they are read.

    Raises:
        StudyError: the query is wrong, or was interrupted; also from the returned reader.
    """
    import pyarrow as pa

    with _explained(connection, sql):
        if drop := re.match(r"\s*(drop\s+\w+)", sql, re.IGNORECASE):
            # A view would be gone from this reader alone: success, though nothing has changed.
            raise StudyError(f"results are read-only: `{drop[1]}` would change nothing", hint=_READ_ONLY)
        relation = connection.sql(sql)
        rows = pa.table({}).to_reader() if relation is None else relation.to_arrow_reader(BATCH_ROWS)

    def batches() -> "Iterator[pa.RecordBatch]":
        with _explained(connection, sql):
            yield from rows

    return pa.RecordBatchReader.from_batches(rows.schema, batches())


@contextmanager
def _explained(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[None]:
    """Turn errors of DuckDB into problems. Those of rows that are computed late are an OSError of Arrow."""
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise StudyError(_problem_with(sql, _with_place(connection, sql, str(error)))) from error
    except (duckdb.Error, UnicodeError, OSError) as error:
        if is_stale(error):
            raise StudyError(REPLACED) from error
        interrupted = isinstance(error, duckdb.InterruptException) or "INTERRUPT Error" in str(error)
        raise StudyError(STOPPED if interrupted else _problem_with(sql, str(error))) from error


def _with_place(connection: duckdb.DuckDBPyConnection, sql: str, message: str) -> str:
    """Return the message with the marked line, which only `execute` gives (nothing runs: names are resolved first)."""
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        if str(error).startswith(message):
            return str(error)
    return message


def _problem_with(sql: str, message: str) -> Problem:
    """Turn DuckDB's message with its marked line into a problem with a place."""
    what = _on_one_line(message.partition(_PLACE)[0])
    if what.startswith("Out of Memory"):
        hint = (
            "ask for less, with `where` or `limit`; with --external a query may begin with "
            "`set memory_limit = '...'; set temp_directory = '...';`"
        )
        limit = re.search(r"/([\d.]+ \w+) used", what)
        took = limit[1] if limit else MEMORY
        return Problem(f"the query needs more memory than it may take, {took}", hint=hint)
    if "disabled by configuration" in what:
        hint = "queries see this study only; the command's --external allows other files, and exports (--format, ctrl+e in the "
        return Problem(what, hint=hint + "app) write them")
    if "attached in read-only mode" in what or "base table" in what:
        return Problem(f"results are read-only: {what}", hint=_READ_ONLY)
    if ";" in sql.strip().rstrip(";"):
        return Problem(what, hint=_NAMES)  # places within one of several statements are off
    return placed(sql, message, _NAMES)


_PLACE = "\n\nLINE "
_READ_ONLY = "`create temp table` works, and exports (--format, ctrl+e in the app) write files"


def _on_one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def placed(sql: str, message: str, hint: str) -> Problem:
    """Return the problem of a message of DuckDB, at the place in the query that its marked line shows."""
    text, _, place = message.partition(_PLACE)
    what = _on_one_line(text)
    if not (match := re.match(r"(\d+): (.*)\n( *)(\^+)", place)):
        return Problem(what, hint=hint)
    line = int(match[1])
    column = _column(sql.split("\n")[line - 1], match[2], len(match[3]) - len(f"LINE {line}: "))
    return Problem(what, line=line, column=column, length=len(match[4]), hint=hint)


def _column(line: str, shown: str, cells: int) -> int:
    """Return the column of DuckDB's mark, given as terminal cells from the start of the part of the line that it shows."""
    before = 0
    while cells > 0 and before < len(shown):
        cells -= 2 if unicodedata.east_asian_width(shown[before]) in "WF" else 1
        before += 1
    if not shown.startswith("...") or line.startswith("..."):
        return before + 1
    return line.find(shown[3:].removesuffix("...")) + before - 3 + 1


_NAMES = "`show tables` lists tables and views, `describe leaderboard` the columns of one"


def _nothing_published(paths: StudyPaths) -> Problem:
    if not paths.root.is_dir():
        return Problem(
            f"there is no study {paths.name} ({paths.root})", hint="`studyctl list` shows the studies here"
        )
    if any(paths.journal.glob("*.jsonl")):
        hint = f"`studyctl db rebuild {quote(paths.name)}` publishes what its journals hold"
    else:
        hint = f"`studyctl run {quote(str(paths.spec))}` measures something"
    return Problem(f"nothing of {paths.name} is published yet", file=paths.database, hint=hint)


def unreadable(paths: StudyPaths, error: duckdb.Error) -> Problem:
    """Return the problem with a database that DuckDB cannot read, or that has not the columns of this version."""
    if is_stale(error):
        return REPLACED
    if "lock" in str(error).lower():
        what = f"another program has {paths.database} open for writing"
        hint = "close it, or open it there with `duckdb -readonly`"
        return Problem(what, file=paths.database, hint=hint)
    first = str(error).splitlines()[0]
    hint = f"`studyctl db rebuild {quote(paths.name)}` builds it again from the journals"
    return Problem(f"cannot read {paths.database}: {first}", file=paths.database, hint=hint)
