"""What a run costs beside its work: ``studyctl run`` against the same work bare, in one process that writes nothing down.

Both start a Python that imports torch, load the model, and compress and measure the same trials in the same order by the
same methods of the engine. Only ``studyctl run`` plans, keeps a worker, writes journals, publishes and reports.
"""

import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from benchmarks.page import note, table
from benchmarks.timing import command_seconds, in_turns
from studyctl.contract.job import Job
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.plan.compare import compare
from studyctl.plan.planner import make_plan
from studyctl.run.jobs import Queue, make_job
from studyctl.spec.loading import load_spec

LAYERS = 10
"""Of 1.8 M parameters."""
SAMPLES = 32
WINDOWS = 32
LENGTH = 256
ROUNDS = 4
GOAL = 0.02


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        spec = _make_study(folder)
        jobs = _jobs(spec, folder / "bare" / "work")
        listed = folder / "jobs.jsonl"
        listed.write_text("".join(job.model_dump_json() + "\n" for job in jobs))
        cases = {
            "bare": partial(_bare, folder, listed),
            "studyctl run": partial(_studyctl, folder, spec),
        }
        cases["bare"]()  # tokenises the texts, which are in the cache from now on
        timings = in_turns(cases, ROUNDS)
    bare = timings["bare"].median
    table(
        (
            f"{len(jobs)} trials, {sum(len(job.steps) for job in jobs)} steps",
            "median (quartiles)",
            "more",
            "ratio",
        ),
        [
            (label, str(timing), f"{timing.median - bare:+.2f} s", f"{timing.median / bare:.4f} ×")
            for label, timing in timings.items()
        ],
    )
    note(f"goal: under {GOAL:.0%} more for a minute of work; {ROUNDS} rounds in turns, A B B A")


def _make_study(folder: Path) -> Path:
    from benchmarks.studies import make_study

    make = partial(make_study, folder, layers=LAYERS, samples=SAMPLES, windows=WINDOWS, length=LENGTH)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # keeps torch out of this one
        spec = process.submit(make).result()
    time.sleep(3)  # nothing is remembered of a file that changed just now
    return spec


def _jobs(spec: Path, root: Path) -> list[Job]:
    """Return what the runner would give its worker, in its order."""
    with patch.dict("os.environ", STUDYCTL_CACHE=str(spec.parent / "cache")):
        plan = make_plan(load_spec(spec))
    plan.raise_errors()
    todo = Queue(compare(plan, Stored(), None).todo)
    dense = next(trial.weights_key for trial in plan.trials if trial.is_dense)
    jobs = []
    while (entry := todo.next([], None)) is not None:
        todo.remove(entry)
        jobs.append(make_job(StudyPaths(root), plan, entry, Stored(), plan.devices[0], dense))
    return jobs


def _bare(folder: Path, jobs: Path) -> float:
    checkout = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "benchmarks.bare", str(jobs)]
    return _afresh(folder / "bare", command, folder, PYTHONPATH=checkout)


def _studyctl(folder: Path, spec: Path) -> float:
    command = [str(Path(sys.executable).with_name("studyctl")), "run", str(spec)]
    return _afresh(folder / "runs", command, folder, STUDYCTL_RUNS=str(folder / "runs"))


def _afresh(results: Path, command: list[str], folder: Path, **environment: str) -> float:
    """Return the seconds of a command that finds no results of an earlier round."""
    shutil.rmtree(results, ignore_errors=True)
    return command_seconds(command, folder, STUDYCTL_CACHE=str(folder / "cache"), **environment)
