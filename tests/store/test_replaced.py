"""A database that is replaced on a network disk while it is read: read once more from the new file, or a clear error."""

from collections.abc import Callable
from typing import Any

import duckdb
import pytest

from studyctl.errors import ProblemCode, StudyError
from studyctl.files import StudyPaths
from studyctl.report.sql import answer
from studyctl.store.live import Live
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from studyctl.store.session import Session
from tests.store.builder import FakeStudy

STALE = 'IO Error: Could not read from file "study.duckdb": Stale file handle'
READS: dict[str, Callable[[StudyPaths], object]] = {
    "sql": lambda paths: run_sql(paths, "FROM leaderboard").num_rows,
    "table": lambda paths: answer(paths, "FROM leaderboard", "table", external_access=False),
    "session": lambda paths: Session(paths).run("FROM leaderboard").table.num_rows,
    "standings": lambda paths: Live(paths).published_standings(),
    "glance": lambda paths: Live(paths).as_published(),
}


class Disk:
    """Lets the next queries on a view meet ESTALE, as DuckDB raises it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stale, self.source = 0, "FROM leaderboard"
        for name in ("sql", "execute"):
            original = getattr(duckdb.DuckDBPyConnection, name)
            monkeypatch.setattr(duckdb.DuckDBPyConnection, name, self.query(original))

    def query(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def query(connection: object, text: str, *arguments: object) -> object:
            if self.stale and self.source in text and "CREATE" not in text:
                self.stale -= 1
                raise duckdb.IOException(STALE)
            return original(connection, text, *arguments)

        return query


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    study = FakeStudy(tmp_path_factory.mktemp("replaced") / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study.paths


@pytest.mark.parametrize("read", READS)
def test_it_is_read_once_more_from_a_fresh_connection(paths: StudyPaths, disk: Disk, read: str) -> None:
    expected = READS[read](paths)
    disk.stale = 1
    assert READS[read](paths) == expected
    assert disk.stale == 0, "the query met it"


@pytest.mark.parametrize("read", READS)
def test_a_second_time_it_is_an_error(paths: StudyPaths, disk: Disk, read: str) -> None:
    disk.stale = 3
    with pytest.raises(StudyError, match="was replaced while it was read") as caught:
        READS[read](paths)
    assert disk.stale == 1
    assert caught.value.problems[0].code is ProblemCode.REPLACED
    assert caught.value.problems[0].hint == "ask again"


def test_figures_of_a_trial_too(paths: StudyPaths, disk: Disk) -> None:
    live = Live(paths)
    trial = next(iter(live.published_standings()))
    live.refresh()
    disk.stale, disk.source = 1, "FROM perplexity_vs_dense"
    assert live.trial(trial).languages
    assert disk.stale == 0


def test_rows_that_are_written_already_are_not_written_twice(paths: StudyPaths, disk: Disk) -> None:
    disk.stale = 1
    with pytest.raises(StudyError, match="was replaced while it was read"):
        answer(paths, "FROM leaderboard", "csv", external_access=False)


def test_another_error_of_the_disk_stays_one(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def query(connection: object, text: str) -> object:
        raise duckdb.IOException('IO Error: Could not read from file "study.duckdb": Input/output error')

    monkeypatch.setattr(duckdb.DuckDBPyConnection, "sql", query)
    with pytest.raises(StudyError, match="Input/output error"):
        run_sql(paths, "FROM leaderboard")
