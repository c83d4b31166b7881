"""docs/results.md says what the database says."""

from pathlib import Path

import duckdb
import pytest

from studyctl.store.reference import markdown
from studyctl.store.schema import create_schema


@pytest.fixture
def empty() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    create_schema(connection)
    return connection


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "results.md"
    assert page.read_text() == markdown(), "run: python -m studyctl.store.reference > docs/results.md"


def test_every_table_view_and_column_has_a_comment(empty: duckdb.DuckDBPyConnection) -> None:
    bare = empty.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL "
        "UNION ALL SELECT table_name, '' FROM duckdb_tables() WHERE comment IS NULL "
        "UNION ALL SELECT view_name, '' FROM duckdb_views() WHERE NOT internal AND comment IS NULL"
    ).fetchall()
    assert bare == []


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("perplexity", "language perplexity bits_per_byte nll_nats tokens bytes sequence_length bos"),
        ("windows", "language window nll_nats tokens"),
        ("fidelity", "language kl_nats kl_p95_nats top1 snr_db tokens"),
        ("tasks", "task metric value stderr items"),
        ("items", "task item gold predicted correct correct_norm loglikelihoods"),
        ("layers", "block linear relative_error sparsity bits_per_weight seconds"),
        ("steps", "step kind subject state seconds"),
        ("stages", "stage state seconds"),
        ("trials", "state bits_per_weight sparsity compress_seconds total_seconds peak_memory_bytes error"),
        ("attempts", "attempt state"),
        ("agreement", "setting backend backend_version"),
        ("warnings", "stage message"),
    ],
)
def test_columns_that_others_rely_on_come_first(
    empty: duckdb.DuckDBPyConnection, table: str, columns: str
) -> None:
    names = [name for name, *_ in empty.execute(f"DESCRIBE {table}").fetchall()]
    expected = ["trial_id", "model", "method", "variant", *columns.split()]
    assert names[: len(expected)] == expected


def test_types_that_others_rely_on(empty: duckdb.DuckDBPyConnection) -> None:
    types = {name: kind for name, kind, *_ in empty.execute("DESCRIBE items").fetchall()}
    assert (types["item"], types["loglikelihoods"]) == ("INTEGER", "DOUBLE[]")
