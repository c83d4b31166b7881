"""The tables of files that were timed, and the view of what is deployed."""

from pathlib import Path

import pytest

from studyctl.contract.speed import SpeedVerdict
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from studyctl.store.results import Deployed
from tests.store.builder import FakeStudy
from tests.store.timed import DENSE, FILES, MODEL, RTN, SECONDS, WANDA, time_files


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "study", files=FILES).write_all()


def deployed(study: FakeStudy) -> dict[str, Deployed]:
    publish(study.paths)
    with results.open(study.paths) as reader:
        return {row.trial_id: row for row in reader.deployment(MODEL) if row.cpu is not None}


def test_ratios_rates_and_verdicts_of_a_session(study: FakeStudy) -> None:
    time_files(study)
    rows = deployed(study)
    assert rows.keys() == {DENSE, WANDA, RTN}
    rtn, dense = rows[RTN], rows[DENSE]
    assert rtn.prefill_ratio == pytest.approx(2.0, rel=0.01)
    assert rtn.prefill_low is not None
    assert rtn.prefill_low < 2.0 < (rtn.prefill_high or 0)
    assert (rtn.prefill_verdict, rtn.decode_verdict) == (SpeedVerdict.FASTER, SpeedVerdict.FASTER)
    assert rows[WANDA].prefill_verdict == SpeedVerdict.SAME
    assert (dense.prefill_ratio, dense.prefill_verdict) == (None, None)
    assert rtn.prefill_rate == pytest.approx(100 / 0.5)
    assert rtn.decode_rate == pytest.approx(10 / 1.0)
    assert dense.decode_rate == pytest.approx(10 / 2.0, rel=0.01)
    assert (rtn.rounds, rtn.load_seconds, rtn.resident_mib, rtn.file_mib) == (4, 0.25, 300.0, 80.0)
    assert (rtn.threads, rtn.cpu, rtn.host, rtn.build, rtn.prompt, rtn.generate) == (
        2,
        "Some CPU",
        "node1",
        "b1",
        100,
        10,
    )
    assert rtn.prefill_itself_low is not None
    assert 0.95 < rtn.prefill_itself_low < 1 < (rtn.prefill_itself_high or 0) < 1.05


def test_every_process_is_two_rows(study: FakeStudy) -> None:
    time_files(study)
    publish(study.paths)
    runs = run_sql(study.paths, "from speed_runs").to_pylist()
    assert len(runs) == 4 * 4 * 2  # rounds, processes of a round, phases
    first = next(run for run in runs if run["trial_id"] == RTN and run["phase"] == "decode")
    assert (first["tokens"], first["wall_seconds"], first["session"], first["complete"]) == (
        10,
        1.0,
        "first",
        True,
    )


def test_on_a_busy_machine_there_is_no_verdict(study: FakeStudy) -> None:
    time_files(study, noise=(1.0, 1.5, 0.7, 1.1))
    assert {row.prefill_verdict for row in deployed(study).values()} == {None, SpeedVerdict.BUSY}


def test_the_newest_complete_session_counts(study: FakeStudy) -> None:
    time_files(study, "first")
    time_files(study, "second", seconds=SECONDS | {RTN: 0.25})
    time_files(study, "third", seconds=SECONDS | {RTN: 0.1}, complete=False)
    assert deployed(study)[RTN].prefill_ratio == pytest.approx(4.0, rel=0.01)
    (row,) = run_sql(
        study.paths,
        "select count(distinct session) as sessions, count(*) filter (complete) as runs from speed_runs",
    ).to_pylist()
    assert row == {"sessions": 3, "runs": 2 * 32}


def test_machines_and_threads_stand_beside_each_other(study: FakeStudy) -> None:
    time_files(study, "first")
    time_files(study, "second", cpu="Another CPU")
    time_files(study, "third", threads=1)
    publish(study.paths)
    rows = run_sql(
        study.paths, f"select cpu, threads from speed where trial_id = '{RTN}' order by all"
    ).to_pylist()
    assert [(row["cpu"], row["threads"]) for row in rows] == [
        ("Another CPU", 2),
        ("Some CPU", 1),
        ("Some CPU", 2),
    ]


def test_a_file_that_could_not_be_timed_says_why(study: FakeStudy) -> None:
    time_files(study, failed=RTN)
    row = deployed(study)[RTN]
    assert row.why_no_speed == "its process was killed by SIGKILL"
    assert (row.prefill_rate, row.prefill_ratio, row.prefill_verdict, row.rounds) == (None, None, None, 0)


def test_times_of_other_weights_do_not_count(study: FakeStudy) -> None:
    study.weights_hashes[RTN] = "older"
    time_files(study)
    del study.weights_hashes[RTN]
    assert deployed(study).keys() == {DENSE, WANDA}


def test_a_study_without_times_has_one_row_a_trial(study: FakeStudy) -> None:
    publish(study.paths)
    with results.open(study.paths) as reader:
        rows = reader.deployment(MODEL)
    assert [(row.trial_id, row.cpu, row.llama_cpp) for row in rows] == [
        (trial, None, "loads") for trial in (DENSE, WANDA, RTN)
    ]
