"""Driving the app: wait for what it reads in threads, never for a clock."""

from collections.abc import Callable

from textual.pilot import Pilot

from tui.app import StudyApp


async def settle(pilot: Pilot[str]) -> StudyApp:
    """Wait until the threads that were started are done and what they found is drawn."""
    app = pilot.app
    assert isinstance(app, StudyApp)
    await app.workers.wait_for_complete()
    await pilot.pause()
    return app


async def until(pilot: Pilot[str], holds: Callable[[], bool], tries: int = 200) -> None:
    """Let the app work until a condition holds; fail when it does not after many rounds."""
    for _ in range(tries):
        if holds():
            return
        await pilot.app.workers.wait_for_complete()
        await pilot.pause(0.01)
    raise AssertionError("the app never came to what was waited for")
