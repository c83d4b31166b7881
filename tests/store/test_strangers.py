"""Studies that somebody else made, or that are broken: they say so, and leave every other study alone."""

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.report.studies import draw_studies
from studyctl.report.watch import standing_line, watch_plainly
from studyctl.store import query, results
from studyctl.store.live import Live
from studyctl.store.publish import publish
from studyctl.store.query import fetch, open_reader, run_sql
from studyctl.store.session import Session
from studyctl.store.studies import study_rows
from tests.store.builder import FakeStudy
from tests.tui.studies import TRIAL, finished, running

DEEP = "[" * 100_000 + "]" * 100_000
PLACEHOLDER = "a hundred thousand lists"
VALUES: list[Any] = [
    None, True, -1, 10**30, 2**63, 1e308, "", "../../x", "x" * 100_000, "\0", [], [1], {}, {"a": {"b": []}},
    "0001-01-01T00:00:00+00:00", PLACEHOLDER,
]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("STUDYCTL_RUNS", str(folder))
    finished(folder / "fine")
    return folder


def listed() -> dict[str, str]:
    """Return the states of all studies, after drawing them."""
    rows = study_rows()
    draw_studies(rows, Console(file=io.StringIO()))
    return {row.study: row.state for row in rows}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def replaced(text: str, choose: random.Random) -> str:
    """Return JSON with one value of it, at any depth, replaced by another."""
    root = [json.loads(text)]
    *above, last = (0, *choose.choice(list(places(root[0]))))
    value: Any = root
    for key in above:
        value = value[key]
    value[last] = choose.choice(VALUES)
    return json.dumps(root[0], separators=(",", ":")).replace(f'"{PLACEHOLDER}"', DEEP)


@pytest.mark.parametrize("seed", range(24))
def test_any_value_may_be_any_other(runs: Path, seed: int) -> None:
    choose, study = random.Random(seed), running(runs / "odd")
    files = [study.paths.plan, study.paths.runner, study.paths.attempt_journal(TRIAL, 1)]
    file = files[seed % 3]
    lines = file.read_text().splitlines()
    number = choose.randrange(len(lines))
    lines[number] = replaced(lines[number], choose)
    file.write_text("\n".join(lines) + "\n")
    assert listed()["fine"] == "done"
    with suppress(StudyError, IndexError):
        live = Live(study.paths)
        snapshot = live.refresh()
        standing_line(snapshot, study.paths)
        live.standings()
        live.trial(snapshot.trials[0].trial)
        publish(study.paths)


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_loop(path: Path) -> None:
    path.symlink_to(path.name)


def as_folder(path: Path) -> None:
    path.mkdir()


def as_depths(path: Path) -> None:
    path.write_text(DEEP)


def as_nothing(path: Path) -> None:
    path.write_text("")


def as_gone(path: Path) -> None:
    path.symlink_to("nowhere")


FORMS = (as_pipe, as_device, as_loop, as_folder, as_depths, as_nothing, as_gone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["plan.json", "runner.json", f"journal/{TRIAL}.1.jsonl", "study.duckdb", "spec.toml"]
)
def test_any_file_may_be_anything(runs: Path, name: str, form: Callable[[Path], None]) -> None:
    study = finished(runs / "odd")
    path = study.root / name
    path.unlink(missing_ok=True)
    form(path)
    assert listed()["fine"] == "done"
    for look in (
        lambda: watch_plainly(study.paths, Console(file=io.StringIO())),
        lambda: run_sql(study.paths, "FROM leaderboard"),
        lambda: results.open(study.paths).leaderboard(),
    ):
        with suppress(StudyError):
            look()


def test_a_name_that_is_no_text(runs: Path) -> None:
    shutil.copytree(runs / "fine", os.fsdecode(os.fsencode(runs) + b"/\xff\xfe"))
    assert sorted(listed().values()) == ["done", "done"]


@pytest.mark.parametrize("change", [{"trial": "../../x"}, {"trial": ".."}, {"trial": "x" * 10_000_000}])
def test_a_trial_is_no_path(runs: Path, change: dict[str, str]) -> None:
    study = finished(runs / "odd")
    plan = json.loads(study.paths.plan.read_text())
    plan["trials"][0] |= change
    study.paths.plan.write_text(json.dumps(plan))
    rows = {row.study: row for row in study_rows()}
    assert rows["odd"].state == "unreadable"
    assert len(rows["odd"].trouble) < 1000


def test_a_step_of_a_billion_windows_is_no_record(runs: Path) -> None:
    study = finished(runs / "odd")
    journal = study.paths.attempt_journal(TRIAL, 1)
    journal.write_text(journal.read_text().replace('"windows":[0,4]', '"windows":[0,2000000000]'))
    with pytest.raises(StudyError, match="is damaged"):
        Live(study.paths).refresh()


class TestDatabase:
    """Of a received database, rows are used and nothing else."""

    @pytest.fixture
    def paths(self, tmp_path: Path) -> StudyPaths:
        return finished(tmp_path / "odd").paths

    def change(self, paths: StudyPaths, sql: str) -> None:
        with duckdb.connect(str(paths.database)) as connection:
            connection.execute(sql)

    def test_views_are_this_versions_own(self, paths: StudyPaths) -> None:
        before = results.open(paths).leaderboard()
        self.change(paths, "DROP VIEW leaderboard; CREATE VIEW leaderboard AS SELECT 'mine' AS trial_id")
        assert results.open(paths).leaderboard() == before
        assert run_sql(paths, "SELECT count(*) AS n FROM leaderboard").to_pylist() == [{"n": 6}]

    def test_a_macro_does_not_stand_for_a_function(self, paths: StudyPaths) -> None:
        before = results.open(paths).leaderboard()
        for function in ("avg(x)", "sum(x)", "exp(x)", "ln(x)", "isfinite(x)", "round(x, y)"):
            self.change(paths, f"CREATE MACRO {function} AS 7.0")
        assert results.open(paths).leaderboard() == before
        assert run_sql(paths, "SELECT sum(x) AS n FROM range(3) t(x)").to_pylist() == [{"n": 3}]

    def test_a_view_in_place_of_a_table_is_refused(self, paths: StudyPaths) -> None:
        self.change(paths, "DROP TABLE trials; CREATE VIEW trials AS FROM range(10_000_000_000_000)")
        for look in (results.open, open_reader):
            with pytest.raises(StudyError, match="with other tables"):
                look(paths)

    def test_a_table_with_other_columns_is_a_problem(self, paths: StudyPaths) -> None:
        self.change(paths, "ALTER TABLE perplexity DROP COLUMN perplexity")
        with pytest.raises(StudyError, match="cannot read"):
            results.open(paths).perplexity()
        with pytest.raises(StudyError, match="cannot read"):
            open_reader(paths)

    def test_a_view_reads_no_file(self, paths: StudyPaths, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        self.change(paths, f"CREATE VIEW peek AS FROM read_text('{tmp_path}/secret')")
        with pytest.raises(StudyError, match="disabled by configuration"):
            run_sql(paths, "FROM study.peek")
        session = Session(paths)
        assert "peek" not in [table.name for table in session.catalog()]
        session.close()

    def test_no_extension_is_loaded_by_itself(self, paths: StudyPaths) -> None:
        connection = open_reader(paths, external_access=True)
        for name in (
            "autoload_known_extensions",
            "autoinstall_known_extensions",
            "allow_community_extensions",
        ):
            assert connection.execute(f"SELECT current_setting('{name}')").fetchone() == (False,)


class TestMemory:
    def test_a_query_may_not_take_more_than_its_part(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(query._SETTINGS, "memory_limit", "50MB")
        paths = finished(tmp_path / "fine").paths
        with pytest.raises(StudyError, match="needs more memory than it may take") as caught:
            run_sql(paths, "SELECT list(x) FROM range(30_000_000) t(x)")
        assert "memory_limit" in caught.value.problems[0].hint

    def test_an_answer_that_is_kept_has_a_bound(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query, "LARGEST_ANSWER", 1_000_000)
        reader = open_reader(finished(tmp_path / "fine").paths)
        with pytest.raises(StudyError, match="the answer has more than"):
            fetch(reader, "FROM range(100_000_000_000)")
        assert fetch(reader, "FROM range(1000)").num_rows == 1000

    def test_nothing_is_written_where_the_command_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = FakeStudy(tmp_path / "small").write_all().paths
        publish(paths)
        monkeypatch.chdir(tmp_path)
        run_sql(paths, "SELECT x FROM range(1_000_000) t(x) ORDER BY hash(x) LIMIT 1")
        assert [entry.name for entry in tmp_path.iterdir()] == ["small"]
