"""How soon a worker is there, and how soon its runner knows that it was killed. Imports torch."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.page import note, table
from benchmarks.timing import Timing, command_seconds
from tests.cluster.studies import Cluster, Run, wait_for
from tests.run.studies import make_sources

ROUNDS, STOP_SECONDS = 3, 60
READY_GOAL, KILLED_GOAL = 1.8, 0.2


def show() -> None:
    """Measure on workers of this machine, or on Slurm where there is one."""
    has_slurm = (
        shutil.which("sbatch") and not subprocess.run(["sinfo"], capture_output=True, check=False).returncode
    )
    executor = "slurm" if has_slurm else "command"
    imports = median(_import_seconds() for _ in range(ROUNDS))
    ready, killed = measure(executor)
    table(
        (f"a worker by `{executor}`", "median (extremes)", "goal"),
        [
            ("submitted to ready", str(ready), f"≤ {READY_GOAL + imports:.1f} s"),
            (
                "SIGKILL to noticed",
                str(killed) if killed.rounds else "workers are on other machines",
                f"≤ {KILLED_GOAL} s",
            ),
        ],
    )
    note(
        f"{ROUNDS} rounds in one run; ready: its agent has started and connected, and the runner knows its versions (torch is imported "
        f"with the first trial); the first goal is {READY_GOAL} s and the {imports:.1f} s in which the agent is imported"
    )


def _import_seconds() -> float:
    return command_seconds([sys.executable, "-c", "import studyctl.workers.node"], Path())


def measure(executor: str) -> tuple[Timing, Timing]:
    """Run a study on one worker, and kill it again and again.

    Returns:
        The seconds from submission to a worker that can take a trial, and those from SIGKILL during a trial to the runner's word.
    """
    ready, killed = [], []
    with TemporaryDirectory(dir="." if executor == "slurm" else None) as name:  # Slurm's nodes share no /tmp
        folder = Path(name).resolve()
        make_sources(folder)
        cluster = Cluster(folder, environment={"PYTHONUNBUFFERED": "1"})
        profile = cluster.profile(executor=executor, workers=1)
        if executor == "slurm":
            profile.write_text(profile.read_text().replace('host = "127.0.0.1"\n', ""))
        run = cluster.run()
        try:
            for number in range(ROUNDS):
                _wait_for(run, r"asked \w+ for a worker", number)
                submitted = time.perf_counter()
                _wait_for(run, r"\+ worker", number)
                ready.append(time.perf_counter() - submitted)
                _wait_for(run, "▶", number)
                if not (agents := cluster.agents()):
                    break
                begun = time.perf_counter()
                agents[0].kill()
                _wait_for(run, r"- worker \S+ on \S+ is gone", number)
                killed.append(time.perf_counter() - begun)
        finally:
            run.signal(signal.SIGTERM)
            run.process.wait(STOP_SECONDS)
            cluster.end()
    return Timing(tuple(ready)), Timing(tuple(killed))


def _wait_for(run: Run, pattern: str, number: int) -> None:
    """Wait until a run has printed something for the ``number``-th time, from 0."""
    wait_for(lambda: len(re.findall(pattern, run.log.read_text())) > number, pattern)
