"""One runner a study; requests reach it."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths
from studyctl.run.cleaning import clean, remove
from studyctl.run.control import Request, send, take_requests
from studyctl.run.hold import Hold, MemoryMeter, hold, write_heartbeat
from studyctl.run.start import rebuild
from studyctl.store import holder
from studyctl.store.holder import MemoryUse, Pulse, living_runner, read_holder, read_lease
from studyctl.workers.pool import PoolState

BEAT, SILENT = 0.1, 2.0
HOLDER = """
import fcntl, sys, time
from datetime import UTC, datetime
from pathlib import Path
place, machine, skew = sys.argv[1:]
if machine:  # another one, whose disk grants every lock to everybody, and whose clock is wrong
    from studyctl import files
    files.machine = lambda: machine
    fcntl.flock = lambda *_: None
    now = time.time
    time.time = lambda: now() + float(skew)
from studyctl.errors import HeldError
from studyctl.files import StudyPaths
from studyctl.run.hold import hold, write_heartbeat
from studyctl.store import holder
from studyctl.workers.pool import PoolState
holder.BEAT_SECONDS = 0.1
paths = StudyPaths(Path(place))
with hold(paths) as held:
    write_heartbeat(paths, datetime.now(UTC), PoolState([holder.WorkerState(name="w", trial="t", attempt=1)]))
    print("held", flush=True)
    try:
        while sys.stdin.readline():
            held.check()
            print("held", flush=True)
    except HeldError as error:
        print(error, flush=True)
"""


@pytest.fixture(autouse=True)
def _short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(holder, "SILENT_BEATS", SILENT / BEAT)
    monkeypatch.setattr(holder, "LOOK_SECONDS", BEAT / 5)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that grants every lock to everybody, as NFS does between two hosts with ``local_lock=all``."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs" / "x")


@contextmanager
def other_runner(paths: StudyPaths, machine: str = "", skew: float = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study, here or on another machine; it answers every line with whether it still does."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths.root), machine, str(skew)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_second_runner_is_told_who_holds_the_study_and_since_when(paths: StudyPaths) -> None:
    with other_runner(paths) as process:
        runner = living_runner(paths)
        assert runner is not None
        assert runner.pid == process.pid
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
        write_heartbeat(paths, datetime.now(UTC), PoolState())
        assert living_runner(paths) is not None
    assert living_runner(paths) is None
    assert not paths.runner.exists()


@pytest.mark.usefixtures("no_locks")
class TestOnAnotherMachine:
    @pytest.mark.parametrize("skew", [-90.0, 90.0, 86_400.0])
    def test_a_holder_is_respected_whatever_its_clock_says(self, paths: StudyPaths, skew: float) -> None:
        with other_runner(paths, "elsewhere", skew) as process:
            with pytest.raises(HeldError, match=f"process {process.pid}"), hold(paths):
                pass
            runner = living_runner(paths)
            assert runner is not None
            assert runner.pid == process.pid
            assert ask(process) == "held\n"

    def test_a_holder_that_is_dead_is_replaced_after_some_silent_beats(self, paths: StudyPaths) -> None:
        with other_runner(paths, "elsewhere") as process:
            process.kill()
            process.wait()
            began = time.monotonic()
            with hold(paths) as held:
                assert time.monotonic() - began >= SILENT
                held.check()

    def test_a_single_look_does_not_wait_and_later_ones_judge(self, paths: StudyPaths) -> None:
        with other_runner(paths, "elsewhere") as process:
            process.kill()
            process.wait()
            pulse = Pulse(paths)
            assert pulse.look() is not None
            assert Pulse(paths).wait() is None  # it has been silent for long enough
            assert pulse.look() is None

    def test_a_holder_that_was_asleep_ends_when_it_wakes_up(self, paths: StudyPaths) -> None:
        with other_runner(paths, "elsewhere") as process:
            process.send_signal(signal.SIGSTOP)
            with hold(paths) as held:
                process.send_signal(signal.SIGCONT)
                assert f"was taken over by process {os.getpid()}" in ask(process)
                assert process.wait(timeout=60) == 0
                held.check()

    @pytest.mark.parametrize("command", ["gc", "rm", "rebuild"])
    def test_nothing_is_changed_while_it_is_held(self, paths: StudyPaths, command: str) -> None:
        paths.journal.mkdir(parents=True)
        (paths.cache / "dense").mkdir(parents=True)
        (paths.cache / "dense" / "x").write_text("half of it")
        console = Console(quiet=True)
        commands: dict[str, Callable[[], object]] = {
            "gc": lambda: clean(paths, console, yes=True),
            "rm": lambda: remove(paths, console, yes=True),
            "rebuild": lambda: rebuild(paths),
        }
        with other_runner(paths, "elsewhere"):
            before = sorted(paths.root.rglob("*"))
            with pytest.raises(HeldError):
                commands[command]()
            assert sorted(paths.root.rglob("*")) == before

    def test_a_runner_of_an_earlier_version_is_judged_by_its_file(self, paths: StudyPaths) -> None:
        now = datetime.now(UTC)
        content = {"host": "elsewhere", "pid": 1, "created": 0.0, "attempts": [], "since": now.isoformat()}

        def beat(number: int) -> None:
            at = now + timedelta(seconds=number)
            paths.runner.write_text(json.dumps(content | {"heartbeat": at.isoformat()}))

        paths.root.mkdir(parents=True)
        beat(0)
        pulse = Pulse(paths)
        assert pulse.look() is not None
        beat(1)
        assert pulse.wait() is not None
        assert pulse.wait() is None


def test_a_holder_on_this_machine_that_is_asleep_is_alive(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_runner(paths) as process:
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        monkeypatch.setattr(holder, "SILENT_BEATS", 0)
        with pytest.raises(HeldError, match=f"process {process.pid}"), hold(paths):
            pass


class Dead(Pulse):
    """Takes every holder for dead."""

    def lives(self, _: object) -> bool:
        return False


def test_of_two_who_replace_a_dead_holder_at_once_the_first_finds_the_lease_of_the_second(
    paths: StudyPaths,
) -> None:
    with hold(paths) as first:
        second = Hold(paths)
        second.take(Dead(paths))
        second.check()
        with pytest.raises(HeldError, match="taken over"):
            first.check()
    second.check()  # the first lets go of nothing that is not its own
    second.release()
    assert not paths.lease.exists()


def test_the_count_rises_in_place(paths: StudyPaths) -> None:
    """A reader of a network file system sees a file that changes sooner than one that takes its place."""
    with hold(paths):
        before, inode = paths.lease.read_bytes(), paths.lease.stat().st_ino
        while (after := paths.lease.read_bytes()) == before:
            time.sleep(BEAT / 10)
        assert (len(after), paths.lease.stat().st_ino) == (len(before), inode)
        lease = read_lease(paths)
        assert lease is not None
        assert int(lease.count) > 0


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_disk_without_locks_is_held_by_the_lease_alone(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, error), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(paths) as held:
        assert "has no locks" in held.note
        with pytest.raises(HeldError), hold(paths):
            pass
    with hold(paths):
        pass


def test_a_lease_that_cannot_be_read_is_judged_by_its_silence(paths: StudyPaths) -> None:
    paths.root.mkdir(parents=True)
    paths.lease.write_text("")
    with hold(paths) as held:
        held.check()


def test_a_full_disk_leaves_no_lease(paths: StudyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("studyctl.run.hold.os.write", full)
    with pytest.raises(StudyError, match="cannot be written"), hold(paths):
        pass
    assert not paths.lease.exists()


def test_when_a_process_started_does_not_depend_on_the_clock(paths: StudyPaths) -> None:
    """psutil adds the time at which the machine started, and the kernel changes that when the clock is set."""
    with hold(paths):
        lease = read_lease(paths)
        assert lease is not None
        assert lease.created < time.monotonic() + 1


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


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "explode"}', "[" * 100_000])
def test_a_file_that_is_no_request_is_removed_and_told(paths: StudyPaths, content: str) -> None:
    paths.control.mkdir(parents=True, exist_ok=True)
    (paths.control / "a.json").write_text(content)
    (paths.control / "folder.json").mkdir()
    (told,) = take_requests(paths)
    assert isinstance(told, str)
    assert told.startswith(f"{paths.control / 'a.json'} is no request and was removed: ")
    assert take_requests(paths) == []


class TestMemoryMeter:
    def test_a_span_keeps_its_largest_value(self) -> None:
        meter = MemoryMeter()
        for at, memory, device in ((10.0, 5, 1), (12.0, 9, 0), (13.0, 7, 2), (14.0, 6, 3)):
            meter.add(at, memory, device)
        assert meter.use == MemoryUse(seconds=4.0, memory_bytes=(9, 6), device_bytes=(2, 3))

    def test_a_run_of_any_length_takes_64_spans_at_most_and_keeps_its_peak(self) -> None:
        meter = MemoryMeter()
        for beat in range(20_000):
            meter.add(2.0 * beat, 100 if beat == 777 else 1, 0)
        assert len(meter.use.memory_bytes) <= 64
        assert meter.use.seconds == 1024.0  # 40,000 s in 64 spans of 4 s, doubled until they fit
        assert max(meter.use.memory_bytes) == 100
        assert meter.use.memory_bytes.index(100) == 1554 // 1024

    def test_after_a_sleep_the_last_value_stands_until_the_next(self) -> None:
        meter = MemoryMeter()
        meter.add(0.0, 3, 0)
        meter.add(17.0, 5, 0)
        assert meter.use.memory_bytes == (3, 3, 3, 3, 5)

    def test_it_travels_in_the_heartbeat(self, paths: StudyPaths) -> None:
        meter = MemoryMeter()
        with hold(paths):
            write_heartbeat(paths, datetime.now(UTC), PoolState(), meter=meter)
            runner = read_holder(paths)
        assert runner is not None
        assert runner.memory_use == meter.use
        assert runner.memory_total_bytes == psutil.virtual_memory().total
