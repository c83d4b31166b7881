"""Driving the SQL screen."""

import contextlib
from collections.abc import Callable
from typing import cast

from textual.pilot import Pilot
from textual.widgets import Static
from textual.worker import WorkerCancelled

from studyctl_tui.app import StudyApp
from studyctl_tui.sql.result import ResultPane, ResultTable
from studyctl_tui.sql.screen import SqlScreen
from tests.store.builder import FakeStudy


def app_on(study: FakeStudy) -> StudyApp:
    return StudyApp("sql", study=study.paths)


async def until(pilot: Pilot[str], holds: Callable[[], bool]) -> None:
    """Let the app work until a condition holds."""
    for _ in range(500):
        if holds():
            return
        await pilot.pause(0.02)
    raise AssertionError(
        "the app never came to what was waited for:\n" + shown(pilot) + "\n".join(messages(pilot))
    )


async def opened(pilot: Pilot[str]) -> SqlScreen:
    """Wait until the screen knows the study."""
    app = cast(StudyApp, pilot.app)
    await until(pilot, lambda: app.view is not None and isinstance(app.screen, SqlScreen))
    screen = cast(SqlScreen, app.screen)
    await until(pilot, lambda: screen._session is not None)
    return screen


async def calm(pilot: Pilot[str]) -> None:
    """Wait until no thread works."""
    with contextlib.suppress(WorkerCancelled):  # a look that took longer than a second gives way to the next
        await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def asked(pilot: Pilot[str], sql: str) -> SqlScreen:
    """Run a query and wait for its end."""
    screen = await opened(pilot)
    screen.ask(sql)
    await ended(pilot)
    return screen


async def ended(pilot: Pilot[str]) -> None:
    screen = cast(SqlScreen, pilot.app.screen)
    await until(pilot, lambda: not screen.busy)
    await pilot.pause()


def text_of(widget: Static) -> str:
    return str(widget.render())


def shown(pilot: Pilot[str]) -> str:
    """Return what is on the screen."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def messages(pilot: Pilot[str]) -> list[str]:
    """Return the notifications."""
    return [notification.message for notification in pilot.app._notifications]


def table_of(pilot: Pilot[str]) -> ResultTable:
    table = pilot.app.screen.query_one(ResultPane).table
    assert table is not None
    return table
