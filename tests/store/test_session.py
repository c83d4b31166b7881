"""Sessions: several queries on one reader, stopped when asked, always of the newest publication."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.publish import publish
from studyctl.store.schema import create_schema
from studyctl.store.session import CatalogTable, Session
from tests.store.builder import FakeStudy

ENDLESS = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b WHERE a.range * b.range = -1"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    study = FakeStudy(tmp_path_factory.mktemp("session") / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study.paths


@pytest.fixture
def session(paths: StudyPaths) -> Iterator[Session]:
    session = Session(paths)
    yield session
    session.close()


def test_an_answer_has_rows_time_and_the_publication(session: Session) -> None:
    answer = session.run("SELECT count(*) AS n FROM trials")
    assert answer.table.to_pylist() == [{"n": 3}]
    assert answer.seconds >= 0
    assert (
        answer.published_at
        == session.run("SELECT published_at FROM about").table.to_pylist()[0]["published_at"]
    )


def test_what_a_query_made_is_there_for_the_next(session: Session) -> None:
    session.run("CREATE TEMP TABLE mine AS SELECT 7 AS x")
    assert session.run("FROM mine").table.to_pylist() == [{"x": 7}]


def test_of_several_statements_the_last_one_counts(session: Session) -> None:
    assert session.run("SELECT 1; SELECT 2 AS x;").table.to_pylist() == [{"x": 2}]


def test_a_wrong_query_names_its_place_and_the_session_goes_on(session: Session) -> None:
    with pytest.raises(StudyError, match="trails") as caught:
        session.run("SELECT *\nFROM trails")
    problem = caught.value.problems[0]
    assert (problem.line, problem.column, problem.severity) == (2, 6, "error")
    assert session.run("SELECT 1 AS x").table.num_rows == 1


def test_results_cannot_be_changed(session: Session) -> None:
    with pytest.raises(StudyError, match="read-only") as caught:
        session.run("DELETE FROM trials")
    assert "create temp table" in caught.value.problems[0].hint


def test_the_next_query_reads_a_newer_publication(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan(title="old")
    publish(study.paths)
    session = Session(study.paths)
    before = session.run("SELECT title FROM about")
    study.write_plan(title="new")
    publish(study.paths)
    after = session.run("SELECT title FROM about")
    assert before.table.to_pylist() == [{"title": "old"}]
    assert after.table.to_pylist() == [{"title": "new"}]
    assert before.published_at is not None
    assert after.published_at is not None
    assert before.published_at < after.published_at <= datetime.now(UTC).replace(tzinfo=None)
    session.close()


def test_nothing_published_yet(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small")
    study.write_plan()
    session = Session(study.paths)
    for ask in (lambda: session.run("SELECT 1"), session.catalog):
        with pytest.raises(StudyError, match="nothing of small is published yet") as caught:
            ask()
        assert "studyctl run" in caught.value.problems[0].hint
    publish(study.paths)
    assert session.run("SELECT 1 AS x").table.num_rows == 1
    session.close()


def test_a_file_of_another_program_can_be_asked_too(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    with duckdb.connect(str(paths.database)) as other:
        other.execute("CREATE TABLE x AS SELECT 1 AS y")
    session = Session(paths)
    assert session.run("FROM x").published_at is None
    assert [(table.name, table.rows) for table in session.catalog()] == [("x", 1)]
    session.close()


class TestStopping:
    def test_a_running_query_is_stopped_from_another_thread(self, session: Session) -> None:
        ended = threading.Event()

        def interrupt() -> None:
            while not ended.wait(0.01):
                session.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(StudyError, match="the query was stopped") as caught:
            session.run(ENDLESS)
        ended.set()
        thread.join()
        assert caught.value.problems[0].severity == "warning"
        assert session.run("SELECT 1 AS x").table.num_rows == 1

    def test_where_nothing_runs_it_does_nothing(self, session: Session) -> None:
        session.interrupt()
        session.run("SELECT 1")
        session.interrupt()
        assert session.run("SELECT 1 AS x").table.num_rows == 1

    def test_closing_stops_too_and_no_further_query_begins(self, session: Session) -> None:
        running = threading.Event()
        failed: list[StudyError] = []

        def run() -> None:
            running.set()
            try:
                session.run(ENDLESS)
            except StudyError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        running.wait()
        session.close()  # once is enough, even before the query has begun
        thread.join()
        assert "stopped" in str(failed[0])
        with pytest.raises(StudyError, match="stopped"):
            session.run("SELECT 1")


class TestCatalog:
    @pytest.fixture(scope="class")
    def catalog(self, paths: StudyPaths) -> tuple[CatalogTable, ...]:
        return Session(paths).catalog()

    def test_has_every_table_and_view_with_its_comment(self, catalog: tuple[CatalogTable, ...]) -> None:
        with duckdb.connect() as empty:
            create_schema(empty)
            tables = {name for (name,) in empty.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert {table.name for table in catalog if not table.view} == tables
        views = [table.name for table in catalog if table.view]
        assert {"leaderboard", "flips", "pareto"} <= set(views)
        assert [table.name for table in catalog][: len(views)] == views
        assert all(table.comment for table in catalog)

    def test_has_the_columns_in_order_with_types_and_comments(
        self, catalog: tuple[CatalogTable, ...]
    ) -> None:
        items = next(table for table in catalog if table.name == "items")
        columns = [(column.name, column.type, column.comment) for column in items.columns]
        assert columns[0] == ("trial_id", "VARCHAR", "trial: a model times a variant (times a seed)")
        assert [name for name, *_ in columns[4:7]] == ["task", "item", "gold"]
        assert ("loglikelihoods", "DOUBLE[]", "of the choices in their order, in nats") in columns

    def test_counts_the_rows(self, catalog: tuple[CatalogTable, ...]) -> None:
        rows = {table.name: table.rows for table in catalog}
        assert rows["items"] == 3 * 2 * 20
        assert rows["leaderboard"] == 3
        assert rows["failures"] == 0

    def test_waits_for_no_query(self, session: Session) -> None:
        with session._lock:  # as while a query runs
            assert session.catalog()

    def test_a_view_on_what_is_gone_has_no_count(self, tmp_path: Path) -> None:
        paths = StudyPaths(tmp_path)
        with duckdb.connect(str(paths.database)) as other:
            other.execute("CREATE TABLE x AS SELECT 1 AS y; CREATE VIEW v AS FROM x; DROP TABLE x")
        assert [(table.name, table.rows) for table in Session(paths).catalog()] == [("v", None)]
