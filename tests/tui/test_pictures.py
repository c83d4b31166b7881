"""Pictures of every screen, at the smallest and at a large size, from a real recorded study."""

from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from studyctl.files import StudyPaths
from studyctl_tui.app import StudyApp
from studyctl_tui.spec.problems import ProblemList
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.result import ResultPane
from tests.tui import studies
from tests.tui.app import settle, until

SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 50), id="160x50")]


class _Then(datetime):
    """A clock that stands still: the time of a publication is on the screen."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "datetime":
        return datetime(2026, 11, 25, 20, 10, tzinfo=tz)


@pytest.fixture(autouse=True)
def _always_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # paths are shown from here
    monkeypatch.setattr("studyctl.store.publish.datetime", _Then)
    monkeypatch.setattr("studyctl.store.session.time", SimpleNamespace(perf_counter=lambda: 0.0))
    # not by cursor_blink: the text area would keep a line that it drew while its cursor was out
    monkeypatch.setattr(TextArea, "_toggle_cursor_blink_visible", lambda area: None)


@pytest.fixture
def finished(runs: Path) -> StudyPaths:
    return studies.recorded(runs / "pocket")


@pytest.fixture
def running(runs: Path) -> StudyPaths:
    return studies.recorded_running(runs / "pocket")


async def _still(pilot: Pilot[Any]) -> None:
    """Wait until nothing more comes."""
    for _ in range(4):
        await settle(pilot)


Compare = Callable[..., bool]


@pytest.mark.parametrize("size", SIZES)
def test_monitor_of_a_finished_study(
    snap_compare: Compare, finished: StudyPaths, size: tuple[int, int]
) -> None:
    app = StudyApp("monitor", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=_still)


@pytest.mark.parametrize("size", SIZES)
def test_monitor_while_a_trial_compresses(
    snap_compare: Compare, running: StudyPaths, size: tuple[int, int]
) -> None:
    async def follow(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        await pilot.press("f")
        await _still(pilot)

    app = StudyApp("monitor", study=running)
    assert snap_compare(app, terminal_size=size, run_before=follow)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", range(5), ids=["languages", "tasks", "disagreement", "size", "agreement"])
def test_compare(snap_compare: Compare, finished: StudyPaths, size: tuple[int, int], part: int) -> None:
    async def go(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        for _ in range(part):
            await pilot.press("right_square_bracket")
        await _still(pilot)

    app = StudyApp("compare", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=go)


@pytest.mark.parametrize("size", SIZES)
def test_compare_backends(
    snap_compare: Compare, runs: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Of a study that was never run: the recorded one knows one backend."""
    monkeypatch.setattr("tests.store.builder.MEMORY", 2 << 30)
    monkeypatch.setattr("tests.store.builder.SECONDS", 72.34)

    async def go(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        await pilot.press("left_square_bracket")
        await _still(pilot)
        await pilot.press("down", "down", "right", "right")
        await _still(pilot)

    app = StudyApp("compare", study=studies.two_backends(runs / "two").paths)
    assert snap_compare(app, terminal_size=size, run_before=go)


@pytest.mark.parametrize("size", SIZES)
def test_findings(snap_compare: Compare, runs: Path, size: tuple[int, int]) -> None:
    async def down(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        await pilot.press("down")
        await _still(pilot)

    app = StudyApp("findings", study=studies.recorded_with_hypotheses(runs / "pocket"))
    assert snap_compare(app, terminal_size=size, run_before=down)


@pytest.mark.parametrize("size", SIZES)
def test_spec(snap_compare: Compare, finished: StudyPaths, size: tuple[int, int]) -> None:
    """With a mistake, so that there is no plan, which would be of this machine."""
    text = finished.spec.read_text().replace("group_size", "groupsize", 1)
    finished.spec.write_text(text)

    async def check(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        problems = pilot.app.screen.query_one(ProblemList)
        await until(pilot, lambda: problems.option_count > 0 and not problems.get_option_at_index(0).disabled)
        await pilot.press("f8")
        await _still(pilot)

    app = StudyApp("spec", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=check)


@pytest.mark.parametrize("size", SIZES)
def test_sql(snap_compare: Compare, finished: StudyPaths, size: tuple[int, int]) -> None:
    async def ask(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: pilot.app.screen.query_one(ResultPane).answer is not None)
        await _still(pilot)

    app = StudyApp("sql", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=ask)


@pytest.mark.parametrize("size", [pytest.param((60, 20), id="60x20"), pytest.param((80, 24), id="80x24")])
def test_sql_completion(snap_compare: Compare, finished: StudyPaths, size: tuple[int, int]) -> None:
    async def write(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        editor = pilot.app.screen.query_one(SqlEditor)
        await until(pilot, lambda: editor.catalog is not None)
        editor.put("select variant, \nfrom leaderboard l")
        editor.move_cursor((0, 16))
        await pilot.press("l", "full_stop", "w", "o", "down")
        await _still(pilot)

    app = StudyApp("sql", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=write)


@pytest.mark.parametrize("size", SIZES)
def test_keys(snap_compare: Compare, finished: StudyPaths, size: tuple[int, int]) -> None:
    app = StudyApp("monitor", study=finished)
    assert snap_compare(app, terminal_size=size, run_before=_still, press=["question_mark"])


@pytest.mark.parametrize("theme", ["studyctl-light", "studyctl-16"])
def test_monitor_in_other_themes(snap_compare: Compare, finished: StudyPaths, theme: str) -> None:
    async def change(pilot: Pilot[Any]) -> None:
        await _still(pilot)
        pilot.app.theme = theme
        await _still(pilot)

    assert snap_compare(StudyApp("monitor", study=finished), terminal_size=(80, 24), run_before=change)


def test_no_colour_is_needed(
    snap_compare: Compare, running: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = StudyApp("monitor", study=running)
    assert snap_compare(app, terminal_size=(80, 24), run_before=_still)
