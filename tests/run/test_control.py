"""A living runner is asked to stop, to take up an edited spec; a dead worker is noted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.contract.records import AttemptFinished
from studyctl.errors import ExitCode, HeldError, StudyError
from studyctl.files import StudyPaths, write_atomic
from studyctl.journal.files import read_journal
from studyctl.plan.preview import preview
from studyctl.run.control import Request, send
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from studyctl.store.holder import living_runner
from studyctl.store.query import run_sql
from tests.run.studies import write_spec
from tests.run.test_kills import start


def wait_for_runner(process: subprocess.Popen[bytes], paths: StudyPaths) -> None:
    """Return when an attempt is running."""
    while process.poll() is None:
        holder = living_runner(paths)
        if holder is not None and holder.attempts:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    raise AssertionError("the runner ended before it ran anything")


@pytest.fixture
def paths(workplace: Path) -> StudyPaths:
    return StudyPaths(workplace / "runs" / "small")


def states(paths: StudyPaths) -> set[str]:
    return set(run_sql(paths, "select state from trials").column(0).to_pylist())


def test_a_second_run_is_refused_and_an_edited_spec_is_handed_over(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    spec = write_spec(workplace)
    runner = start(spec)
    wait_for_runner(runner, paths)
    with pytest.raises(HeldError, match=f"process {runner.pid}"):
        run_study(spec, Selection(), console)
    edited = write_spec(workplace, change=('["en", "de"]', '["en", "de", "sw"]'))
    handed = run_study(edited, Selection(), console)
    assert (handed.code, handed.outcome) == (ExitCode.DONE, None)
    assert "handed the edited spec" in handed.message
    assert runner.wait(timeout=120) == ExitCode.DONE
    # Also of the trial that was at work when the spec was taken up.
    assert states(paths) == {"done"}
    assert run_sql(paths, "select count(*) from perplexity").column(0).to_pylist() == [9]
    assert "sw" in paths.spec.read_text()


@pytest.mark.parametrize("names", [["SIGTERM"], ["SIGTERM", "SIGTERM"], ["SIGHUP"]])
def test_a_signal_to_the_whole_group_stops_and_fails_nothing(
    workplace: Path, paths: StudyPaths, names: list[str]
) -> None:
    """As ``timeout``, ``scancel`` and systemd send it, and the kernel when a terminal is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    runner = start(write_spec(workplace, execution="retries = 0"))
    wait_for_runner(runner, paths)
    for name in names:
        os.killpg(runner.pid, getattr(signal, name))
    assert runner.wait(timeout=60) == ExitCode.STOPPED
    assert states(paths) <= {"done", "stopped", "pending"}
    assert run_sql(paths, "from failures").num_rows == 0
    assert not paths.runner.exists()


def test_a_hangup_that_is_ignored_stops_nothing(workplace: Path, paths: StudyPaths) -> None:
    """``nohup`` ignores it for the runner."""
    command = [sys.executable, "-m", "studyctl", "run", str(write_spec(workplace)), "--only", "dense"]
    runner = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_runner(runner, paths)
    os.killpg(runner.pid, signal.SIGHUP)
    assert runner.wait(timeout=120) == ExitCode.DONE


def test_a_worker_leaves_it_to_its_runner_what_a_signal_means(workplace: Path, paths: StudyPaths) -> None:
    import psutil

    runner = start(write_spec(workplace, execution="retries = 0"), "--only", "dense")
    wait_for_runner(runner, paths)
    for worker in psutil.Process(runner.pid).children():
        worker.terminate()
    assert runner.wait(timeout=120) == ExitCode.DONE


def test_a_run_goes_on_without_a_reader_of_its_output(workplace: Path, paths: StudyPaths) -> None:
    spec = write_spec(workplace)
    command = (
        f"{sys.executable} -m studyctl run {spec} --only dense 2>&1 | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    assert (
        subprocess.run(["bash", "-c", command], capture_output=True, check=False).returncode == ExitCode.DONE
    )
    assert "done" in states(paths)


@pytest.mark.parametrize("how", ["request", "SIGINT", "SIGTERM"])
def test_a_stop_keeps_what_was_measured(
    workplace: Path, paths: StudyPaths, console: Console, how: str
) -> None:
    spec = write_spec(workplace)
    runner = start(spec)
    wait_for_runner(runner, paths)
    if how == "request":
        send(paths, Request("stop"))
    else:
        runner.send_signal(getattr(signal, how))
    assert runner.wait(timeout=60) == ExitCode.STOPPED
    assert living_runner(paths) is None
    assert "pending" in states(paths)
    assert run_study(spec, Selection(), console).code == ExitCode.DONE
    assert states(paths) == {"done"}


def test_a_part_of_an_edited_spec_is_run_beside_the_part_that_the_run_began_with(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    runner = start(write_spec(workplace), "--only", "dense")
    wait_for_runner(runner, paths)
    edited = write_spec(workplace, change=('["en", "de"]', '["en", "de", "sw"]'))
    with pytest.raises(StudyError, match="no variant or trial of this study is called `awq`"):
        run_study(edited, Selection(only=("awq",)), console)
    handed = run_study(edited, Selection(only=("rtn*",)), console)
    assert "handed the edited spec" in handed.message
    assert runner.wait(timeout=120) == ExitCode.DONE
    trials = run_sql(paths, "select variant, state from trials").to_pylist()
    assert {row["variant"]: row["state"] for row in trials} == {
        "dense": "done",
        "rtn-4bit-g16": "done",
        "wanda-0.5": "pending",
    }


def test_a_request_to_a_runner_that_is_gone_does_not_stop_the_next(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    send(paths, Request("stop", when="now"))
    assert run_study(write_spec(workplace), Selection(only=("dense",)), console).code == ExitCode.DONE
    assert "done" in states(paths)


def test_a_worker_that_dies_fails_its_trial_with_the_cause(workplace: Path, paths: StudyPaths) -> None:
    import psutil

    runner = start(write_spec(workplace, execution="retries = 0"))
    wait_for_runner(runner, paths)
    for worker in psutil.Process(runner.pid).children():
        worker.kill()
    assert runner.wait(timeout=120) == ExitCode.FAILED
    failures = run_sql(paths, "select trial_id, error from failures").to_pylist()
    assert failures == [{"trial_id": "tiny-dense", "error": "the worker was killed by SIGKILL"}]
    assert states(paths) == {"done", "failed"}


def test_a_runner_whose_study_was_taken_over_ends_before_its_next_record(
    workplace: Path, paths: StudyPaths
) -> None:
    runner = start(write_spec(workplace))
    wait_for_runner(runner, paths)
    lease = json.loads(paths.lease.read_bytes())
    other = json.dumps(lease | {"host": "elsewhere", "machine": "other", "pid": 1, "token": "theirs"})
    write_atomic(paths.lease, other)
    assert runner.wait(timeout=60) == ExitCode.FAILED
    assert paths.lease.read_text() == other
    assert paths.runner.exists()
    # Its worker has ended with it, and nobody wrote that the attempt failed.
    ends = [
        r
        for path in paths.journal.glob("*.jsonl")
        for r in read_journal(path)
        if isinstance(r, AttemptFinished)
    ]
    assert {end.state for end in ends} <= {"done"}
    paths.lease.unlink()
    assert start(write_spec(workplace)).wait(timeout=120) == ExitCode.DONE
    assert states(paths) == {"done"}


def test_on_finish_gets_a_line_on_its_stdin(workplace: Path, console: Console) -> None:
    spec = write_spec(workplace, execution='on_finish = "cat > said.txt"')
    run_study(spec, Selection(only=("dense",)), console)
    assert (workplace / "said.txt").read_text() == "small finished: 1 trial done, 0 failed\n"


def test_a_cache_that_cannot_be_written_costs_time_only_and_the_plan_says_so(
    workplace: Path, paths: StudyPaths, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDYCTL_CACHE", "/proc/nowhere/cache")
    spec = write_spec(workplace)
    warnings = [problem.what for problem in preview(load_spec(spec)).problems]
    assert len(warnings) == 1
    assert "the cache /proc/nowhere/cache cannot be written" in warnings[0]
    assert run_study(spec, Selection(), console).code == ExitCode.DONE
    assert states(paths) == {"done"}
    assert list((paths.spare_cache / "tokens").iterdir()), "tokens are kept in the study"
