"""No screen of the app shows what a terminal acts on, whatever the study holds; a stranger's study is not run before a yes."""

from pathlib import Path

import pytest
from rich.text import Text
from textual.pilot import Pilot

from studyctl.files import StudyPaths
from studyctl.run import control
from studyctl.run.trust import foreign
from studyctl_tui.app import SCREENS, StudyApp
from studyctl_tui.shared.dialogs import Ask
from tests.hostile import BAD, UNSEEN, WORDS, hostile_study
from tests.tui import studies
from tests.tui.app import settle, until
from tests.tui.test_monitor import text_of
from tests.tui.test_sql import asked


@pytest.fixture
def paths(runs: Path) -> StudyPaths:
    return hostile_study(runs / "bad").paths


def raw(pilot: Pilot[str]) -> str:
    return "".join(
        segment.text for strip in pilot.app.screen._compositor.render_strips() for segment in strip
    )


@pytest.mark.parametrize("screen", SCREENS)
async def test_every_screen_is_clean(paths: StudyPaths, screen: str) -> None:
    app = StudyApp(screen, study=paths, spec=paths.spec if screen == "spec" else None)
    async with app.run_test(size=(160, 50)) as pilot:
        await settle(pilot)
        if screen == "sql":
            await asked(pilot, "select right(error, 18) as m from failures")
            await until(pilot, lambda: WORDS[-18:] in raw(pilot))
        for _ in range(5 if screen == "monitor" else 1):
            await pilot.press("right_square_bracket")  # the next page of the details
            await settle(pilot)
            assert not set(raw(pilot)) & set(UNSEEN)
        links = {
            segment.style.link
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style
        }
        assert links <= {None}


async def test_dialogs_and_notes_are_clean_and_keep_their_width(runs: Path) -> None:
    async with StudyApp().run_test(size=(120, 30), notifications=True) as pilot:
        await settle(pilot)
        pilot.app.push_screen(Ask(BAD, Text(BAD), ()))
        pilot.app.notify(BAD, markup=False)
        await until(pilot, lambda: "red]q[@click=app.quit]r" in text_of(pilot))
        assert not set(raw(pilot)) & set(UNSEEN)


async def test_what_is_copied_is_clean(paths: StudyPaths) -> None:
    async with StudyApp().run_test() as pilot:
        pilot.app.copy_to_clipboard(f"{BAD}\nsecond line")
        assert pilot.app.clipboard.endswith(f"{WORDS}\nsecond line")
        assert not set(pilot.app.clipboard) & set(UNSEEN)


async def test_a_strangers_study_is_tried_again_only_after_a_yes(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.failed(runs / "small")
    started: list[str] = []
    monkeypatch.setattr(
        control, "start_in_background", lambda spec, trial="": started.append(trial) or "started"
    )
    monkeypatch.setenv("XDG_DATA_HOME", str(runs / "nobody"))
    async with StudyApp("monitor", study=study.paths).run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: pilot.app.view is not None and bool(pilot.app.view.standings))
        for key in ("escape", "t"):
            assert foreign(study.paths)
            await pilot.press("R")
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            assert "was not made by you" in text_of(pilot)
            assert started == []
            await pilot.press(key)
            await settle(pilot)
        await until(pilot, lambda: bool(started))
        assert not foreign(study.paths)
