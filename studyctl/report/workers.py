"""``studyctl workers`` and ``studyctl profile check``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from studyctl.files import StudyPaths
from studyctl.printable import on_one_line
from studyctl.report.layout import Column, print_tables
from studyctl.spec.profiles import ProfileFile
from studyctl.store.holder import needed_runner
from studyctl.units import bytes_text, duration_text

if TYPE_CHECKING:
    from studyctl.workers.check import Checked


def draw_workers(paths: StudyPaths, console: Console) -> None:
    """Print the workers of a running study, and those that wait.

    Raises:
        StudyError: nobody runs it.
    """
    runner = needed_runner(paths)
    if not runner.workers and not runner.waiting:
        console.print(f"{paths.name}: no workers yet", soft_wrap=True, markup=False)
        return
    states = [
        *(
            f"▶ {worker.trial} (attempt {worker.attempt})" if worker.trial else "free"
            for worker in runner.workers
        ),
        *(f"waits, job {waiting.job}: {waiting.reason or 'starts'}" for waiting in runner.waiting),
    ]
    leaves = [", leaves" if worker.leaves else "" for worker in runner.workers] + [""] * len(runner.waiting)
    names = [*(worker.name for worker in runner.workers), *(waiting.name for waiting in runner.waiting)]
    empty = [""] * len(runner.waiting)
    hosts = [*(worker.host or runner.host for worker in runner.workers), *empty]
    devices = [*(worker.device for worker in runner.workers), *empty]
    columns = [
        Column("host", [Text(on_one_line(host)) for host in hosts], left=True),
        Column("device", [Text(on_one_line(device)) for device in devices], left=True),
        Column(
            "",
            [Text(on_one_line(f"{state}{end}")) for state, end in zip(states, leaves, strict=True)],
            left=True,
        ),
    ]
    print_tables(console, "worker", [Text(on_one_line(name)) for name in names], columns)


def workers_as_json(paths: StudyPaths) -> dict[str, Any]:
    """Return the workers of a running study, and those that wait.

    Raises:
        StudyError: nobody runs it.
    """
    runner = needed_runner(paths)
    return {
        "workers": [asdict(worker) for worker in runner.workers],
        "waiting": [asdict(waiting) for waiting in runner.waiting],
    }


def draw_checked(checked: "Checked", file: ProfileFile, console: Console) -> None:
    """Print what a worker of a profile is, and what does not fit the profile."""
    asked = file.profile.worker
    gpus = ", ".join(
        f"{name} ({bytes_text(size)})" for name, size in zip(checked.gpus, checked.gpu_bytes, strict=True)
    )
    left = duration_text(checked.seconds_left) if checked.seconds_left is not None else "no limit is known"
    lines = [
        ("worker", f"on {checked.host}, {duration_text(checked.seconds)} after it was asked for"),
        ("versions", "studyctl, torch and transformers are those of this machine"),
        (
            "folder",
            "what it writes is seen here"
            if checked.written
            else "! what it writes was not seen here within 15 s",
        ),
        (
            "cores",
            f"{checked.cores}" + (f" (! {asked.cpus} were asked for)" if checked.cores < asked.cpus else ""),
        ),
        ("time", left),
        ("GPU", gpus or "none that torch can use"),
    ]
    if checked.gpus and not checked.bfloat16 and asked.dtype is None:
        lines.append(("dtype", '! this GPU has no bfloat16: write `dtype = "float16"` into `[worker]`'))
    for label, text in lines:
        console.print(Text(f"{label:9} {text}"), soft_wrap=True)
