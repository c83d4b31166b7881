"""``docs/results.md``: every table, view and column, from the comments in the database itself."""

import sys
from collections.abc import Iterator

import duckdb

from studyctl.store.schema import create_schema

_HEAD = """# The results database

`runs/<study>/study.duckdb` holds everything that a study has measured. It is rebuilt from the journals and replaced as a
whole, so read it and never write to it: `studyctl sql STUDY "from leaderboard"`, `duckdb -readonly runs/<study>/study.duckdb`,
or any other DuckDB client from version 1.2 on. Every comment below is also in the file (`describe`, `duckdb_columns()`).

It holds only current results: those of trials that the spec asks for, measured as it asks for them now. Units are part of the
names; times are UTC. `NULL` means that a value does not exist, or was NaN or infinite, which the journals cannot hold.

This page is generated: `python -m studyctl.store.reference > docs/results.md`.
"""


def markdown() -> str:
    """Return the page."""
    with duckdb.connect() as connection:
        create_schema(connection)
        return "\n".join([_HEAD, *_sections(connection, "Tables"), *_sections(connection, "Views")])


def _sections(connection: duckdb.DuckDBPyConnection, title: str) -> Iterator[str]:
    source = {
        "Tables": "SELECT table_name, comment FROM duckdb_tables() ORDER BY table_oid",
        "Views": "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_oid",
    }[title]
    yield f"## {title}\n"
    for name, comment in connection.execute(source).fetchall():
        columns = connection.execute(
            "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? AND NOT internal "
            "ORDER BY column_index",
            [name],
        ).fetchall()
        yield f"### {name}\n\n{comment}\n\n| column | type | |\n| --- | --- | --- |"
        for column, kind, text in columns:
            meaning = (text or "").replace("|", "\\|")
            yield f"| `{column}` | {kind} | {meaning} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
