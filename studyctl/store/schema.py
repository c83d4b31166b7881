"""The schema of the results database: its tables are in ``tables.sql``, its views in ``views.sql``."""

import re
from functools import cache
from importlib.resources import files

import duckdb

VERSION = 9
"""Raised whenever an older reader would misread the file."""

LEAD = ("trial_id", "model", "method", "variant")
"""The first columns of every table of results: they identify the trial."""


def create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all tables and views, empty, with their comments."""
    for name in _FILES:
        connection.execute(_text(name))


def definitions(*names: str) -> dict[str, str]:
    """Return statements that define tables and views over an attached database ``study``, by name, in their order.

    Only rows are taken from ``study``, and everything else from the files of this package: somebody else may have written the
    views and macros there, and a macro could even stand for ``sum``.

    Args:
        names: tables and views, which come with all that they refer to; none: all.
    """
    statements = _definitions()
    needed = set(names) or set(statements)
    for name in reversed(statements):  # views come after what they refer to
        if name in needed:
            needed |= set(re.findall(r"\w+", statements[name])) & statements.keys()
    return {name: statement for name, statement in statements.items() if name in needed}


@cache
def _definitions() -> dict[str, str]:
    text = _text(*_FILES)
    created = re.findall(r"^CREATE (TABLE|VIEW) (\w+)(.*?;\n)", text, re.MULTILINE | re.DOTALL)
    comment = dict(re.findall(r"^COMMENT ON (?:TABLE|VIEW) (\w+)(.*\n)", text, re.MULTILINE))
    # In views the tables are those of `study` themselves: a view of them has no rowid.
    tables = re.compile(rf"\b(FROM|JOIN) ({'|'.join(table_names())})\b")
    return {
        name: f"CREATE VIEW {name}"
        + (tables.sub(r"\1 study.main.\2", rest) if kind == "VIEW" else f" AS FROM study.main.{name};")
        + f"COMMENT ON VIEW {name}{comment[name]}"
        for kind, name, rest in created
    }


@cache
def column_comments() -> str:
    """Return statements that comment on the columns of :func:`definitions`; they take several times as long."""
    return "".join(re.findall(r"^COMMENT ON COLUMN .*\n", _text(*_FILES), re.MULTILINE))


@cache
def table_names() -> frozenset[str]:
    """Return the names of the tables."""
    return frozenset(re.findall(r"^CREATE TABLE (\w+)", _text("tables.sql"), re.MULTILINE))


_FILES = ("tables.sql", "views.sql")


@cache
def _text(*names: str) -> str:
    return "".join(files("studyctl.store").joinpath(name).read_text(encoding="utf-8") for name in names)
