"""A study on two mounts without shared locks, as two hosts see a network file system: one runner, and readers that survive."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from studyctl.errors import HeldError
from studyctl.files import StudyPaths
from studyctl.run.hold import hold
from studyctl.store import holder, results
from studyctl.store.live import Live
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from tests.cluster.studies import wait_for
from tests.run.test_hold import BEAT, SILENT, ask, other_runner
from tests.store.builder import FakeStudy

SERVER = next(
    (
        path
        for path in (Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server"))
        if path.exists()
    ),
    None,
)
CACHED = 1
"""Seconds for which a mount remembers what it saw."""


def missing() -> str:
    """Return why nothing can be mounted here; empty if it can."""
    absent = [name for name in ("sshfs", "fusermount3") if shutil.which(name) is None]
    if absent or SERVER is None:
        return "needs sshfs: apt-get install sshfs openssh-sftp-server"
    return "" if os.access("/dev/fuse", os.W_OK) else "there is no /dev/fuse"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two mounts of one folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    points, processes = [], []
    try:
        for name in ("here", "there"):
            point = tmp_path / name
            point.mkdir()
            ours, theirs = socket.socketpair()
            processes.append(subprocess.Popen([str(SERVER)], stdin=theirs, stdout=theirs))
            options = f"passive,dcache_timeout={CACHED},attr_timeout={CACHED},entry_timeout={CACHED}"
            mount = ["sshfs", f":{folder}", str(point), "-f", "-o", options]
            processes.append(subprocess.Popen(mount, stdin=ours, stdout=ours))
            ours.close()
            theirs.close()
            wait_for(lambda point=point: os.path.ismount(point), "mount")  # type: ignore[misc]
            points.append(point)
        yield points[0], points[1]
    finally:
        for point in points:
            subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False)
        for process in processes:
            process.kill()
            process.wait()


def test_one_runner(mounts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BEAT_SECONDS": BEAT, "SILENT_BEATS": SILENT / BEAT, "LOOK_SECONDS": BEAT}.items():
        monkeypatch.setattr(holder, name, value)
    here, there = (StudyPaths(mount / "x") for mount in mounts)
    with other_runner(there, "elsewhere") as process:
        with pytest.raises(HeldError, match=f"process {process.pid}"), hold(here):
            pass
        assert ask(process) == "held\n"
        process.kill()
        process.wait()
        with hold(here) as held:
            held.check()


def test_what_a_worker_writes_is_seen_from_the_other_side(mounts: tuple[Path, Path]) -> None:
    here, there = (FakeStudy(mount / "small", models=("org/alpha",)) for mount in mounts)
    there.write_plan()
    live = Live(here.paths)
    live.refresh()
    attempt = there.attempt("alpha.dense")
    attempt.run_all()
    wait_for(lambda: next(one for one in live.refresh().trials).state == "done", "finished trial", 30)


def test_a_reader_keeps_its_rows_while_another_host_publishes(mounts: tuple[Path, Path]) -> None:
    here, there = (FakeStudy(mount / "small", models=("org/alpha",)) for mount in mounts)
    there.write_plan()
    publish(there.paths)
    with results.open(here.paths) as old:
        there.attempt("alpha.dense").run_all()
        publish(there.paths)
        assert next(row.state for row in old.leaderboard()) == "pending"
        query = "select state from trials where trial_id = 'alpha.dense'"
        wait_for(lambda: run_sql(here.paths, query)["state"][0].as_py() == "done", "new database", 30)
        assert next(row.state for row in old.leaderboard()) == "pending"
