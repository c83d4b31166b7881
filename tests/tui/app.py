"""Driving the app: wait for what it reads in threads, never for a clock."""

import contextlib
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot
from textual.worker import WorkerCancelled

from studyctl_tui.app import StudyApp


async def settle(pilot: Pilot[str]) -> StudyApp:
    """Wait until the threads that were started are done and what they found is drawn."""
    app = pilot.app
    assert isinstance(app, StudyApp)
    await _threads(app)
    await pilot.pause()
    return app


async def _threads(app: App[Any]) -> None:
    for worker in list(app.workers):
        with contextlib.suppress(WorkerCancelled):  # a newer one took its place
            await worker.wait()


async def until(pilot: Pilot[str], holds: Callable[[], bool], tries: int = 200) -> None:
    """Let the app work until a condition holds; fail when it does not after many rounds."""
    for _ in range(tries):
        if holds():
            return
        await _threads(pilot.app)
        await pilot.pause(0.01)
    raise AssertionError("the app never came to what was waited for")
