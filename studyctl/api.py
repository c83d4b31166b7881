"""``studyctl.open``: the results of a study in Python, for scripts and notebooks (``docs/python.md``)."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.printable import on_one_line
from studyctl.store import results
from studyctl.store.query import other_tables
from studyctl.store.results import HypothesisResult, Results
from studyctl.store.schema import definitions
from studyctl.store.studies import find_study

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Rows:
    """The rows of a table or view, read each time they are asked for, or those of a query."""

    def __init__(self, source: str, read: Callable[[], "pa.Table"]) -> None:
        self._source, self._read = source, read

    def arrow(self) -> "pa.Table":
        """Return the rows as a table of pyarrow.

        Raises:
            StudyError: they take more than 1 GiB, or the study was closed.
        """
        return self._read()

    def df(self) -> "pd.DataFrame":
        """Return the rows as a frame of pandas, which has a column of integers with NULL as floats.

        Raises:
            StudyError: pandas is not installed; also see :meth:`arrow`.
        """
        try:
            import pandas  # noqa: F401  # pyarrow needs it
        except ModuleNotFoundError as error:
            if error.name != "pandas":
                raise
            hint = "`pip install pandas`; `.arrow()` gives the same rows without it"
            raise StudyError("`.df()` needs pandas, which is not installed", hint=hint) from error
        frame: pd.DataFrame = self.arrow().to_pandas()
        return frame

    def __repr__(self) -> str:
        return f"<{self._source}: .df() or .arrow()>"


class Study(AbstractContextManager["Study"]):
    """The results of a study as they were last published; every table and view of ``docs/results.md`` is an attribute.

    All of them stay those of one publication until :meth:`refresh`, whatever a run publishes meanwhile. For one thread at a time.
    """

    # Attributes are made from the schema; these lines are for mypy and editors, and a test holds them to it.
    trials: Rows
    attempts: Rows
    steps: Rows
    layers: Rows
    perplexity: Rows
    windows: Rows
    fidelity: Rows
    activations: Rows
    runtime_fidelity: Rows
    speed_runs: Rows
    speed: Rows
    tasks: Rows
    items: Rows
    item_texts: Rows
    task_flips: Rows
    task_chance: Rows
    intervals: Rows
    warnings: Rows
    hypotheses: Rows
    hypothesis_rows: Rows
    hypothesis_pairs: Rows
    reversals: Rows
    about: Rows
    perplexity_vs_dense: Rows
    tasks_vs_dense: Rows
    leaderboard: Rows
    flips: Rows
    failures: Rows
    progress: Rows
    pareto: Rows
    ranks: Rows
    disagreement: Rows
    contrasts: Rows
    activation_snr: Rows
    agreement: Rows
    deployment: Rows
    stages: Rows

    def __init__(self, paths: StudyPaths) -> None:
        self._paths = paths
        self._results: Results | None = None
        self._published_at = self._open()
        for name in definitions():
            setattr(self, name, Rows(f"{name} of {self._shown}", partial(self._ask, f"FROM {name}")))

    @property
    def name(self) -> str:
        """Name of the study."""
        return self._paths.name

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self._paths.root

    @property
    def published_at(self) -> datetime:
        """When these results were published, UTC."""
        return self._published_at

    def sql(self, query: str) -> Rows:
        """Run a query and return its rows; of several statements, those of the last.

        Args:
            query: in DuckDB's dialect. It reaches this study and temporary tables, which stay until :meth:`refresh`; no other
                file, no network and no Python variable.

        Raises:
            StudyError: the query is wrong, needs too much memory, or its rows take more than 1 GiB.
        """
        rows = self._ask(query)
        return Rows(f"{rows.num_rows:,} rows of a query on {self._shown}", lambda: rows)

    def findings(self) -> list[HypothesisResult]:
        """Return the hypotheses of the spec with their verdicts, in its order.

        Raises:
            StudyError: the study was closed.
        """
        return self._opened().hypotheses()

    def refresh(self) -> Self:
        """Read the last publication from now on. Rows that were taken out stay; temporary tables are gone.

        Raises:
            StudyError: it cannot be read, and the earlier one stays open; or the study was closed.
        """
        before = self._opened()
        self._published_at = self._open()
        before.close()
        return self

    def close(self) -> None:
        """Close the file. Rows that were taken out stay."""
        if self._results is not None:
            self._results.close()
        self._results = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<study {self._shown}, published {self._published_at:%Y-%m-%d %H:%M:%S} UTC>"

    @property
    def _shown(self) -> str:
        return on_one_line(self.name)

    def _open(self) -> datetime:
        """Open the last publication and return when that was."""
        opened = results.open(self._paths)
        try:
            opened.define()
            published_at: object = opened.about().published_at
            if not isinstance(published_at, datetime):  # the file may be anybody's
                raise StudyError(other_tables(self._paths, "something else"))
        except StudyError:
            opened.close()
            raise
        self._results = opened
        return published_at.replace(tzinfo=UTC)

    def _opened(self) -> Results:
        if self._results is None:
            hint = f"`studyctl.open({str(self.folder)!r})` opens it again"
            raise StudyError(f"the study {self.name} was closed", hint=hint)
        return self._results

    def _ask(self, sql: str) -> "pa.Table":
        return self._opened().ask(sql)


def open(study: str | os.PathLike[str]) -> Study:
    """Open the results of a study as they were last published. Close it after use, or use it in a ``with`` statement.

    Args:
        study: a name under ``runs/`` of the working directory (``STUDYCTL_RUNS`` names another folder), or a study's folder.

    Raises:
        StudyError: there is no such study, or nothing of it is published yet, or its database cannot be read.
    """
    return Study(find_study(os.fspath(study)))
