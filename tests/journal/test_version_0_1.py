"""A study folder of version 0.1 is read as it is: what it holds is shown, queried and published anew, and nothing is written."""

import lzma
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from studyctl.contract.plan import read_plan
from studyctl.contract.records import AttemptFinished, AttemptStarted, FidelityTotals, TextTotals, Warned
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import FailureCause
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail, JournalWriter, decode, read_journal
from studyctl.journal.index import read_stored
from studyctl.store import results
from studyctl.store.live import Live
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from studyctl.store.schema import VERSION
from studyctl.store.session import Session

RECORDED = Path(__file__).parent / "recorded" / "version-0.1.0"
TRIAL = "tiny-gptq-4bit-g16"
FIGURES = ("perplexity", "fidelity", "tasks", "items", "task_flips", "layers", "leaderboard")
"""What was measured: tables, and the view that sums them up."""
OTHERWISE = {
    "ppl_ratio_low", "ppl_ratio_high", "acc_change_low", "acc_change_high", "worst_language", "worst_ppl_ratio",
}  # fmt: skip
"""Columns of that view that are computed otherwise now: intervals in closed form, the worst language per byte."""
Rows = list[tuple[Any, ...]]


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    root = tmp_path / "small"
    shutil.copytree(RECORDED, root, ignore=shutil.ignore_patterns("*.xz"))
    (root / "study.duckdb").write_bytes(lzma.decompress((RECORDED / "study.duckdb.xz").read_bytes()))
    return StudyPaths(root)


def query(database: Path, sql: str) -> Rows:
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def old(paths: StudyPaths, tmp_path: Path) -> Callable[[str], Rows]:
    """Ask the database that version 0.1 published."""
    copy = tmp_path / "old.duckdb"
    shutil.copy(paths.database, copy)
    return lambda sql: query(copy, sql)


def asked(paths: StudyPaths, sql: str) -> Rows:
    return [tuple(row.values()) for row in run_sql(paths, sql).to_pylist()]


def columns_of(old: Callable[[str], Rows], table: str) -> str:
    return ", ".join(f'"{name}"' for name, *_ in old(f"DESCRIBE {table}") if name not in OTHERWISE)


def content(paths: StudyPaths) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in paths.root.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_look_at_it_shows_every_trial(paths: StudyPaths) -> None:
    trials = {trial.trial: trial for trial in Live(paths).refresh().trials}
    assert [(name, trial.state, trial.steps, trial.steps_done) for name, trial in trials.items()] == [
        ("tiny-dense", "done", 3, 3),
        ("tiny-wanda-0.5", "done", 4, 4),
        ("tiny-rtn-4bit-g16", "done", 4, 4),
        ("tiny-gptq-4bit-g16", "done", 4, 4),
        ("broken-dense", "failed", 3, 0),
        ("broken-wanda-0.5", "failed", 4, 0),
        ("broken-rtn-4bit-g16", "failed", 4, 0),
        ("broken-gptq-4bit-g16", "failed", 4, 0),
    ]
    broken = trials["broken-dense"]
    assert broken.step == StepId(StepKind.LOAD)
    assert broken.error is not None
    assert broken.error.startswith("the weights of ./broken hold NaN or infinity")


def test_a_trial_of_it_has_its_details(paths: StudyPaths, old: Callable[[str], Rows]) -> None:
    live = Live(paths)
    live.refresh()
    detail = live.trial(TRIAL)
    assert [(str(step.step), step.state) for step in detail.steps] == [
        ("load", "done"),
        ("compress", "done"),
        ("perplexity:en", "done"),
        ("perplexity:de", "done"),
        ("task:boats", "done"),
    ]
    assert [(row.language, row.perplexity, row.kl_nats) for row in detail.languages] == old(
        f"SELECT language, perplexity, kl_nats FROM perplexity_vs_dense WHERE trial_id = '{TRIAL}'"
    )
    assert len(detail.layers) == 14
    failed = live.trial("broken-dense")
    assert (failed.cause, [attempt.state for attempt in failed.attempts]) == (
        FailureCause.ERROR,
        ["failed"],
    )


def test_its_results_are_those_of_its_database(paths: StudyPaths, old: Callable[[str], Rows]) -> None:
    with results.open(paths) as published:
        standings = [row._asdict() for row in published.leaderboard()]
        languages = [
            (row.trial_id, row.language, row.perplexity, row.ppl_ratio) for row in published.perplexity()
        ]
        tasks = [(row.trial_id, row.task, row.metric, row.value, row.change) for row in published.tasks()]
        shown = {(row.main, row.averaged) for row in published.tasks()}
    names = columns_of(old, "leaderboard").replace('"', "").split(", ")
    rows = [tuple(row[name] for name in names) for row in standings]
    assert rows == old(f"SELECT {', '.join(names)} FROM leaderboard")
    assert languages == old("SELECT trial_id, language, perplexity, ppl_ratio FROM perplexity_vs_dense")
    assert tasks == old("SELECT trial_id, task, metric, value, change FROM tasks_vs_dense")
    assert shown == {(True, True)}


@pytest.mark.parametrize("table", FIGURES)
def test_queries_find_what_they_found(paths: StudyPaths, old: Callable[[str], Rows], table: str) -> None:
    sql = f"SELECT {columns_of(old, table)} FROM {table}"
    assert sorted(map(str, asked(paths, sql))) == sorted(map(str, old(sql)))


def test_queries_of_that_time_still_work(paths: StudyPaths, old: Callable[[str], Rows]) -> None:
    sql = "SELECT trial_id, stage, state, seconds, attempt, weights_hash FROM stages ORDER BY ALL"
    assert asked(paths, sql) == old(sql)
    windows = 'SELECT trial_id, language, "window", nll_nats, tokens FROM windows ORDER BY ALL'
    assert asked(paths, windows) == old(windows)


def test_figures_with_intervals_have_them_still(paths: StudyPaths, old: Callable[[str], Rows]) -> None:
    """That of the mean over tasks was called acc."""
    renamed = "CASE WHEN measure = 'acc' AND subject IS NULL THEN 'main' ELSE measure END"
    before = set(old(f"SELECT {renamed}, trial_id, subject FROM intervals"))
    assert before
    assert before <= set(asked(paths, "SELECT measure, trial_id, subject FROM intervals"))


def test_what_it_did_not_record_is_unknown(paths: StudyPaths) -> None:
    for sql in (
        "SELECT count(kl_nats) + count(document) + count(bytes) AS known FROM windows",
        "SELECT count(windows) AS known FROM perplexity",
        "SELECT count(score) + count(passage) AS known FROM items",
        "SELECT count(shots) AS known FROM tasks",
    ):
        assert asked(paths, sql) == [(0,)]


def test_it_has_the_tables_of_now_and_its_own_time(paths: StudyPaths, old: Callable[[str], Rows]) -> None:
    assert asked(paths, "SELECT schema_version FROM about") == [(VERSION,)]
    assert asked(paths, "SELECT published_at FROM about") == old("SELECT published_at FROM about")


def test_reading_changes_nothing(paths: StudyPaths) -> None:
    before = content(paths)
    live = Live(paths)
    live.as_published()
    live.refresh()
    live.standings()
    live.trial(TRIAL)
    with results.open(paths) as published:
        published.leaderboard()
    run_sql(paths, "FROM perplexity")
    session = Session(paths)
    session.run("FROM leaderboard")
    session.catalog()
    session.close()
    assert content(paths) == before


@pytest.mark.parametrize("table", FIGURES)
def test_it_is_published_anew_with_the_same_figures(
    paths: StudyPaths, old: Callable[[str], Rows], table: str
) -> None:
    before = content(paths)
    publish(paths)
    assert query(paths.database, "SELECT schema_version FROM about") == [(VERSION,)]
    sql = f"SELECT {columns_of(old, table)} FROM {table}"
    assert sorted(map(str, query(paths.database, sql))) == sorted(map(str, old(sql)))
    rest = {path: seen for path, seen in content(paths).items() if path != paths.database}
    assert rest == {path: seen for path, seen in before.items() if path != paths.database}


def test_without_a_plan_its_trials_are_those_of_the_journals(
    paths: StudyPaths, old: Callable[[str], Rows]
) -> None:
    paths.plan.unlink()
    publish(paths)
    sql = "FROM leaderboard SELECT trial_id, ppl_ratio, kl_nats, acc WHERE model = './tiny' ORDER BY ALL"
    assert query(paths.database, sql) == old(sql)


def test_its_plan_asks_for_texts_without_a_number_of_windows(paths: StudyPaths) -> None:
    planned = read_plan(paths)
    assert planned is not None
    trial = next(trial for trial in planned.trials if trial.trial == TRIAL)
    assert [(str(step), step.windows) for step in planned.steps(trial)] == [
        ("compress", None),
        ("perplexity:en", None),
        ("perplexity:de", None),
        ("task:boats", None),
    ]
    stored = read_stored(paths).results_of(trial.weights_key, planned.steps(trial))
    assert stored.missing(planned.steps(trial)) == ()


def test_its_journals_are_read_as_records(paths: StudyPaths) -> None:
    records = list(read_journal(paths.attempt_journal(TRIAL, 1)))
    started = records[0]
    assert isinstance(started, AttemptStarted)
    assert (started.schema, started.studyctl, started.trial, started.attempt) == (1, "0.1.0", TRIAL, 1)
    assert len([record for record in records if isinstance(record, TextTotals | FidelityTotals)]) == 4
    assert [record.seq for record in records] == list(range(len(records)))


def test_further_fields_of_its_warnings_are_their_details() -> None:
    line = (
        b'{"seq":3,"at":"2026-11-29T09:14:40.295+00:00","kind":"warning","trial":"t","attempt":1,"stage":"compress",'
        b'"message":"damping was raised","linear":"mlp.down_proj","damping":0.1}'
    )
    warned = decode(line)
    assert isinstance(warned, Warned)
    assert (warned.step, warned.message) == (Step(StepKind.COMPRESS), "damping was raised")
    assert warned.details == {"linear": "mlp.down_proj", "damping": 0.1}


def test_a_runner_of_now_ends_an_attempt_that_was_killed_then(paths: StudyPaths) -> None:
    journal = paths.attempt_journal(TRIAL, 1)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:20]))
    assert read_stored(paths).attempts[TRIAL][0].state == "open"
    with JournalWriter(journal) as writer:
        writer.write(AttemptFinished(state="failed", error="the worker was killed"))
    *_, last = JournalTail(journal).new_records()
    assert (type(last), last.seq, last.trial, last.attempt) == (AttemptFinished, 20, TRIAL, 1)
    assert read_stored(paths).attempts[TRIAL][0].state == "failed"
