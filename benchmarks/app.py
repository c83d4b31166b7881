"""The terminal app: how soon it shows a study, what a second of watching costs, and what that sends over the line."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.page import note, table
from benchmarks.terminal import Terminal
from benchmarks.timing import command_seconds, in_turns
from benchmarks.watched import eight_running, large_study
from studyctl.contract.steps import StepId, StepKind
from studyctl.files import StudyPaths
from studyctl.store.publish import publish
from studyctl_tui.app import StudyApp
from studyctl_tui.shared.view import View, Watcher
from studyctl_tui.sql.screen import SqlScreen
from tests.store.builder import FakeStudy

COLUMNS, ROWS = 160, 50
ROUNDS = 5
LINE_SECONDS = 60
TICKS = 10_000
CHANGED = 100
SLOW_QUERY = "select count(*) from range(200000) a, range(20000) b where (a.range * b.range) % 7 = 1"
"""Some seconds of work."""


def main() -> None:
    with TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        publish(FakeStudy(runs / "small").write_all().paths)
        large = large_study(runs / "large").paths
        rows = [*_starting(runs), *_in_process(large), _line(runs)]
    table(("terminal app", "measured", "goal"), rows)
    note(
        f"{COLUMNS} × {ROWS} characters; medians of {ROUNDS} rounds in turns where quartiles or extremes are given"
    )


def _starting(runs: Path) -> list[tuple[str, str, str]]:
    peer = [sys.executable, "-c", "import textual, textual.app"]
    timings = in_turns(
        {
            "peer": lambda: command_seconds(peer, runs),
            "small": lambda: _first_screen(runs, "small", b"beta"),
            "large": lambda: _first_screen(runs, "large", b"model0010"),
        },
        ROUNDS,
    )
    base = timings["peer"].median
    more = timings["small"].median - base
    return [
        ('`python -c "import textual"`', str(timings["peer"]), ""),
        (f"first full screen of 6 trials: {more:.2f} s more", str(timings["small"]), "1 s more"),
        ("first full screen of 10,002 trials and 1 M items", str(timings["large"]), "1.5 s"),
    ]


def _first_screen(runs: Path, study: str, text: bytes) -> float:
    with _watch(runs, study) as terminal:
        return terminal.seconds_until(text)


def _watch(runs: Path, study: str) -> Terminal:
    command = [str(Path(sys.executable).with_name("studyctl")), "watch", study]
    return Terminal(command, runs.parent, COLUMNS, ROWS, {"STUDYCTL_RUNS": str(runs)})


def _line(runs: Path) -> tuple[str, str, str]:
    """Count the bytes of a minute while eight trials run."""
    with eight_running(runs / "eight"), _watch(runs, "eight") as terminal:
        terminal.seconds_until(b"model7")
        terminal.read(3)
        before = terminal.bytes
        terminal.read(LINE_SECONDS)
        written = (terminal.bytes - before) * 60 / LINE_SECONDS
    return "written to the terminal a minute, eight trials running", f"{written / 1024:.0f} KiB", "150 KB"


def _in_process(large: StudyPaths) -> list[tuple[str, str, str]]:
    return [asyncio.run(_with_app(large, measure)) for measure in (_ticks, _memory, _stall)]


Measure = Callable[[StudyApp, View, Any], Coroutine[Any, Any, tuple[str, str, str]]]


async def _with_app(paths: StudyPaths, measure: Measure) -> tuple[str, str, str]:
    """Run the app without a terminal and without its own looks, on a view that was read before."""
    view = Watcher(paths).look()
    app = StudyApp("monitor")
    app.study = paths
    async with app.run_test(size=(COLUMNS, ROWS)) as pilot:
        app.view = view
        app.screen.take(view)  # type: ignore[attr-defined]
        await pilot.pause()
        return await measure(app, view, pilot)


def _changed(view: View, step: int) -> View:
    """Return the view with a hundred trials that moved on, fifty of them on the screen."""
    trials = list(view.snapshot.trials)
    for place in [*range(CHANGED // 2), *range(5000, 5000 + CHANGED // 2)]:
        trials[place] = replace(
            trials[place],
            state="running",
            step=StepId(StepKind.COMPRESS),
            done=step % 30,
            total=30,
            unit="block",
        )
    return replace(view, snapshot=replace(view.snapshot, trials=tuple(trials)))


async def _ticks(app: StudyApp, view: View, pilot: Any) -> tuple[str, str, str]:
    seconds = []
    for step in range(30):
        new = _changed(view, step)
        begun = time.process_time()
        app.screen.take(new)  # type: ignore[attr-defined]
        await pilot.pause()
        seconds.append(time.process_time() - begun)
    middle = sorted(seconds)[len(seconds) // 2]
    return f"a tick with {CHANGED} changed cells of 10,002 trials", f"{middle * 1000:.0f} ms", "50 ms"


async def _memory(app: StudyApp, view: View, pilot: Any) -> tuple[str, str, str]:
    process, sizes = psutil.Process(), []
    for step in range(TICKS):
        app.screen.take(_changed(view, step))  # type: ignore[attr-defined]
        if step % 100 == 0:
            await pilot.pause()
        if step in (TICKS // 10, TICKS - 1):
            sizes.append(process.memory_info().rss)
    grown = (sizes[1] - sizes[0]) / (1 << 20)
    return f"memory gained in the last nine tenths of {TICKS:,} ticks", f"{grown:+.1f} MiB", "flat"


async def _stall(app: StudyApp, view: View, pilot: Any) -> tuple[str, str, str]:
    """Ask something slow and see how long the event loop is ever late."""
    app.action_go("sql")
    await pilot.pause()
    screen = app.screen
    assert isinstance(screen, SqlScreen)
    await app.workers.wait_for_complete()
    screen.ask(SLOW_QUERY)
    worst, begun = 0.0, time.perf_counter()
    while time.perf_counter() - begun < 5.0:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        worst = max(worst, time.perf_counter() - before - 0.01)
    return "longest stall of the event loop while a slow query runs", f"{worst * 1000:.0f} ms", "100 ms"
