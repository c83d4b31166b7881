"""Queries: read-only, kept to the study, and clear about what is wrong."""

from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store import query, results
from studyctl.store.publish import publish
from studyctl.store.query import fetch, open_reader, run_sql
from tests.store.builder import FakeStudy


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    study = FakeStudy(tmp_path_factory.mktemp("query") / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study.paths


def test_rows_come_as_arrow(paths: StudyPaths) -> None:
    rows = run_sql(paths, "SELECT variant, count(*) AS n FROM items GROUP BY ALL ORDER BY ALL")
    assert rows.to_pydict() == {"variant": ["dense", "rtn-4bit-g64", "wanda-0.5"], "n": [40, 40, 40]}


def test_of_several_statements_the_last_one_counts(paths: StudyPaths) -> None:
    assert run_sql(paths, "SET VARIABLE x = 3; SELECT getvariable('x') AS x").to_pylist() == [{"x": 3}]


@pytest.mark.parametrize("sql", ["", ";", "-- nothing", "CREATE TEMP TABLE x AS SELECT 1"])
def test_no_rows_is_no_error(paths: StudyPaths, sql: str) -> None:
    assert run_sql(paths, sql).num_columns in (0, 1)


@pytest.mark.parametrize(
    "sql", ["DESCRIBE trials", "SHOW TABLES", "SUMMARIZE tasks", "EXPLAIN SELECT 1", "FROM leaderboard"]
)
def test_questions_about_the_tables_work(paths: StudyPaths, sql: str) -> None:
    assert run_sql(paths, sql).num_rows > 0


@pytest.mark.parametrize(
    ("sql", "what", "place"),
    [
        ("selec 1", "syntax error", (1, 1, 5)),
        ("select foo from trials", "foo", (1, 8, 3)),
        ("select *\nfrom trails", "trails", (2, 6, 6)),
        ("select '日本' as x, wrong from trials", "wrong", (1, 19, 5)),
        ("select " + "1 as x, " * 40 + "wrong from trials", "wrong", (1, 328, 5)),
        ("select 1; select wrong from trials", "wrong", (None, None, 1)),
    ],
)
def test_a_wrong_query_names_its_place(
    paths: StudyPaths, sql: str, what: str, place: tuple[int | None, int | None, int]
) -> None:
    with pytest.raises(StudyError, match=what) as caught:
        run_sql(paths, sql)
    problem = caught.value.problems[0]
    assert (problem.line, problem.column, problem.length) == place
    assert "show tables" in problem.hint


def test_an_error_while_it_runs(paths: StudyPaths) -> None:
    with pytest.raises(StudyError, match="Could not convert"):
        run_sql(paths, "SELECT variant::INTEGER FROM trials")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM trials",
        "UPDATE trials SET sparsity = 1",
        "CREATE TABLE study.x (i INTEGER)",
        "DROP VIEW study.leaderboard",
        "drop view tasks_vs_dense",
    ],
)
def test_results_cannot_be_changed(paths: StudyPaths, sql: str) -> None:
    with pytest.raises(StudyError, match="read-only"):
        run_sql(paths, sql)


class TestOtherFiles:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        path = tmp_path / "other.csv"
        path.write_text("a\n7\n")
        return path

    def test_are_out_of_reach(self, paths: StudyPaths, other: Path) -> None:
        for sql in (
            f"FROM '{other}'",
            f"COPY trials TO '{other.with_suffix('.out')}'",
            f"ATTACH '{other}.db'",
        ):
            with pytest.raises(StudyError, match="disabled by configuration") as caught:
                run_sql(paths, sql)
            assert "--external" in caught.value.problems[0].hint
        with pytest.raises(StudyError, match="locked"):
            run_sql(paths, "SET enable_external_access = true")

    def test_can_be_allowed(self, paths: StudyPaths, other: Path) -> None:
        assert run_sql(paths, f"FROM '{other}'", external_access=True).to_pylist() == [{"a": 7}]
        run_sql(paths, f"COPY trials TO '{other.with_suffix('.out')}'", external_access=True)
        assert other.with_suffix(".out").exists()

    def test_python_variables_are_out_of_reach_too(self, paths: StudyPaths) -> None:
        rows = run_sql(paths, "SELECT 1 AS one")
        assert rows.num_rows == 1
        for allowed in (False, True):
            with pytest.raises(StudyError, match="rows does not exist"):
                run_sql(paths, "FROM rows", external_access=allowed)


def test_a_reader_can_be_kept(paths: StudyPaths) -> None:
    with closing(open_reader(paths)) as connection:
        fetch(connection, "CREATE TEMP TABLE mine AS SELECT 1 AS x")
        assert fetch(connection, "FROM mine").to_pylist() == [{"x": 1}]


@pytest.mark.parametrize("fails", [False, True], ids=["unnoticed", "with an error"])
def test_a_file_that_is_replaced_while_it_is_attached_is_attached_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan(title="old")
    publish(study.paths)
    attach = query._attach

    def attach_while_it_is_replaced(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(query, "_attach", attach)
        attach(*arguments, **options)
        study.write_plan(title="new")
        publish(study.paths)
        if fails:
            raise duckdb.IOException("No more data remaining in MetadataReader")

    monkeypatch.setattr(query, "_attach", attach_while_it_is_replaced)
    assert run_sql(study.paths, "SELECT title FROM about").to_pylist() == [{"title": "new"}]


class TestNothingToRead:
    def test_no_study(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="there is no study gone") as caught:
            run_sql(StudyPaths(tmp_path / "gone"), "SELECT 1")
        assert "studyctl list" in caught.value.problems[0].hint

    def test_journals_that_were_not_published(self, tmp_path: Path) -> None:
        study = FakeStudy(tmp_path / "small")
        study.attempt("alpha.dense").run_all()
        with pytest.raises(StudyError, match="nothing of small is published yet") as caught:
            run_sql(study.paths, "SELECT 1")
        assert "studyctl db rebuild small" in caught.value.problems[0].hint

    def test_a_study_that_has_not_begun(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="nothing of") as caught:
            run_sql(StudyPaths(tmp_path), "SELECT 1")
        assert "studyctl run" in caught.value.problems[0].hint

    @pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
    def test_a_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        paths = StudyPaths(tmp_path)
        paths.database.write_bytes(content)
        with pytest.raises(StudyError, match="cannot read") as caught:
            results.open(paths)
        assert "studyctl db rebuild" in caught.value.problems[0].hint

    def test_a_database_of_another_version(self, tmp_path: Path) -> None:
        paths = StudyPaths(tmp_path)
        duckdb.connect(str(paths.database)).close()
        with pytest.raises(StudyError, match="published by something else"):
            results.open(paths)
