"""Reading the results database: always read-only, never in the publisher's way.

A reader attaches the file to a database in memory. A second ``connect`` to the same path would return the old file as long as
any connection of the process has it open; this way a new reader sees the newest file, and older readers keep theirs.
"""

import re
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.index import read_stored
from studyctl.store.planned import read_planned
from studyctl.store.schema import VERSION

if TYPE_CHECKING:
    import pyarrow as pa


def open_reader(paths: StudyPaths, *, external_access: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the published database; one of an earlier version is built again in memory, with this version's tables.

    Args:
        paths: files of the study.
        external_access: whether queries may read and write other files.

    Raises:
        StudyError: nothing is published yet, the file is damaged, or another program has it open for writing.
    """
    # DuckDB opens a file twice to attach it. If it is replaced in between, the old header is used for the new file: an error at
    # best. So only a file that is the same before and after is read.
    while True:
        if (before := file_stamp(paths.database)) is None:
            raise StudyError(_nothing_published(paths))
        connection = duckdb.connect(":memory:")
        try:
            _attach(connection, paths, external_access=external_access)
        except duckdb.Error as error:
            connection.close()
            if before == file_stamp(paths.database):
                raise StudyError(_unreadable(paths, error)) from error
        else:
            if before == file_stamp(paths.database):
                return _of_this_version(connection, paths, external_access=external_access)
            connection.close()


def _of_this_version(
    connection: duckdb.DuckDBPyConnection, paths: StudyPaths, *, external_access: bool
) -> duckdb.DuckDBPyConnection:
    """Return a reader with the tables of this version; nothing is written into the study."""
    try:
        about = connection.execute("SELECT schema_version, published_at FROM about").fetchall()
    except duckdb.Error:  # of another program
        return connection
    if not about or about[0][0] >= VERSION or not paths.journal.is_dir():
        return connection
    connection.close()
    from studyctl.store.publish import publish_in_memory  # with pyarrow, which takes time to import

    stored = read_stored(paths)
    current = publish_in_memory(paths, read_planned(paths, stored), stored, frozenset(), at=about[0][1])
    _shut(current, external_access=external_access)
    return current


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes whenever a file or folder changes; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _attach(connection: duckdb.DuckDBPyConnection, paths: StudyPaths, *, external_access: bool) -> None:
    file = str(paths.database).replace("'", "''")
    connection.execute(f"ATTACH '{file}' AS study (READ_ONLY); USE study")
    _shut(connection, external_access=external_access)


def _shut(connection: duckdb.DuckDBPyConnection, *, external_access: bool) -> None:
    connection.execute("SET python_enable_replacements = false")  # no Python variables as tables
    if not external_access:
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")


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
        StudyError: the query is wrong, or was interrupted.
    """
    import pyarrow as pa  # a fifth of the time that the app takes to start

    try:
        relation = connection.sql(sql)
        rows: pa.Table = pa.table({}) if relation is None else relation.to_arrow_table()
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise StudyError(_problem_with(sql, _with_place(connection, sql, str(error)))) from error
    except (duckdb.Error, UnicodeError) as error:
        raise StudyError(_problem_with(sql, str(error))) from error
    return rows


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
    text, _, place = message.partition("\n\nLINE ")
    what = " ".join(part.strip() for part in text.splitlines() if part.strip())
    if "disabled by configuration" in what:
        hint = "queries see this study only; the command's --external allows other files, and exports (--format, ctrl+e in the "
        return Problem(what, hint=hint + "app) write them")
    if "attached in read-only mode" in what:
        hint = "results are read-only; `create temp table` works, and exports (--format, ctrl+e in the app) write files"
        return Problem(what, hint=hint)
    if ";" in sql.strip().rstrip(";"):
        return Problem(what, hint=_NAMES)  # places within one of several statements are off
    if not (match := re.match(r"(\d+): (.*)\n( *)(\^+)", place)):
        return Problem(what, hint=_NAMES)
    line = int(match[1])
    column = _column(sql.split("\n")[line - 1], match[2], len(match[3]) - len(f"LINE {line}: "))
    return Problem(what, line=line, column=column, length=len(match[4]), hint=_NAMES)


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
        hint = f"`studyctl db rebuild {paths.name}` publishes what its journals hold"
    else:
        hint = f"`studyctl run {paths.spec}` measures something"
    return Problem(f"nothing of {paths.name} is published yet", file=paths.database, hint=hint)


def _unreadable(paths: StudyPaths, error: duckdb.Error) -> Problem:
    if "lock" in str(error).lower():
        what = f"another program has {paths.database} open for writing"
        hint = "close it, or open it there with `duckdb -readonly`"
        return Problem(what, file=paths.database, hint=hint)
    first = str(error).splitlines()[0]
    hint = f"`studyctl db rebuild {paths.name}` builds it again from the journals"
    return Problem(f"cannot read {paths.database}: {first}", file=paths.database, hint=hint)
