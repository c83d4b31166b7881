"""Builds the results database from the journals, into a new file that replaces the old one.

Readers keep what they have open. Only the runner (or ``studyctl db rebuild``) publishes: two at a time would waste work,
and the later one wins.
"""

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import studyctl
from studyctl.contract.plan import Planned
from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths, atomic_path
from studyctl.journal.index import Index
from studyctl.journal.stored import Stored
from studyctl.store.intervals import intervals
from studyctl.store.planned import read_planned
from studyctl.store.rows import Part, Rows, collect, timestamp
from studyctl.store.schema import ABOUT, INTERVALS, ITEMS, LEAD, TABLES, TASK_FLIPS, VERSION, Table, views_sql

STORAGE = "v1.2.0"
"""Oldest DuckDB that can open the file."""

ITEM_COLUMNS = tuple(column for column in ITEMS.columns if column not in LEAD)
_SINCE_0_2 = ("score", "passage")
"""Columns that parts of earlier versions lack."""

_ARROW: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "DOUBLE": pa.float64(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
    "TINYINT": pa.int8(),
    "VARCHAR[]": pa.list_(pa.string()),
    "DOUBLE[]": pa.list_(pa.float64()),
}
_ITEM_SCHEMA = pa.schema([(column.name, _ARROW[column.type]) for column in ITEM_COLUMNS])


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing cost."""

    seconds: float
    rows: int
    """Rows of all tables."""


def publish(paths: StudyPaths, running: Iterable[str] = (), index: Index | None = None) -> Published:
    """Bring the database up to date with the journals and the plan.

    A Parquet part that is missing or torn although its journal acknowledges it costs its own rows only: everything else
    is published, and a row of ``warnings`` names it.

    Args:
        paths: Files of the study.
        running: Trials that a living runner is at.
        index: The runner's own, so that it reads only what is new.

    Raises:
        StudyError: a journal is damaged in the middle, the plan is unreadable, or the file cannot be written.
    """
    began = time.perf_counter()
    stored = (index or Index(paths)).refresh()
    planned = read_planned(paths, stored)
    rows = collect(paths, planned, stored, frozenset(running))
    try:
        for stale in paths.root.glob(f".{paths.database.name}.*"):
            stale.unlink(missing_ok=True)  # of a publisher that was killed
        with atomic_path(paths.database) as temporary:
            temporary.unlink()  # DuckDB creates its file, and takes an empty one for a broken one
            total = _build(temporary, planned, rows)
    except (OSError, duckdb.IOException) as error:
        problem = Problem(
            f"cannot write {paths.database}: {error}",
            file=paths.database,
            hint="free some space or make the folder writable; the journals hold all results, "
            f"`studyctl db rebuild {paths.name}` publishes them",
        )
        raise StudyError(problem) from error
    return Published(time.perf_counter() - began, total)


def create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all tables and views, empty, with their comments."""
    connection.execute("".join(table.ddl() for table in TABLES) + views_sql())


def publish_in_memory(
    paths: StudyPaths,
    planned: Planned,
    stored: Stored,
    running: frozenset[str],
    at: datetime | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the same tables and views.

    Args:
        paths: Files of the study.
        planned: The trials.
        stored: What the journals hold.
        running: Trials that a living runner is at.
        at: When the file was published that this stands for, UTC; None: now.

    Raises:
        StudyError: a journal is damaged in the middle.
    """
    connection = duckdb.connect(":memory:", config={"threads": 1})
    _fill(connection, planned, collect(paths, planned, stored, running), at)
    return connection


def _build(file: Path, planned: Planned, rows: Rows) -> int:
    config: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": STORAGE,
        "threads": 2,
    }
    with closing(duckdb.connect(str(file), config=config)) as connection:
        return _fill(connection, planned, rows)


def _fill(
    connection: duckdb.DuckDBPyConnection, planned: Planned, rows: Rows, at: datetime | None = None
) -> int:
    connection.execute("BEGIN")
    create_schema(connection)
    total = _insert_items(connection, rows)
    rows.tables[ABOUT.name] = [_about(planned, at or datetime.now(UTC).replace(tzinfo=None))]
    for table in TABLES:
        total += _insert(connection, table, rows.tables.get(table.name, []))
    flips = _task_flips(connection)
    total += _insert(connection, TASK_FLIPS, flips)
    total += _insert(connection, INTERVALS, intervals(connection, flips))
    connection.execute("COMMIT")
    return total


def _about(planned: Planned, at: datetime) -> dict[str, Any]:
    return {
        "schema_version": VERSION,
        "study": planned.study,
        "title": planned.title,
        "notes": list(planned.notes),
        "spec_hash": planned.spec_hash,
        "planned_at": timestamp(planned.at),
        "published_at": at,
        "studyctl": studyctl.__version__,
    }


def _insert(connection: duckdb.DuckDBPyConnection, table: Table, rows: list[dict[str, Any]]) -> int:
    if rows:
        columns = [pa.array([row.get(one.name) for row in rows], _ARROW[one.type]) for one in table.columns]
        _insert_arrow(connection, table, pa.table(columns, names=[column.name for column in table.columns]))
    return len(rows)


def _insert_arrow(connection: duckdb.DuckDBPyConnection, table: Table, arrow: Any) -> None:
    connection.register("arriving", arrow)
    connection.execute(f"INSERT INTO {table.name} SELECT * FROM arriving")
    connection.unregister("arriving")


def _insert_items(connection: duckdb.DuckDBPyConnection, rows: Rows) -> int:
    """Insert every readable part; a part that is not becomes a warning."""
    readable = []
    for part in rows.parts:
        if problem := _problem_with(part):
            rows.warn(part.trial, part.step, f"item rows of {part.path.name} are missing here: {problem}")
        else:
            readable.append(part)
    if not readable:
        return 0
    try:
        return _insert_parts(connection, readable)
    except duckdb.Error:  # damaged inside: find out which
        connection.execute("ROLLBACK; BEGIN")
        create_schema(connection)
    return _insert_one_by_one(connection, rows, readable)


def _insert_one_by_one(connection: duckdb.DuckDBPyConnection, rows: Rows, parts: Sequence[Part]) -> int:
    total = 0
    for part in parts:
        try:
            table = _with_every_column(pq.read_table(part.path)).select(_ITEM_SCHEMA.names).cast(_ITEM_SCHEMA)
            lead = [pa.array([value] * table.num_rows, pa.string()) for value in _lead(part)]
            arrow = pa.table([*lead, *table.columns], names=[column.name for column in ITEMS.columns])
            _insert_arrow(connection, ITEMS, arrow)
        except (OSError, pa.ArrowException) as error:
            first = str(error).splitlines()[0]
            rows.warn(part.trial, part.step, f"item rows of {part.path.name} are missing here: {first}")
        else:
            total += table.num_rows
    return total


def _with_every_column(table: pa.Table) -> pa.Table:
    for name in _SINCE_0_2:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, _ITEM_SCHEMA.field(name).type))
    return table


def _problem_with(part: Part) -> str:
    """Return what is wrong with a part, as far as its footer tells."""
    try:
        metadata = pq.read_metadata(part.path)
    except FileNotFoundError:
        return "the file is gone"
    except (OSError, pa.ArrowException):
        return "the file is damaged"
    if metadata.num_rows != part.rows:
        return f"it has {metadata.num_rows} rows and its journal says {part.rows}"
    lacking = {column.name for column in ITEM_COLUMNS} - {*_columns_of(metadata), *_SINCE_0_2}
    return f"it lacks the columns {', '.join(sorted(lacking))}" if lacking else ""


def _columns_of(metadata: Any) -> set[str]:
    """Return the columns of a part, by its footer."""
    return set(metadata.schema.to_arrow_schema().names)


def _lead(part: Part) -> tuple[str, str, str, str]:
    return part.trial.trial, part.trial.model, part.trial.method, part.trial.variant


def _insert_parts(connection: duckdb.DuckDBPyConnection, parts: list[Part]) -> int:
    names = [column.name for column in LEAD]
    owners = pa.table(
        {"part": [str(part.path) for part in parts]}
        | dict(zip(names, map(list, zip(*map(_lead, parts), strict=True)), strict=True))
    )
    connection.register("owners", owners)
    # A column that no part has, or one that only some have, is NULL where it is missing.
    there = set[str]().union(*(_columns_of(pq.read_metadata(part.path)) for part in parts))
    columns = ", ".join(
        f"p.{column.name}" if column.name in there else f"NULL AS {column.name}" for column in ITEM_COLUMNS
    )
    connection.execute(
        f"INSERT INTO items SELECT o.trial_id, o.model, o.method, o.variant, {columns} "
        "FROM read_parquet($files, filename = true, union_by_name = true) p JOIN owners o ON o.part = p.filename",
        {"files": sorted({str(part.path) for part in parts})},
    )
    connection.unregister("owners")
    return sum(part.rows for part in parts)


_FLIPS = """
WITH judged AS (
    SELECT i.* EXCLUDE (correct_norm), t.metric FROM items i
    JOIN tasks t ON t.trial_id = i.trial_id AND t.task = i.task AND t.main
    UNION ALL
    SELECT i.* EXCLUDE (correct_norm) REPLACE (i.correct_norm AS correct), t.metric FROM items i
    JOIN tasks t ON t.trial_id = i.trial_id AND t.task = i.task AND NOT t.main AND t.metric = 'acc_norm'
)
SELECT i.trial_id, i.model, i.method, i.variant, i.task, i.metric, count(*),
    count(*) FILTER (WHERE d.correct > i.correct), count(*) FILTER (WHERE d.correct < i.correct)
FROM judged i
JOIN judged d ON d.model = i.model AND d.task = i.task AND d.item = i.item AND d.metric = i.metric
WHERE d.variant = 'dense' AND i.variant <> 'dense' AND d.correct IS NOT NULL AND i.correct IS NOT NULL
GROUP BY ALL ORDER BY ALL
"""


def _task_flips(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return the counts of paired items that turned against dense, by the main metric and by acc_norm."""
    names = [column.name for column in TASK_FLIPS.columns][:-1]
    found = [dict(zip(names, row, strict=True)) for row in connection.execute(_FLIPS).fetchall()]
    for row in found:
        row["mcnemar_p"] = mcnemar_p(row["right_to_wrong"], row["wrong_to_right"])
    return found


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Return the exact two-sided p of McNemar's test: 2 · P(X ≤ min) for X ~ Binomial(sum, 1/2), at most 1.

    McNemar (1947), in the exact form that suits few discordant pairs as well as many.
    """
    total = right_to_wrong + wrong_to_right
    fewer = min(right_to_wrong, wrong_to_right)
    if 2 * fewer == total:
        return 1.0
    log_term = (
        math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    )
    relative, term = 0.0, 1.0  # to the term at `fewer`, which is the largest
    for count in range(fewer, -1, -1):
        relative += term
        term *= count / (total - count + 1)
        if term < relative * 1e-17:
            break
    return min(1.0, 2 * math.exp(log_term) * relative)
