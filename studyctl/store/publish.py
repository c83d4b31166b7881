"""Builds the results database from the journals, into a new file that replaces the old one.

Readers keep the file that they have open. Only who holds the study publishes: its runner, or ``studyctl db rebuild``. A new file
takes the place of the old one only when it is complete on the disk: DuckDB closes a file on a full disk without an error, its rows
in a log beside it.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import studyctl
from studyctl.contract.item_texts import ITEM_TEXTS, MOST_BYTES
from studyctl.contract.plan import Planned
from studyctl.contract.steps import StepKind
from studyctl.errors import StudyError
from studyctl.files import NO_SPACE, StudyPaths, atomic_path, open_plain, remove_leftovers
from studyctl.findings.items import mcnemar_p
from studyctl.findings.tables import tables as tables_of_findings
from studyctl.journal.index import Index
from studyctl.journal.stored import Stored
from studyctl.store.intervals import intervals
from studyctl.store.planned import read_planned
from studyctl.store.rows import Part, Row, Rows, Texts, collect, lead, timestamp
from studyctl.store.schema import LEAD, VERSION, create_schema
from studyctl.store.task_items import TaskPairs, task_chance, task_pairs
from studyctl.units import bytes_text

STORAGE = "v1.2.0"
"""Oldest DuckDB that can open the file."""
_OPTIONAL = frozenset({"score", "passage", "answer"})
"""Columns that Parquet parts of earlier versions do not have, or that a study does not keep."""


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing cost."""

    seconds: float
    rows: int
    """Rows of all tables."""


def publish(
    paths: StudyPaths,
    running: Iterable[str] = (),
    index: Index | None = None,
    before_replacing: Callable[[], None] = lambda: None,
    only: Iterable[tuple[str, int]] | None = None,
) -> Published:
    """Bring the database up to date with the journals and the plan.

    If a Parquet part that a journal acknowledges is missing or torn, only its rows are left out, and a row of ``warnings``
    names it.

    Args:
        paths: files of the study.
        running: trials that a living runner runs.
        index: an index that is kept between publications, so that only what is new is read; None: a new one.
        before_replacing: is called when the new file is complete; what it raises leaves the old file in its place.
        only: trials and attempts with something new since the index was read; None: any.

    Raises:
        StudyError: a journal is damaged in the middle, the plan is unreadable, or the file cannot be written; the published file is
            as it was.
    """
    began = time.perf_counter()
    stored = (index or Index(paths)).refresh(only)
    planned = read_planned(paths, stored)
    with _values_that_fit(paths):
        rows = collect(paths, planned, stored, frozenset(running))
    try:
        remove_leftovers(paths.database)
        with atomic_path(paths.database) as temporary:
            temporary.unlink()  # DuckDB creates its file, and takes an empty one for a broken one
            with _values_that_fit(paths):
                total = _write(temporary, planned, rows)
            before_replacing()
    except (OSError, duckdb.IOException, duckdb.FatalException, duckdb.TransactionException) as error:
        reasons = [os.strerror(number) for number in NO_SPACE if os.strerror(number) in str(error)]
        reason = [*reasons, *str(error).splitlines()][0]
        raise StudyError(
            f"cannot write {paths.database}: {reason}",
            file=paths.database,
            hint="free some space or make the folder writable; the journals hold all results, "
            f"`studyctl db rebuild {quote(paths.name)}` publishes them",
        ) from error
    return Published(time.perf_counter() - began, total)


def _write(file: Path, planned: Planned, rows: Rows) -> int:
    """Make a database file, complete and read back, with nothing beside it; return the number of rows.

    Raises:
        OSError, duckdb.Error: there is no space, or the file cannot be written.
    """
    config: dict[str, Any] = {"storage_compatibility_version": STORAGE, "threads": 2}
    log = file.with_name(f"{file.name}.wal")
    try:
        with closing(duckdb.connect(str(file), config=config)) as connection:
            total = _fill(connection, planned, rows)
            connection.execute("CHECKPOINT")  # closing does it too, but hides its errors
        if log.exists():
            raise OSError("the file is not complete on the disk")
        with closing(duckdb.connect(str(file), read_only=True)) as connection:
            connection.execute("FROM about")
    finally:
        log.unlink(missing_ok=True)
    return total


def publish_in_memory(
    paths: StudyPaths,
    planned: Planned,
    stored: Stored,
    running: frozenset[str],
    at: datetime | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the same tables and views.

    Args:
        paths: files of the study.
        planned: the trials.
        stored: what the journals hold.
        running: trials that a living runner runs.
        at: time of publication to record, UTC; None: now.

    Raises:
        StudyError: a journal is damaged in the middle.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})
    with _values_that_fit(paths):
        _fill(connection, planned, collect(paths, planned, stored, running), at)
    return connection


@contextmanager
def _values_that_fit(paths: StudyPaths) -> Iterator[None]:
    """Turn errors of values that records may have and tables do not into problems: 10^30 tokens, a time that is no time."""
    try:
        yield
    except (ValueError, ArithmeticError, RecursionError, duckdb.DataError) as error:
        raise StudyError(
            f"plan or journals of {paths.name} hold a value that no table takes: {str(error)[:500]}",
            file=paths.journal,
            hint="no run writes such a value: see which file was changed by hand, or received damaged",
        ) from error


def _fill(
    connection: duckdb.DuckDBPyConnection, planned: Planned, rows: Rows, at: datetime | None = None
) -> int:
    """Create and fill all tables; return the number of rows."""
    connection.execute("BEGIN")
    create_schema(connection)
    total = _insert_items(connection, rows) + _insert_texts(connection, rows)
    about: Row = {
        "schema_version": VERSION,
        "study": planned.study,
        "title": planned.title,
        "notes": list(planned.notes),
        "spec_hash": planned.spec_hash,
        "planned_at": timestamp(planned.at),
        "published_at": at or datetime.now(UTC).replace(tzinfo=None),
        "studyctl": studyctl.__version__,
    }
    total += _insert(connection, "about", [about])
    while rows.tables:  # freed one by one: a large study has a million rows
        total += _insert(connection, *rows.tables.popitem())
    pairs = task_pairs(connection)
    chance = list(task_chance(connection, pairs))
    above = {(row["trial_id"], row["task"], row["metric"]) for row in chance if row["above"]}
    total += _insert(connection, "task_flips", [_flip_row(pair) for pair in pairs if pair.binary])
    total += _insert(connection, "task_chance", chance)
    total += _insert(connection, "intervals", list(intervals(connection, pairs, above)))
    for table, findings in tables_of_findings(connection, planned.hypotheses, rows.declared).items():
        total += _insert(connection, table, findings)
    connection.execute("COMMIT")
    return total


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[Row]) -> int:
    """Insert rows; a column that a row does not have is NULL."""
    if rows:
        names = connection.table(table).columns
        connection.register("arriving", pa.table({name: [row.get(name) for row in rows] for name in names}))
        connection.execute(f"INSERT INTO {table} SELECT * FROM arriving")
        connection.unregister("arriving")
    return len(rows)


def _insert_items(connection: duckdb.DuckDBPyConnection, rows: Rows) -> int:
    """Insert every readable part; each other part becomes a warning."""
    required = set(connection.table("items").columns) - {*LEAD, *_OPTIONAL}
    columns: dict[Part, set[str]] = {}
    for part in rows.parts:
        try:
            columns[part] = _columns_of(part, required)
        except ValueError as error:
            _warn(rows, part, error)
    try:
        return _insert_parts(connection, columns)
    except duckdb.Error:
        connection.execute("ROLLBACK; BEGIN")
        create_schema(connection)
    # A part is damaged inside: try each in a database of its own.
    with closing(duckdb.connect()) as scratch:
        create_schema(scratch)
        for part in list(columns):
            try:
                _insert_parts(scratch, {part: columns[part]})
            except duckdb.Error as error:
                _warn(rows, part, error)
                del columns[part]
    return _insert_parts(connection, columns)


def _warn(rows: Rows, part: Part | Texts, error: Exception) -> None:
    """Add a warning that the items of a part, or texts of items, could not be published."""
    what = "item rows" if isinstance(part, Part) else "item texts"
    message = f"{what} of {part.path.name} are missing here: {str(error).splitlines()[0]}"
    step = part.step
    row = {"stage": str(step.step), "message": message, "attempt": step.attempt, "at": timestamp(step.at)}
    rows.add("warnings", part.trial, row)


def _columns_of(part: Part, required: set[str]) -> set[str]:
    """Return the columns of a part.

    Raises:
        ValueError: its footer says that it cannot be inserted.
    """
    if part.path.parent != part.step.journal.parent or (part.path.exists() and not part.path.is_file()):
        raise ValueError("it is no file in the journals' folder")
    try:
        metadata = pq.read_metadata(part.path)
    except FileNotFoundError:
        raise ValueError("the file is gone") from None
    except (OSError, pa.ArrowException):
        raise ValueError("the file is damaged") from None
    if metadata.num_rows != part.rows:
        raise ValueError(f"it has {metadata.num_rows} rows and its journal says {part.rows}")
    columns = set(metadata.schema.to_arrow_schema().names)
    if missing := required - columns:
        raise ValueError(f"it does not have the columns {', '.join(sorted(missing))}")
    return columns


def _insert_parts(connection: duckdb.DuckDBPyConnection, columns_of: Mapping[Part, set[str]]) -> int:
    """Insert the items of parts, given with their columns; return how many."""
    if not columns_of:
        return 0
    owners = [{"part": str(part.path)} | lead(part.trial) for part in columns_of]
    connection.register("owners", pa.Table.from_pylist(owners))
    # A column that only some parts have is NULL in the others; one that no part has must not be selected.
    existing = set[str]().union(*columns_of.values())
    columns = ", ".join(
        f"o.{name}" if name in LEAD else f"p.{name}" if name in existing else "NULL"
        for name in connection.table("items").columns
    )
    connection.execute(
        f"INSERT INTO items SELECT {columns} "
        "FROM read_parquet($files, filename = true, union_by_name = true) p JOIN owners o ON o.part = p.filename",
        {"files": sorted({owner["part"] for owner in owners})},
    )
    connection.unregister("owners")
    return sum(part.rows for part in columns_of)


def _insert_texts(connection: duckdb.DuckDBPyConnection, rows: Rows) -> int:
    """Insert the texts of items, those that models share once, and name them in the rows of the steps; return how many.

    A file that is gone is no trouble: people delete it before they hand a study on. A damaged one becomes a warning.
    """
    keys: dict[Path, str | None] = {}
    total = 0
    for texts in rows.texts.values():
        if texts.path in keys:
            continue
        keys[texts.path] = None
        try:
            table = _read_texts(texts)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            _warn(rows, texts, error)
            continue
        keys[texts.path] = texts.key
        connection.register("arriving", table)
        connection.execute(
            "INSERT INTO item_texts SELECT $key, $task, item, prompt, choices, target FROM arriving",
            {"key": texts.key, "task": texts.task},
        )
        connection.unregister("arriving")
        total += table.num_rows
    of_task = {place: keys[texts.path] for place, texts in rows.texts.items()}
    for row in rows.tables["steps"] if total else ():
        if row["kind"] == StepKind.TASK:
            row["texts_key"] = of_task.get((row["model"], row["subject"]))
    return total


def _read_texts(texts: Texts) -> pa.Table:
    """Return the texts in a file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, ValueError, pyarrow.ArrowException: it cannot be read, or no worker has written it.
    """
    if texts.name != texts.path.name:
        raise ValueError(f"it is no file in the folder {texts.folder.name}")
    batches: list[pa.RecordBatch] = []
    size = 0
    with open_plain(texts.path) as file:
        parquet = pq.ParquetFile(file)
        if missing := set(ITEM_TEXTS.names) - set(parquet.schema_arrow.names):
            raise ValueError(f"it does not have the columns {', '.join(sorted(missing))}")
        for batch in parquet.iter_batches(columns=ITEM_TEXTS.names):
            batches.append(batch)
            size += batch.nbytes
            if size > MOST_BYTES:
                raise ValueError(f"it has more than {bytes_text(MOST_BYTES)} of texts")
    table = pa.Table.from_batches(batches, None if batches else ITEM_TEXTS)
    table = table.select(ITEM_TEXTS.names).cast(ITEM_TEXTS)
    table.validate(full=True)
    return table


def _flip_row(pair: TaskPairs) -> Row:
    """Return a row of ``task_flips``: items that flipped against dense."""
    return {
        **dict(zip(LEAD, pair.lead, strict=True)),
        "task": pair.task,
        "metric": pair.metric,
        "items": pair.items,
        "right_to_wrong": pair.right_to_wrong,
        "wrong_to_right": pair.wrong_to_right,
        "mcnemar_p": mcnemar_p(pair.right_to_wrong, pair.wrong_to_right),
    }
