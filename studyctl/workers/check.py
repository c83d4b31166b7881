"""``studyctl profile check``: asks for one worker as a run would, and says what it is."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, runs_folder
from studyctl.spec.profiles import ProfileFile
from studyctl.workers.cluster import ClusterPool, ClusterWorker
from studyctl.workers.pool import TICK_SECONDS

_LOOK = """
import json, torch
gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
native = [torch.cuda.get_device_capability(number) >= (8, 0) for number in range(torch.cuda.device_count())]
memory = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
print(json.dumps({"gpus": gpus, "bfloat16": all(native), "memory": memory}))
"""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a worker of a profile is."""

    host: str
    seconds: float
    """From asking for it until it was there."""
    seconds_left: float | None
    """Of its time; None: no limit is known."""
    cores: int
    gpus: list[str]
    gpu_bytes: list[int]
    bfloat16: bool
    """Whether every GPU computes it natively."""
    written: bool
    """Whether a file that it wrote is seen here."""


def check_profile(file: ProfileFile, device: str, say: Callable[[str], None]) -> Checked:
    """Ask for one worker, look at it, and let it go.

    Args:
        file: the profile.
        device: that a study is planned for.
        say: is told what happens.

    Raises:
        StudyError: no worker comes, or it cannot work for a runner of this machine.
    """
    paths = StudyPaths(runs_folder() / f".check-{uuid4().hex[:8]}")
    paths.root.mkdir(parents=True)
    begun = time.monotonic()
    worker: ClusterWorker | None = None
    try:
        pool = ClusterPool(paths, file, uuid4().hex, device, say)
        try:
            worker = _first_worker(pool)
            seconds = time.monotonic() - begun
            mark = paths.root.resolve() / "seen"
            about = pool.ask(worker, look, str(mark))
            written = _appears(mark)
        finally:
            pool.close()
    finally:
        if worker is not None or not any(paths.workers.glob("*.log")):
            shutil.rmtree(paths.root)  # else the error names a log
    checked = Checked(
        worker.host,
        seconds,
        worker.lifetime,
        about["cores"],
        about["gpus"],
        about["memory"],
        about["bfloat16"],
        written,
    )
    if device != "cpu" and not checked.gpus:
        problem = file.problem(
            f"the worker on {worker.host} has no GPU that torch can use",
            ("worker", "device"),
            "it needs a job with a GPU, and a torch that was built for CUDA (`setup`, `python`)",
        )
        raise StudyError(problem)
    return checked


def _first_worker(pool: ClusterPool) -> ClusterWorker:
    while True:
        for worker in pool.free(1):
            assert isinstance(worker, ClusterWorker)
            return worker
        for _ in pool.events():
            pass


def _appears(path: Path, seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.name in os.listdir(path.parent):
            return True
        time.sleep(TICK_SECONDS)
    return False


def look(mark: str) -> dict[str, object]:
    """Return what a worker has, and leave a file; a task of Dask."""
    Path(mark).touch()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise StudyError(f"torch cannot be imported there: {asked.stderr.strip().splitlines()[-1]}")
    about: dict[str, object] = json.loads(asked.stdout)
    return about | {"cores": cores}
