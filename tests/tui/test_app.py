"""The shell of the app: screens, keys, leaving."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from textual.widgets import Static

from studyctl_tui.app import SCREENS, StudyApp
from studyctl_tui.shared.help import HelpScreen
from studyctl_tui.shared.too_small import TooSmallScreen
from tests.tui import studies
from tests.tui.app import settle


@pytest.mark.parametrize(("number", "name"), enumerate(SCREENS, 1))
async def test_number_keys_switch_screens(runs: Path, number: int, name: str) -> None:
    study = studies.finished(runs / "small")
    async with StudyApp("studies", study=study.paths).run_test(size=(80, 24)) as pilot:
        app = await settle(pilot)
        await pilot.press(f"alt+{number}")
        assert app.current_mode == name


async def test_leaving_says_that_the_run_goes_on(runs: Path) -> None:
    study = studies.running(runs / "small")
    app = StudyApp("monitor", study=study.paths)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("q")
    assert app.return_value is not None
    assert "small goes on running" in app.return_value


async def test_what_a_thread_found_out_while_the_app_closed_is_dropped(runs: Path) -> None:
    app = StudyApp("studies")
    taken: list[str] = []
    async with app.run_test(size=(80, 24)):
        await asyncio.to_thread(app.call_from_thread, taken.append, "open")
    await asyncio.to_thread(app.call_from_thread, taken.append, "closed")
    assert taken == ["open"]


async def test_help_lists_the_keys_of_the_screen(runs: Path) -> None:
    study = studies.finished(runs / "small")
    async with StudyApp("monitor", study=study.paths).run_test(size=(80, 24)) as pilot:
        app = await settle(pilot)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        keys = str(app.screen.query(".dialog Static").last(Static).content.columns[1]._cells)
        assert keys.index("Filter") < keys.index("Quit") < keys.index("Focus Next"), (
            "what one came for is first"
        )
        await pilot.press("escape")
        assert not isinstance(app.screen, HelpScreen)


async def test_a_small_terminal_is_told_what_is_needed_until_it_is_larger(runs: Path) -> None:
    study = studies.finished(runs / "small")
    async with StudyApp("monitor", study=study.paths).run_test(size=(60, 15)) as pilot:
        app = await settle(pilot)
        assert isinstance(app.screen, TooSmallScreen)
        await pilot.resize_terminal(80, 24)
        await settle(pilot)
        assert not isinstance(app.screen, TooSmallScreen)


def test_the_app_never_imports_torch() -> None:
    code = (
        "import sys; from studyctl_tui.app import SCREENS, screen_type; [screen_type(name) for name in SCREENS]; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'lm_eval')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
