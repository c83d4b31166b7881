"""Studies on a real Slurm of three nodes."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from studyctl.errors import ExitCode
from studyctl.journal.index import read_stored
from tests.cluster.slurm import Slurm
from tests.cluster.studies import Cluster, Results, wait_for
from tests.cluster.test_command import check_complete, ends, finished_twice, victims

pytestmark = pytest.mark.cluster


@pytest.fixture
def on_slurm(cluster: Cluster, slurm: Slurm) -> Cluster:
    cluster.environment = {"SLURM_CONF": str(slurm.configuration)}
    return cluster


def test_twelve_trials_on_three_nodes(on_slurm: Cluster, local_results: Results) -> None:
    on_slurm.profile(executor="slurm", workers=3, more='memory = "4000 MiB"\ntime = "10 min"')
    run = on_slurm.run()
    wait_for(lambda: len(on_slurm.workers()) == 3, "three workers")
    assert {worker.host for worker in on_slurm.workers()} == {"n1", "n2", "n3"}
    run.wait()
    check_complete(on_slurm.paths, local_results)
    assert finished_twice(on_slurm.paths) == []


def test_a_node_that_dies_loses_one_attempt(on_slurm: Cluster, slurm: Slurm, local_results: Results) -> None:
    on_slurm.profile(executor="slurm", workers=2, more='memory = "3000 MiB"')
    run = on_slurm.run()
    wait_for(lambda: any(worker.trial for worker in on_slurm.workers()), "running trial")
    (worker,) = [worker for worker in on_slurm.workers() if worker.trial][:1]
    slurm.end(f"slurmd.{worker.host}.pid")
    (agent,) = [agent for agent in on_slurm.agents() if worker.name in agent.cmdline()]
    for process in [*agent.children(recursive=True), agent]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    try:
        run.wait()
        check_complete(on_slurm.paths, local_results)
    finally:
        slurm.start_node(worker.host)
        slurm.run("scancel", "--user=root")  # a fast study ends before Slurm takes the node for dead
        wait_for(lambda: not slurm.run("squeue", "-h"), "end of all jobs")


def test_a_partition_that_does_not_exist_is_named_at_its_place(on_slurm: Cluster) -> None:
    on_slurm.profile(executor="slurm", more='[slurm]\npartition = "gpuu"')
    printed = " ".join(on_slurm.run().wait(ExitCode.FAILED).split())
    assert "invalid partition specified: gpuu" in printed
    assert "profiles/here.toml:10" in printed


def test_what_waits_is_shown_with_slurms_reason(on_slurm: Cluster, slurm: Slurm) -> None:
    on_slurm.profile(executor="slurm", workers=1, more='memory = "5000 MiB"')
    taken = [
        slurm.run("sbatch", "--parsable", "--mem=5000M", "--wrap", "sleep 300").strip() for _ in range(3)
    ]
    try:
        run = on_slurm.run()
        wait_for(lambda: run.printed("pending: Resources") or run.printed("pending: Priority"), "reason")
        holder = on_slurm.holder()
        assert holder is not None
        wait_for(
            lambda: (held := on_slurm.holder()) and held.waiting and held.waiting[0].reason,
            "reason in the file",
        )
        run.signal(signal.SIGTERM)
        assert run.process.wait(60) == ExitCode.STOPPED
        assert "studyctl" not in slurm.run("squeue", "-ho", "%j"), "nothing of the study waits any more"
    finally:
        slurm.run("scancel", *taken)


def test_a_time_limit_stops_the_worker_and_another_goes_on(
    on_slurm: Cluster, slurm: Slurm, local_results: Results
) -> None:
    on_slurm.profile(executor="slurm", workers=1)
    run = on_slurm.run()
    wait_for(lambda: any(worker.trial for worker in on_slurm.workers()), "running trial")
    (job,) = slurm.run("squeue", "-ho", "%i").split()
    slurm.run("scancel", "--batch", "--signal=USR2", job)
    run.wait()
    check_complete(on_slurm.paths, local_results)
    assert ends(on_slurm.paths)["failed"] == 0
    assert (
        len({attempt.started.pid for one in read_stored(on_slurm.paths).attempts.values() for attempt in one})
        == 2
    )


def test_a_preempted_worker_stops_and_another_goes_on(
    on_slurm: Cluster, slurm: Slurm, local_results: Results
) -> None:
    on_slurm.profile(executor="slurm", workers=1)
    run = on_slurm.run()
    _, process = victims(on_slurm, b'"step_started"')
    (job,) = slurm.run("squeue", "-ho", "%i").split()
    process.suspend()  # else it would be done before Slurm looks
    slurm.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--wrap", "sleep 1")
    wait_for(lambda: "COMPLETING" in slurm.run("squeue", "-hj", job, "-o", "%T"), "preemption", 30)
    process.resume()
    run.wait()
    check_complete(on_slurm.paths, local_results)
    assert ends(on_slurm.paths)["failed"] == 0
    assert ends(on_slurm.paths)["stopped"] == 1


def test_a_profile_is_checked_with_one_worker(on_slurm: Cluster) -> None:
    on_slurm.profile(executor="slurm", more='time = "10 min"')
    checked = subprocess.run(
        [sys.executable, "-m", "studyctl", "profile", "check", "here"],
        cwd=on_slurm.folder, env=os.environ | on_slurm.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "what it writes is seen here" in checked.stdout
    assert "9 min" in checked.stdout or "10 min" in checked.stdout
    assert list((on_slurm.folder / "runs").iterdir()) == []


def test_the_runner_can_be_a_job_itself(on_slurm: Cluster, local_results: Results) -> None:
    path = on_slurm.profile(executor="slurm", workers=1)
    path.write_text('driver = "job"\n' + path.read_text())
    printed = on_slurm.run().wait()
    assert "the runner of small is job" in printed
    wait_for(
        lambda: on_slurm.paths.runner_log.exists() and "finished" in on_slurm.paths.runner_log.read_text(),
        "end",
    )
    check_complete(on_slurm.paths, local_results)
