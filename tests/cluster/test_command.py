"""Workers that a command starts, as processes of this machine: what is killed, suspended or cut off loses nothing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from studyctl.contract.records import AttemptFinished, StepFinished
from studyctl.contract.steps import StepKind
from studyctl.errors import ExitCode, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.index import read_stored
from studyctl.report.workers import workers_as_json
from studyctl.run.control import ask_to_drain
from studyctl.spec.profiles import load_profile
from studyctl.workers import allocations
from studyctl.workers.check import check_profile
from studyctl.workers.contact import read_contact
from tests.cluster.studies import Cluster, Results, results, wait_for

pytestmark = pytest.mark.cluster


def check_complete(paths: StudyPaths, expected: Results) -> None:
    """Every row is that of a run on one machine, bit for bit, and no journal is damaged."""
    assert results(paths) == expected
    for path in paths.journal.glob("*.jsonl"):
        list(read_journal(path))


def finished_twice(paths: StudyPaths) -> list[str]:
    """Return the steps that were measured in more than one attempt; batches count one by one."""
    done = Counter(
        f"{record.trial} {record.step} {record.step.windows}"
        for path in paths.journal.glob("*.jsonl")
        for record in read_journal(path)
        if isinstance(record, StepFinished) and record.step.kind is not StepKind.LOAD
    )
    return [step for step, count in done.items() if count > 1]


def ends(paths: StudyPaths) -> Counter[str]:
    """Return how the attempts ended."""
    return Counter(attempt.state for attempts in read_stored(paths).attempts.values() for attempt in attempts)


def begun(paths: StudyPaths, marker: bytes) -> bool:
    return any(marker in path.read_bytes() for path in paths.journal.glob("*.jsonl"))


def victims(cluster: Cluster, marker: bytes) -> list[psutil.Process]:
    """Wait until a worker runs a step, and return its agent and its process."""
    wait_for(lambda: begun(cluster.paths, marker), f"journal with {marker!r}")
    (agent,) = [agent for agent in cluster.agents() if agent.children()][:1]
    return [agent, *agent.children(recursive=True)]


def test_rows_are_those_of_a_local_run(cluster: Cluster, local_results: Results) -> None:
    cluster.profile(workers=2)
    printed = cluster.run().wait()
    assert "asked command for 2 workers" in printed
    check_complete(cluster.paths, local_results)
    assert finished_twice(cluster.paths) == []
    used = {
        attempt.started.pid
        for attempts in read_stored(cluster.paths).attempts.values()
        for attempt in attempts
    }
    assert len(used) == 2, "both workers ran trials"
    assert not cluster.paths.contact.exists()
    wait_for(lambda: not cluster.agents(), "end of the workers")


@pytest.mark.parametrize("step", ["load", "compress", "perplexity"])
def test_a_worker_that_is_killed_loses_one_attempt(
    cluster: Cluster, local_results: Results, step: str
) -> None:
    cluster.profile(workers=2)
    run = cluster.run()
    for process in victims(cluster, b'"step_started"' if step == "load" else f'"{step}'.encode()):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    printed = run.wait()
    assert "is gone" in printed
    check_complete(cluster.paths, local_results)
    assert len(finished_twice(cluster.paths)) <= 1


def test_a_process_that_dies_alone_leaves_its_agent_in_place(
    cluster: Cluster, local_results: Results
) -> None:
    cluster.profile(workers=1)
    run = cluster.run()
    _, process, *_ = victims(cluster, b'"compress')
    process.kill()
    run.wait()
    check_complete(cluster.paths, local_results)
    assert ends(cluster.paths)["failed"] == 1
    (lost,) = cluster.paths.all_lost()
    assert any(isinstance(record, AttemptFinished) for record in read_journal(lost))
    assert len(list(cluster.paths.workers.glob("*.sh"))) == 1, "no second worker was asked for"


def test_a_runner_that_is_killed_finds_its_workers_again(cluster: Cluster, local_results: Results) -> None:
    cluster.profile(workers=2)
    run = cluster.run()
    victims(cluster, b'"perplexity')
    agents = {agent.pid for agent in cluster.agents()}
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    again = cluster.run()
    printed = again.wait()
    assert "of an earlier run are taken over" in printed
    assert agents >= {worker.pid for worker in cluster.agents()}
    assert len(list(cluster.paths.workers.glob("*.sh"))) == 2, "no new worker was asked for"
    check_complete(cluster.paths, local_results)


def test_a_worker_that_was_suspended_ends_before_its_next_result(
    cluster: Cluster, local_results: Results
) -> None:
    cluster.profile(workers=2)
    run = cluster.run()
    suspended = victims(cluster, b'"perplexity')
    for process in suspended:
        process.suspend()
    before = {path: path.read_bytes() for path in cluster.paths.journal.glob("*.jsonl")}
    wait_for(lambda: run.printed("is gone"), "loss of the suspended worker")
    lost = [
        cluster.paths.attempt_journal(attempt.trial, attempt.attempt)
        for attempts in read_stored(cluster.paths).attempts.values()
        for attempt in attempts
        if attempt.state == "failed"
    ]
    for process in suspended:
        process.resume()
    run.wait()
    check_complete(cluster.paths, local_results)
    for path in lost:
        late = path.read_bytes()[len(before.get(path, b"")) :] if path.exists() else b""
        assert b'"step_finished"' not in late
        assert b'"attempt_finished"' not in late


def test_a_worker_that_is_told_to_end_stops_and_costs_no_retry(
    cluster: Cluster, local_results: Results
) -> None:
    cluster.profile(workers=1)
    run = cluster.run()
    agent, *_ = victims(cluster, b'"perplexity')
    agent.send_signal(signal.SIGUSR2)
    printed = " ".join(run.wait().split())
    assert f"on {socket.gethostname()} was told to end" in printed
    check_complete(cluster.paths, local_results)
    assert ends(cluster.paths)["failed"] == 0
    assert finished_twice(cluster.paths) == []


def test_a_worker_that_cannot_write_leaves_its_trial_to_another(
    cluster: Cluster, local_results: Results
) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a worker that sees the folder read-only needs a mount of its own: root")
    root, python = cluster.paths.root, cluster.folder / "python"
    python.write_text(
        f"""#!/bin/sh
        mkdir {cluster.folder}/first 2>/dev/null || exec {sys.executable} "$@"
        exec unshare -m sh -c 'mount --bind {root} {root} && mount -o remount,ro,bind {root} && exec {sys.executable} "$@"' sh "$@"
        """
    )
    python.chmod(0o755)
    cluster.profile(workers=1, more=f'python = "{python}"')
    printed = cluster.run().wait()
    assert "leaves: cannot write" in " ".join(printed.split())
    check_complete(cluster.paths, local_results)
    assert ends(cluster.paths)["failed"] == 0


def test_a_worker_can_be_asked_to_leave(cluster: Cluster, local_results: Results) -> None:
    cluster.profile(workers=1)
    run = cluster.run()
    wait_for(lambda: cluster.workers(), "worker")
    name = cluster.workers()[0].name
    # In this process: a command takes as long to start as the study takes to run.
    assert workers_as_json(cluster.paths)["workers"][0]["name"] == name
    assert "to leave after its trial" in ask_to_drain(cluster.paths, name)
    printed = run.wait()
    assert f"worker {name} on" in printed
    assert "left" in printed
    assert ends(cluster.paths)["failed"] == 0
    check_complete(cluster.paths, local_results)


def test_a_stopped_run_lets_its_workers_go(cluster: Cluster) -> None:
    cluster.profile(workers=1)
    run = cluster.run()
    victims(cluster, b'"compress')
    run.signal(signal.SIGTERM)
    assert run.process.wait(60) == ExitCode.STOPPED
    wait_for(lambda: not cluster.agents(), "end of the workers")
    assert not cluster.paths.contact.exists()


def test_a_dask_cluster_that_exists_is_used_twice_and_left_as_it_was(
    cluster: Cluster, local_results: Results
) -> None:
    path = cluster.profile(executor="dask")
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as dask:
        path.write_text(path.read_text() + f'[dask]\naddress = "{dask.scheduler_address}"\n')
        for _ in range(2):
            cluster.run().wait()
            check_complete(cluster.paths, local_results)
            shutil.rmtree(cluster.paths.root)
        assert len(dask.scheduler_info["workers"]) == 2


def test_a_stranger_is_refused(cluster: Cluster) -> None:
    cluster.profile(workers=1)
    run = cluster.run()
    wait_for(cluster.paths.contact.exists, "contact")
    assert cluster.paths.contact.stat().st_mode & 0o077 == 0
    contact = read_contact(cluster.paths.contact)
    assert contact is not None
    for address, security in (
        (contact.address, Security.temporary()),
        (contact.address.replace("tls://", "tcp://"), None),
    ):
        with pytest.raises(OSError, match=r"Timed out|TLS|SSL|closed|protocol"):
            Client(address, security=security, timeout="3s", set_as_default=False)
    run.wait()


class TestWrongProfiles:
    """A clear word within a minute, with the place in the profile."""

    def refused(self, cluster: Cluster, code: int) -> str:
        begun = time.monotonic()
        printed = cluster.run().wait(code)
        assert time.monotonic() - begun < 60
        return " ".join(printed.split())

    def test_no_torch_in_the_environment(self, cluster: Cluster, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "python").write_text('#!/bin/bash\necho "No module named torch" >&2\nexit 1\n')
        (bare / "python").chmod(0o755)
        cluster.profile(more=f'python = "{bare}/python"')
        printed = self.refused(cluster, ExitCode.FAILED)
        assert "3 workers in a row ended before they reached the runner" in printed
        assert "No module named torch" in printed
        assert "profiles/here.toml" in printed

    def test_a_command_that_is_not_there(self, cluster: Cluster) -> None:
        path = cluster.profile()
        path.write_text(path.read_text().replace("submit.sh {script}", "submitt.sh {script}"))
        printed = self.refused(cluster, ExitCode.FAILED)
        assert "submitt.sh` cannot be run on this machine: No such file" in printed
        assert "profiles/here.toml:11" in printed

    def test_a_check_that_fails_leaves_the_log_that_it_names(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(cluster.folder)
        monkeypatch.setattr(allocations, "FIRST_LIST_SECONDS", 0.1)
        monkeypatch.setattr(allocations, "LIST_SECONDS", 0.1)
        cluster.profile(more='setup = ["module load cuda"]')
        file = load_profile("here")
        assert file is not None
        with pytest.raises(StudyError, match="module: command not found") as caught:
            check_profile(file, "cpu", print)
        log = Path(caught.value.problems[0].hint.removeprefix("see "))
        assert "module: command not found" in log.read_text()

    def test_setup_that_fails(self, cluster: Cluster) -> None:
        cluster.profile(more='setup = ["module load cuda"]')
        assert "module: command not found" in self.refused(cluster, ExitCode.FAILED)

    def test_a_profile_that_does_not_exist(self, cluster: Cluster) -> None:
        cluster.profile("hpc")
        printed = " ".join(cluster.run("hpx").wait(ExitCode.BAD_SPEC).split())
        assert "there is no profile `hpx`" in printed
        assert "did you mean `hpc`?" in printed
