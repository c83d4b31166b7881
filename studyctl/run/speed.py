"""Times the files of a study: those of a model together, alone on this machine, in rounds."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec import structs

from studyctl import __version__
from studyctl.contract.job import StopWhen
from studyctl.contract.records import SCHEMA, SpeedFinished, SpeedRun, SpeedStarted
from studyctl.contract.speed import Phase
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.findings.speed import Session
from studyctl.journal.files import JournalWriter
from studyctl.llama import INSTALL, kernels
from studyctl.plan.timing import RUNTIME, DeployedFile, cpu_name, threads_of
from studyctl.signals import how_it_ended
from studyctl.spec.models import Speed
from studyctl.work.timing import Timing

WAIT_SECONDS = 0.25
"""How long a look at the process that is timed waits: rarely, as the look itself takes time."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""numpy's threads would wait in a loop beside the runtime's."""


class StoppedError(Exception):
    """The user asked to stop."""


class Timer:
    """Times files in a session of its own."""

    def __init__(
        self,
        paths: StudyPaths,
        speed: Speed,
        wait: Callable[[str], StopWhen | None],
        tell: Callable[[str], None],
    ) -> None:
        """Take the study and the settings.

        Args:
            paths: the study, which the caller holds.
            speed: the settings.
            wait: is called a few times a second with what is timed now; returns whether to stop.
            tell: shows a line to the user.
        """
        self._paths, self._speed, self._wait, self._tell = paths, speed, wait, tell
        self._at = ""
        """What is timed now, for people."""

    def time(self, model: str, files: Sequence[DeployedFile]) -> None:
        """Time the files of a model, dense among them.

        Raises:
            StoppedError: the user asked to stop; what was timed stays in the journal of an incomplete session.
            StudyError: the journal cannot be written, or dense cannot be timed.
        """
        if (build := kernels()) is None:
            raise StudyError("llama.cpp's library is not here", hint=INSTALL)
        speed, threads = self._speed, threads_of(self._speed)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
        about = (
            f"{len(files)} files, {' and '.join(map(str, threads))} thread{'s' if threads != (1,) else ''}"
        )
        self._tell(f"speed of {model}: {about}, {speed.rounds} to {speed.max_rounds} rounds")
        runs: list[SpeedRun] = []
        with JournalWriter(self._paths.speed / f"{name}.jsonl", new=True) as journal:
            journal.write(
                SpeedStarted(
                    schema=SCHEMA,
                    studyctl=__version__,
                    model=model,
                    host=socket.gethostname(),
                    cpu=cpu_name(),
                    runtime=RUNTIME,
                    build=build,
                    prompt=speed.prompt,
                    generate=speed.generate,
                    rounds=speed.rounds,
                    most_rounds=speed.max_rounds,
                )
            )
            for number in range(speed.max_rounds):
                self._at = f"speed of {model}, round {number + 1}"
                for run in self._round(
                    number, files, threads, failed={run.file for run in runs if run.error}
                ):
                    journal.write(run)
                    runs.append(run)
                    if run.error:
                        self._tell(f"! {run.file} is not timed: {run.error}")
                    if run.error and run.file == files[0].trial:
                        raise StudyError(
                            f"dense cannot be timed, so nothing is compared with it: {run.error}"
                        )
                if number + 1 >= speed.rounds and is_quiet(runs, files[0].trial, threads):
                    break
            journal.write(SpeedFinished(rounds=number + 1))
        self._tell(f"speed of {model}: timed in {number + 1} rounds")

    def _round(
        self, number: int, files: Sequence[DeployedFile], threads: Sequence[int], failed: set[str]
    ) -> Iterator[SpeedRun]:
        """Time every file once with each number of threads, dense twice, in an order that is drawn."""
        order = [
            (file, copy, with_threads)
            for file in files
            if file.trial not in failed
            for copy in ((0, 1) if file.is_dense else (0,))
            for with_threads in threads
        ]
        random.shuffle(order)
        for place, (file, copy, with_threads) in enumerate(order):
            run = SpeedRun(
                file=file.trial,
                weights_key=file.weights_key,
                weights_hash=file.weights_hash,
                file_bytes=file.path.stat().st_size if file.path.exists() else file.bytes,
                copy=copy,
                round=number,
                place=place,
                threads=with_threads,
            )
            timing = self._process(file.path, with_threads)
            yield (
                structs.replace(run, error=timing)
                if isinstance(timing, str)
                else structs.replace(run, **structs.asdict(timing))
            )
            if self._wait(self._at) is not None:
                raise StoppedError

    def _process(self, file: Path, threads: int) -> Timing | str:
        """Time a file in a process of its own; return why it cannot be timed instead, on one line."""
        numbers = map(str, (threads, self._speed.prompt, self._speed.generate))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "studyctl.work.timing", str(file), *numbers],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _ONE_THREAD,
            start_new_session=True,  # Ctrl-C is for the runner
        )
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    printed, errors = process.communicate(timeout=WAIT_SECONDS)
                    break
                if self._wait(self._at) == "now":
                    raise StoppedError
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode == 0:
            return msgspec.json.decode(printed, type=Timing)
        return how_it_ended("its process", process.returncode, errors.decode(errors="replace").splitlines())


def is_quiet(runs: Sequence[SpeedRun], dense: str, threads: Sequence[int]) -> bool:
    """Return whether dense against itself is known well enough, in both phases and with each number of threads."""
    sessions = [Session(runs, dense, number) for number in threads]
    itself = [session.against_itself(phase) for session in sessions for phase in Phase]
    return all(ratio is not None and ratio.fits_band for ratio in itself)


def forget_files(paths: StudyPaths, most_bytes: int) -> None:
    """Delete the files that were used longest ago, down to so many bytes."""
    files = sorted(paths.deployed("", None).parent.glob("*.gguf"), key=lambda path: -path.stat().st_mtime)
    for path in files:
        most_bytes -= path.stat().st_size
        if most_bytes < 0:
            path.unlink()
