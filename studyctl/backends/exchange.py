"""Calls a backend's adapter in its own environment, and reads the driver's reports."""

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from studyctl.signals import how_it_ended, last_lines

DRIVER = Path(__file__).parent / "driver.py"
POLL_SECONDS = 0.25
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
"""Variables that would make packages of another environment visible."""


class DriverCause(StrEnum):
    """Why a package gave no result; the driver reports all but the last."""

    ERROR = "error"
    NOT_IMPORTED = "not_imported"
    OUT_OF_MEMORY = "out_of_memory"
    READ_OTHERWISE = "read_otherwise"
    """Its transformers reads another model from the same files."""
    KILLED = "killed"


@dataclass
class Outcome:
    """How a call ended."""

    versions: dict[str, str] = field(default_factory=dict)
    """Of the package and of the libraries that it uses."""
    done: bool = False
    """Whether the adapter finished."""
    seconds: float = 0.0
    """Time of the compression alone."""
    peak_memory_bytes: int = 0
    """Largest resident memory of its process while it compressed."""
    failure: str | None = None
    """Why there is no result, in the package's own words; None: there is one."""
    cause: DriverCause | None = None
    """None where there is a result."""


def clean_environment(*, network: bool = True, threads: int | None = None) -> dict[str, str]:
    """Return the environment variables of a process that sees only its own packages.

    Args:
        network: False: hub libraries work offline (and the driver refuses connections).
        threads: of tensor operations; None: the library's default.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _OURS}
    if not network:
        variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if threads is not None:
        variables |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return variables | {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}


def call_driver(
    python: Path,
    adapter: Path,
    task: Mapping[str, Any] | None,
    *,
    log: Path,
    hear: Callable[[Mapping[str, Any]], None] = lambda record: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run an adapter in its environment until it ends. If this process ends, so do the adapter's and all that it started.

    Args:
        python: the environment's interpreter.
        adapter: the backend's script.
        task: what :class:`studyctl.backends.driver.Task` reads; None: only import the package.
        log: file to which the package's output is appended.
        hear: is called with every ``progress`` record.
        meanwhile: is called several times a second; an exception in it ends the adapter's process.

    Returns:
        The adapter's result, or how it failed.
    """
    with tempfile.TemporaryDirectory() as scratch, log.open("ab") as printed:
        before = printed.seek(0, os.SEEK_END)
        command = [str(python), "-I", "-u", str(DRIVER), str(adapter)]  # -I ignores PYTHONUNBUFFERED
        if task is not None:
            (path := Path(scratch) / "task.json").write_text(json.dumps(task), "utf-8")
            command.append(str(path))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            cwd=scratch,  # some packages write files into the working directory
            text=True,
            encoding="utf-8",
            env=clean_environment(
                network=task is not None and task["network"], threads=task["threads"] if task else None
            ),
            start_new_session=True,  # a process group with all that the package starts
        )
        outcome = Outcome()
        try:
            _listen(process, outcome, hear, meanwhile)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if outcome.failure is None and (process.returncode or (task is not None and not outcome.done)):
        outcome.cause = DriverCause.KILLED if process.returncode < 0 else DriverCause.ERROR
        lines = last_lines(log, before)
        if process.returncode == 0 and not lines:
            lines = ["its process ended without a result"]
        outcome.failure = how_it_ended("its process", process.returncode, lines)
    return outcome


def _listen(
    process: subprocess.Popen[str],
    outcome: Outcome,
    hear: Callable[[Mapping[str, Any]], None],
    meanwhile: Callable[[], None],
) -> None:
    records: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        with suppress(ValueError):  # the last line of a process that was killed while it wrote
            for line in process.stdout or ():
                records.put(json.loads(line))
        records.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            record = records.get(timeout=POLL_SECONDS)
        except queue.Empty:
            meanwhile()
            continue
        if record is None:
            break
        if record["kind"] == "progress":
            hear(record)
        elif record["kind"] == "versions":
            outcome.versions = record["versions"]
        elif record["kind"] == "done":
            outcome.done = True
            outcome.seconds, outcome.peak_memory_bytes = record["seconds"], record["peak_memory_bytes"]
        elif record["kind"] == "failed":
            outcome.failure, outcome.cause = record["error"], DriverCause(record["cause"])
        meanwhile()
    process.wait()
