"""``studyctl.open``: the results of a study in Python."""

import ast
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback
import typing
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hatchling.builders.wheel import WheelBuilder

import studyctl
from studyctl.contract.hypotheses import Alternative, Measure, Metric, PlannedHypothesis, Sides, Verdict
from studyctl.errors import StudyError
from studyctl.store import results
from studyctl.store.publish import publish
from tests.store.builder import BITS, BYTES, ITEMS, LANGUAGES, TASKS, TOKENS, VARIANTS, WINDOWS, FakeStudy
from tests.store.test_session import ENDLESS

DOCS = Path(__file__).parents[1] / "docs"
HYPOTHESES = tuple(
    PlannedHypothesis(
        name=name,
        claim=f"rtn needs {claim} bits.",
        metrics=(Metric(Measure.BITS_PER_BYTE),),
        pairs=(Sides(("rtn-4bit-g64",), ("wanda-0.5",)),),
        alternative=alternative,
        hash=name,
    )
    for name, claim, alternative in (
        ("less", "fewer", Alternative.BETTER),
        ("more", "more", Alternative.WORSE),
    )
)
MILLISECOND = timedelta(milliseconds=1)  # to which times are published
DOCUMENTED = re.findall(r"^### (\w+)$", (DOCS / "results.md").read_text(), re.MULTILINE)
"""Tables and views of docs/results.md."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two studies, which no test changes."""
    folder = tmp_path_factory.mktemp("api")
    mine = FakeStudy(folder / "runs" / "mine", models=("org/alpha",), hypotheses=HYPOTHESES).write_all()
    publish(mine.paths)
    shutil.copytree(mine.root, folder / "runs" / "pocket")
    (folder / "notebooks").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDYCTL_RUNS", raising=False)
    monkeypatch.chdir(workplace)


@pytest.fixture
def study() -> Iterator[studyctl.Study]:
    with studyctl.open("mine") as study:
        yield study


@pytest.fixture
def own(tmp_path: Path, workplace: Path) -> FakeStudy:
    """A study that the test may change."""
    return FakeStudy(
        shutil.copytree(workplace / "runs" / "mine", tmp_path / "own"),
        models=("org/alpha",),
        hypotheses=HYPOTHESES,
    )


class TestOpening:
    def test_by_a_name_under_runs(self, workplace: Path) -> None:
        study = studyctl.open("mine")
        assert (study.name, study.folder) == ("mine", workplace / "runs" / "mine")

    def test_by_a_folder(self, workplace: Path) -> None:
        for folder in ("runs/mine", workplace / "runs" / "mine"):
            assert studyctl.open(folder).folder == workplace / "runs" / "mine"

    def test_a_study_that_there_is_not(self) -> None:
        with pytest.raises(StudyError, match="there is no study `mime`") as caught:
            studyctl.open("mime")
        hint = caught.value.problems[0].hint
        assert hint.startswith(f"did you mean `mine`? studies in {Path.cwd()}/runs: mine, pocket; ")

    def test_a_study_without_results(self, tmp_path: Path) -> None:
        FakeStudy(tmp_path / "new").write_plan()
        with pytest.raises(StudyError, match="nothing of new is published yet"):
            studyctl.open(tmp_path / "new")

    def test_a_database_of_another_program(self, tmp_path: Path) -> None:
        duckdb.connect(str(tmp_path / "study.duckdb")).close()
        with pytest.raises(StudyError, match="published by something else"):
            studyctl.open(tmp_path)

    def test_it_shows_its_name_and_publication(self, study: studyctl.Study) -> None:
        assert repr(study) == f"<study mine, published {study.published_at:%Y-%m-%d %H:%M:%S} UTC>"

    def test_text_of_others_cannot_act_on_the_terminal(self, own: FakeStudy) -> None:
        study = studyctl.open(own.root.rename(own.root.with_name("a\x1b[31mb")))
        shown = (repr(study), repr(study.leaderboard), repr(study.sql("select 1")))
        assert all(text.isprintable() for text in shown)


class TestTables:
    def test_every_documented_table_and_view_is_an_attribute(self, study: studyctl.Study) -> None:
        for name in DOCUMENTED:
            assert getattr(study, name).arrow() == study.sql(f"from {name}").arrow()

    def test_all_of_them_are_typed_in_studyctl_api(self) -> None:
        typed = {
            name for name, kind in typing.get_type_hints(studyctl.Study).items() if kind is studyctl.Rows
        }
        assert typed == set(DOCUMENTED)

    def test_they_are_completed(self, study: studyctl.Study) -> None:
        assert {*DOCUMENTED, "sql", "findings", "refresh", "published_at"} <= set(dir(study))

    def test_a_name_that_there_is_not(self, study: studyctl.Study) -> None:
        with pytest.raises(AttributeError, match="leaderbord"):
            study.leaderbord  # type: ignore[attr-defined]  # noqa: B018

    def test_rows_as_arrow(self, study: studyctl.Study) -> None:
        items = study.items.arrow()
        assert isinstance(items, pa.Table)
        assert items.num_rows == len(VARIANTS) * len(TASKS) * ITEMS

    def test_rows_as_a_frame(self, study: studyctl.Study) -> None:
        frame = study.leaderboard.df()
        assert isinstance(frame, pd.DataFrame)
        assert dict(zip(frame.variant, frame.bits_per_weight, strict=True)) == BITS

    def test_integers_with_null_are_floats_in_a_frame_and_integers_in_arrow(
        self, study: studyctl.Study
    ) -> None:
        assert study.leaderboard.arrow()["flips"].to_pylist() == [None, 14, 4]
        assert study.leaderboard.df().flips.dropna().tolist() == [14.0, 4.0]

    def test_without_pandas(self, study: studyctl.Study, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(StudyError, match="needs pandas, which is not installed") as caught:
            study.leaderboard.df()
        assert "pip install pandas" in caught.value.problems[0].hint
        assert study.leaderboard.arrow().num_rows == len(VARIANTS)

    def test_they_say_how_to_get_the_rows(self, study: studyctl.Study) -> None:
        assert repr(study.leaderboard) == "<leaderboard of mine: .df() or .arrow()>"


class TestSql:
    def test_rows_of_a_query(self, study: studyctl.Study) -> None:
        rows = study.sql("from windows where language = 'sw'")
        assert repr(rows) == "<12 rows of a query on mine: .df() or .arrow()>"
        assert len(rows.df()) == len(VARIANTS) * WINDOWS

    def test_temporary_tables_stay(self, study: studyctl.Study) -> None:
        study.sql("create temp table languages as select distinct language from windows")
        assert set(study.sql("from languages").df().language) == set(LANGUAGES)

    def test_a_wrong_query_says_where_and_what_to_do_in_the_traceback(self, study: studyctl.Study) -> None:
        with pytest.raises(StudyError, match="trails") as caught:
            study.sql("select *\nfrom trails")
        assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 6)
        last = traceback.format_exception_only(caught.value)[-1]
        assert last.startswith("line 2, column 6: `show tables` lists tables and views")

    @pytest.mark.parametrize(
        ("query", "why"),
        [
            ("delete from trials", "read-only"),
            ("from 'secret.csv'", "disabled by configuration"),
            ("copy trials to 'stolen.csv'", "disabled by configuration"),
            ("set enable_external_access = true", "locked"),
            ("from frame", "frame does not exist"),  # the variable below
        ],
    )
    def test_it_reads_this_study_and_nothing_else(
        self, study: studyctl.Study, workplace: Path, query: str, why: str
    ) -> None:
        (workplace / "secret.csv").write_text("a\n1\n")
        frame = study.about.df()
        assert len(frame) == 1
        with pytest.raises(StudyError, match=why):
            study.sql(query)
        assert not (workplace / "stolen.csv").exists()

    def test_an_interrupted_cell_ends_the_query(
        self, study: studyctl.Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return fetch(connection, sql)

        fetch = results.fetch
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with monkeypatch.context() as patch:
            patch.setattr(results, "fetch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                study.sql(ENDLESS)
        signal.signal(signal.SIGINT, before)
        assert study.sql("select 7 as x").arrow().to_pylist() == [{"x": 7}]


class TestFindings:
    def test_are_the_hypotheses_of_the_spec_with_their_verdicts(self, study: studyctl.Study) -> None:
        first, second = study.findings()
        assert (first.name, first.claim, first.verdict) == (
            "less",
            "rtn needs fewer bits.",
            Verdict.SUPPORTED,
        )
        assert (second.name, second.verdict) == ("more", Verdict.CONTRADICTED)

    def test_each_language_weighs_the_same(self, study: studyctl.Study) -> None:
        bits = math.log2(1.1 / 1.5) * WINDOWS * TOKENS / BYTES  # in each of them
        assert study.findings()[0].estimate == pytest.approx(bits)

    def test_a_study_without_hypotheses_has_none(self, own: FakeStudy) -> None:
        replace(own, hypotheses=()).write_plan()
        publish(own.paths)
        assert studyctl.open(own.root).findings() == []


class TestPublications:
    def title(self, study: studyctl.Study) -> object:
        return study.about.arrow()["title"][0].as_py()

    def test_it_stays_at_one_publication_until_it_is_refreshed(self, own: FakeStudy) -> None:
        study = studyctl.open(own.root)
        old, first = self.title(study), study.published_at
        about, rows = study.about, study.sql("select title from about")
        before = datetime.now(UTC)
        own.write_plan(title="new")
        publish(own.paths)

        assert (self.title(study), study.published_at) == (old, first)
        assert study.refresh() is study
        assert self.title(study) == "new"
        assert first < before - MILLISECOND <= study.published_at <= datetime.now(UTC)
        assert about.arrow()["title"].to_pylist() == ["new"]  # tables are read when they are asked for
        assert rows.arrow()["title"].to_pylist() == [old]  # the rows of a query are there already

    def test_a_publication_that_cannot_be_read_leaves_the_earlier_one_open(self, own: FakeStudy) -> None:
        study = studyctl.open(own.root)
        own.paths.database.unlink()
        with pytest.raises(StudyError, match="nothing of own is published yet"):
            study.refresh()
        assert self.title(study) == "A small study"

    def test_a_closed_study(self, own: FakeStudy) -> None:
        with studyctl.open(own.root) as study:
            rows = study.sql("from trials")
        study.close()
        for ask in (study.refresh, study.findings, study.trials.arrow, lambda: study.sql("from trials")):
            with pytest.raises(StudyError, match="the study own was closed") as caught:
                ask()
            assert caught.value.problems[0].hint == f"`studyctl.open('{own.root}')` opens it again"
        assert rows.arrow().num_rows == len(VARIANTS)


class TestReceivedStudies:
    """Of a database that somebody else wrote, rows are used and nothing else."""

    def change(self, own: FakeStudy, sql: str) -> Path:
        with duckdb.connect(str(own.paths.database)) as connection:
            connection.execute(sql)
        return own.root

    def test_views_and_functions_are_this_versions_own(self, own: FakeStudy) -> None:
        with studyctl.open(own.root) as study:
            before = study.leaderboard.arrow()
        root = self.change(
            own,
            "drop view leaderboard; create view leaderboard as select 'mine' as trial_id;"
            "create macro avg(x) as 7.0; create macro exp(x) as 7.0",
        )
        assert studyctl.open(root).leaderboard.arrow() == before

    def test_a_view_reads_no_file(self, own: FakeStudy, workplace: Path) -> None:
        (workplace / "secret").write_text("secret")
        root = self.change(own, f"create view peek as from read_text('{workplace}/secret')")
        with pytest.raises(StudyError, match="disabled by configuration"):
            studyctl.open(root).sql("from study.peek")

    def test_other_columns_are_a_problem_with_a_hint(self, own: FakeStudy) -> None:
        root = self.change(own, "alter table perplexity drop column perplexity")
        with pytest.raises(StudyError, match="cannot read") as caught:
            studyctl.open(root)
        assert "studyctl db rebuild own" in caught.value.problems[0].hint

    @pytest.mark.parametrize("time", ["NULL", "'290000-01-01'"])
    def test_a_time_that_is_none_is_refused(self, own: FakeStudy, time: str) -> None:
        root = self.change(own, f"update about set published_at = {time}")
        with pytest.raises(StudyError, match="with other tables"):
            studyctl.open(root)


def test_the_package_is_imported_at_once_and_a_study_is_opened_without_an_engine() -> None:
    program = (
        "import sys, studyctl\n"
        "print(*(name for name in sys.modules if name.startswith('studyctl.')))\n"
        "studyctl.open('mine').leaderboard.arrow()\n"
        "print(*({'torch', 'transformers', 'pandas', 'textual', 'typer'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "\n\n"


def test_a_name_that_the_package_has_not() -> None:
    assert {"open", "Study", "Rows", "StudyError"} <= set(dir(studyctl))
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        studyctl.opne  # type: ignore[attr-defined]  # noqa: B018


SCRIPT = """
import studyctl
with studyctl.open("mine") as study:
    reveal_type(study.leaderboard)
    reveal_type(study.sql("from trials"))
    reveal_type(study.published_at)
    reveal_type(study.findings()[0].verdict)
    study.leaderbord
studyctl.opne
"""
REVEALED = ["studyctl.api.Rows", "studyctl.api.Rows", "datetime.datetime", "str"]
SETTINGS = """
[mypy]
strict = true
# Their own types take mypy ten seconds.
[mypy-duckdb.*,filelock.*,numpy.*,pandas.*,pydantic.*]
follow_imports = skip
follow_imports_for_stubs = true
"""


@pytest.mark.slow
def test_mypy_sees_the_types_of_the_installed_package(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(DOCS.parent)).build(directory=str(tmp_path), versions=["standard"]))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site"], check=True, timeout=60)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "script.py"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(tmp_path / "site")
        },  # mypy takes it like site-packages: without py.typed there are no types
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert re.findall(r'Revealed type is "(.*)"', done.stdout) == REVEALED
    assert re.findall(r"script.py:(\d+): error: .*(leaderbord|opne|attribute)", done.stdout) == [
        ("8", "leaderbord"),
        ("9", "opne"),
    ]
    assert "Found 2 errors in 1 file" in done.stdout


class TestDocs:
    """The page and the notebook run as they are.

    A notebook's code is executed here without Jupyter: a kernel would bring thirty-five packages, a server's ports and seconds of
    start, and could fail in no other way, since a test keeps magic commands out (they are no Python).
    """

    NOTEBOOK = json.loads((DOCS / "python.ipynb").read_text())

    def code(self) -> list[dict[str, Any]]:
        return [cell for cell in self.NOTEBOOK["cells"] if cell["cell_type"] == "code"]

    def test_the_page(self) -> None:
        (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
        self.run(example, {})

    def test_the_notebook(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(workplace / "notebooks")
        names: dict[str, Any] = {}
        shown = {cell["id"]: self.run("".join(cell["source"]), names) for cell in self.code()}
        assert list(shown["leaderboard"].index) == list(VARIANTS)
        by_language = shown["languages"]
        assert by_language.en["wanda-0.5"] == 0.117  # 400 tokens of log2(1.5) bits in 2000 bytes
        # What it computes from the losses of windows is what the view says.
        from_windows = shown["windows"].xs("mean", axis=1, level=1)
        assert from_windows.to_dict() == by_language.drop("dense").T.to_dict()

    def test_the_notebook_is_kept_without_outputs(self) -> None:
        assert (self.NOTEBOOK["nbformat"], self.NOTEBOOK["nbformat_minor"]) == (4, 5)
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in self.code())

    def run(self, source: str, names: dict[str, Any]) -> Any:
        """Execute code as a notebook does, and return the value of its last line."""
        module = ast.parse(source)
        last = module.body.pop() if isinstance(module.body[-1], ast.Expr) else None
        exec(compile(module, "cell", "exec"), names)
        return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
