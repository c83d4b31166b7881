"""Which files of a study are still to be timed on this machine, and how long that takes."""

import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.steps import Step, StepKind
from studyctl.files import StudyPaths
from studyctl.journal.speed import read_sessions
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Comparison
from studyctl.plan.devices import rate
from studyctl.plan.planner import StudyPlan
from studyctl.spec.models import Speed

RUNTIME = "llama.cpp"
START_SECONDS = 0.6
"""Of a process that times a file."""
LEAST_SECONDS = 1.0
"""Of both phases of a small model, which are repeated."""
BYTES_PER_SECOND = 6e9
"""Of weights that one token reads, on a computer with two channels of memory."""


class Deployable(NamedTuple):
    """A trial that may have a file."""

    trial: str
    weights_key: str | None
    steps: tuple[Step, ...]
    is_dense: bool


@dataclass(frozen=True, slots=True)
class DeployedFile:
    """The file of a trial's current weights."""

    trial: str
    weights_key: str
    weights_hash: str | None
    """None: dense."""
    path: Path
    bytes: int
    is_dense: bool


def deployed_files(paths: StudyPaths, stored: Stored, trials: Iterable[Deployable]) -> list[DeployedFile]:
    """Return the files that trials of a model have, dense first; one that is not in the cache can be written again."""
    files = []
    for trial, key, steps, is_dense in trials:
        facts = stored.file_of(key, steps)
        if key is not None and facts is not None and facts.bytes is not None:
            weights_hash = stored.results_of(key, steps).weights_hash
            path = paths.deployed(key, weights_hash)
            files.append(DeployedFile(trial, key, weights_hash, path, facts.bytes, is_dense))
    return sorted(files, key=lambda file: not file.is_dense)


def to_time(paths: StudyPaths, plan: StudyPlan, stored: Stored) -> dict[str, list[DeployedFile]]:
    """Return the written files that were not timed here, by model, each with dense before them; none on a cluster.

    Raises:
        StudyError: a journal is damaged in the middle.
    """
    speed = plan.document.spec.evaluation.speed
    if speed is None or plan.place.is_cluster:
        return {}
    models: dict[str, list[DeployedFile]] = {}
    for model in plan.models:
        if any(step.kind is StepKind.DEPLOY for step in model.steps):
            trials = [
                Deployable(trial.id, trial.weights_key, trial.steps, trial.is_dense)
                for trial in plan.trials
                if trial.model is model
            ]
            files = deployed_files(paths, stored, trials)
            new = {file.trial for file in untimed(paths, files, speed) if not file.is_dense}
            if new and files[0].is_dense:
                models[model.spec.id] = [file for file in files if file.is_dense or file.trial in new]
    return models


def untimed(paths: StudyPaths, files: Sequence[DeployedFile], speed: Speed) -> list[DeployedFile]:
    """Return the files that no complete session has timed on this kind of processor, with this runtime and these settings.

    Raises:
        StudyError: a journal is damaged in the middle.
    """
    from studyctl.llama import kernels  # numpy, which few plans need

    here = (RUNTIME, kernels(), cpu_name(), speed.prompt, speed.generate)
    names = ("runtime", "build", "cpu", "prompt", "generate")
    timed = {
        (run.weights_key, run.weights_hash, run.threads)
        for session in read_sessions(paths)
        if session.is_complete and here == tuple(getattr(session.started, name) for name in names)
        for run in session.runs
    }
    threads = threads_of(speed)
    return [
        file
        for file in files
        if any((file.weights_key, file.weights_hash, number) not in timed for number in threads)
    ]


def threads_of(speed: Speed) -> tuple[int, ...]:
    """Return the numbers of threads to time with: by default this machine's cores that the process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return speed.threads or (min(psutil.cpu_count(logical=False) or usable, usable),)


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Timing:
    """What is timed after everything else."""

    files: int
    seconds: float
    """With the least number of rounds; a machine that is not quiet needs more."""


def expected_timing(
    plan: StudyPlan, comparison: Comparison, written: dict[str, list[DeployedFile]]
) -> Timing:
    """Estimate the time of all sessions, of files that are written already and of those that trials to run will write."""
    speed, files, seconds = plan.document.spec.evaluation.speed, 0, 0.0
    for model in plan.models if speed is not None and not plan.place.is_cluster else ():
        to_write = [
            todo.trial
            for todo in comparison.todo
            if todo.trial.model is model and any(step.kind is StepKind.DEPLOY for step in todo.steps)
        ]
        of_model = len(written.get(model.spec.id, ())) + len(to_write)
        if of_model and model.identity is not None and speed is not None:
            files += of_model
            seconds += (of_model + 1) * speed.rounds * _process_seconds(model.identity, model.dtype, speed)
    return Timing(files, seconds)


def _process_seconds(model: ModelIdentity, dtype: str, speed: Speed) -> float:
    """Return the seconds of the processes that time a dense file once with each number of threads."""
    operations = 2.0 * model.parameters * speed.prompt
    read = model.parameters * (4 if dtype == "float32" else 2)
    seconds = 0.0
    for threads in threads_of(speed):
        prefill = operations / (rate("cpu", "float32", model.hidden_size) * threads / (os.cpu_count() or 1))
        seconds += START_SECONDS + max(LEAST_SECONDS, prefill + speed.generate * read / BYTES_PER_SECOND)
    return seconds
