"""One runner a study; requests reach it."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths
from studyctl.run.control import Request, send, take_requests
from studyctl.run.hold import hold, write_heartbeat
from studyctl.store.holder import living_runner, read_holder

HOLDER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from studyctl.files import StudyPaths
from studyctl.run.hold import hold, write_heartbeat
paths = StudyPaths(Path(sys.argv[1]))
with hold(paths):
    write_heartbeat(paths, datetime.now(UTC), [{"trial": "t", "attempt": 1}])
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs" / "x")


def other_runner(paths: StudyPaths) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_runner_is_told_who_holds_the_study_and_since_when(paths: StudyPaths) -> None:
    with other_runner(paths) as process:
        holder = living_runner(paths)
        assert holder is not None
        assert holder.pid == process.pid
        with pytest.raises(HeldError) as caught, hold(paths):
            pass
        what = caught.value.problems[0].what
        assert f"process {process.pid} on {socket.gethostname()}, since 20" in what
        process.kill()
        process.wait()
        # Free at once, although runner.json is still there.
        assert read_holder(paths) is not None
        assert living_runner(paths) is None
        with hold(paths):
            pass


def test_a_runner_that_ends_leaves_no_trace(paths: StudyPaths) -> None:
    with hold(paths):
        write_heartbeat(paths, datetime.now(UTC), [])
        assert living_runner(paths) is not None
    assert living_runner(paths) is None
    assert not paths.runner.exists()


@pytest.mark.parametrize(("age", "alive"), [(5, True), (600, False)])
def test_a_runner_on_another_host_is_judged_by_its_heartbeat(
    paths: StudyPaths, age: int, alive: bool
) -> None:
    beat = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    content = {
        "host": "elsewhere",
        "pid": 1,
        "created": 0.0,
        "since": beat,
        "heartbeat": beat,
        "attempts": [],
    }
    paths.root.mkdir(parents=True)
    paths.runner.write_text(json.dumps(content))
    assert (living_runner(paths) is not None) is alive
    if alive:
        with pytest.raises(HeldError, match="elsewhere"), hold(paths):
            pass


def test_a_process_number_that_was_given_to_another_is_no_runner(paths: StudyPaths) -> None:
    now = datetime.now(UTC).isoformat()
    began = psutil.Process().create_time() - 1000
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "created": began,
        "since": now,
        "heartbeat": now,
        "attempts": [],
    }
    paths.root.mkdir(parents=True)
    paths.runner.write_text(json.dumps(content))
    assert living_runner(paths) is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(StudyError) as caught, hold(StudyPaths(tmp_path / "runs" / "x")):
        pass
    assert "cannot be written" in caught.value.problems[0].what


def test_requests_are_taken_once_and_in_order(paths: StudyPaths) -> None:
    first, second = Request("retry", trial="a"), Request("stop", when="now")
    send(paths, first)
    os.utime(next(paths.control.glob("retry-*")), (1, 1))
    send(paths, second)
    assert take_requests(paths) == [first, second]
    assert take_requests(paths) == []
