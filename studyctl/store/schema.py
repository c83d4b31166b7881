"""The schema of the results database: its tables are in ``tables.sql``, its views in ``views.sql``."""

from importlib.resources import files

import duckdb

VERSION = 6
"""Raised whenever an older reader would misread the file."""

LEAD = ("trial_id", "model", "method", "variant")
"""The first columns of every table of results: they identify the trial."""


def create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    """Create all tables and views, empty, with their comments."""
    for name in ("tables.sql", "views.sql"):
        connection.execute(files("studyctl.store").joinpath(name).read_text(encoding="utf-8"))
