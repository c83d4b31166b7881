"""Killed at any moment, started again at once: nothing acknowledged runs twice, and the results are those of an undisturbed run.

``STUDYCTL_KILLS`` sets how many kills are tried (6; more takes longer).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from studyctl.contract.records import StepFinished
from studyctl.contract.steps import StepKind
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.store.query import run_sql
from tests.run.studies import write_spec

Results = dict[str, list[dict[str, object]]]
KILLS = int(os.environ.get("STUDYCTL_KILLS", "6"))
RESULTS = {
    "perplexity": "select trial_id, language, nll_nats, bits_per_byte from perplexity order by all",
    "windows": "select trial_id, language, \"window\", nll_nats from windows order by all",
    "fidelity": "select trial_id, language, kl_nats, kl_p95_nats, top1, snr_db from fidelity order by all",
    "activations": "select trial_id, language, block, snr_db from activations order by all",
    "tasks": "select trial_id, task, metric, value from tasks order by all",
    "items": "select trial_id, task, item, predicted, loglikelihoods from items order by all",
    "item_texts": "select item, prompt, choices from item_texts order by all",
    "layers": "select trial_id, block, linear, relative_error, sparsity from layers order by all",
}  # fmt: skip

EVERYTHING = ("[evaluation.fidelity]", "[evaluation.fidelity]\nactivations = true")


def results(paths: StudyPaths) -> Results:
    return {name: run_sql(paths, query).to_pylist() for name, query in RESULTS.items()}


def start(spec: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "studyctl", "run", str(spec), *options]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def workers_of(runner: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(runner.pid).children()
    except psutil.NoSuchProcess:
        return []


def kill(runner: subprocess.Popen[bytes], whom: str) -> list[psutil.Process]:
    """Kill, and return the processes that must be gone soon."""
    workers = workers_of(runner)
    if whom == "group":
        os.killpg(runner.pid, signal.SIGKILL)
    elif whom == "worker":
        for worker in workers:
            worker.kill()
        return []
    else:
        runner.kill()
        if whom == "both":
            for worker in workers:
                worker.kill()
    runner.wait()
    return workers


@pytest.fixture(scope="module")
def undisturbed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, float]:
    """Results of a run that nobody disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        begun = time.monotonic()
        started = run_study(write_spec(folder, change=EVERYTHING), Selection(), Console(quiet=True))
        assert started.code == ExitCode.DONE
        return results(started.paths), time.monotonic() - begun
    finally:
        os.chdir(before)


def check_complete(paths: StudyPaths, expected: Results) -> None:
    """A study that was killed and run again has the same results, and ran nothing twice that was acknowledged."""
    assert results(paths) == expected
    done = Counter(
        (record.trial, record.step)
        for path in paths.journal.glob("*.jsonl")
        for record in read_journal(path)
        if isinstance(record, StepFinished) and record.step.kind is not StepKind.LOAD
    )
    assert max(done.values()) == 1, "an acknowledged step was run twice"


def test_kills_lose_nothing(workplace: Path, undisturbed: tuple[Results, float]) -> None:
    expected, seconds = undisturbed
    spec = write_spec(workplace, change=EVERYTHING)
    paths = StudyPaths(workplace / "runs" / "small")
    moments = random.Random(7)
    kills = 0
    while kills < KILLS:
        runner = start(spec)
        with contextlib.suppress(subprocess.TimeoutExpired):
            runner.wait(timeout=moments.uniform(0.3, seconds))
        if runner.poll() is not None:  # what earlier kills left was done before this one came
            check_complete(paths, expected)
            shutil.rmtree(paths.root)
            continue
        whom = ("runner", "worker", "both", "group")[kills % 4]
        gone = kill(runner, whom)
        kills += 1
        _, alive = psutil.wait_procs(gone, timeout=2)
        # Whom nobody has asked for its exit code yet is dead all the same.
        alive = [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]
        assert not alive, "a worker outlived its runner"
        if whom == "worker":
            runner.wait(timeout=120)
    assert start(spec).wait(timeout=180) == ExitCode.DONE
    check_complete(paths, expected)
