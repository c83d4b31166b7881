"""What the app knows of a study before it has looked at any journal."""

from dataclasses import replace
from pathlib import Path

import pytest
from textual.geometry import Region
from textual.widget import Widget

from studyctl.store import live
from studyctl_tui.app import StudyApp
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import Watcher
from tests.tui import studies
from tests.tui.app import settle, until


def test_what_was_published_is_seen_first_the_first_trials_then_all(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "AT_ONCE", 2)
    watcher = Watcher(studies.finished(runs / "small").paths)
    first, second = watcher.glances()
    assert len(first.standings) == 2
    assert len(second.standings) == len(second.snapshot.trials) == 6
    assert list(second.standings)[:2] == list(first.standings)
    assert first.published_at == second.published_at != ""
    assert list(watcher.glances()) == [], "only once"
    assert watcher.look().standings == second.standings


def test_a_study_whose_figures_are_all_there_is_seen_once(runs: Path) -> None:
    (view,) = Watcher(studies.finished(runs / "small").paths).glances()
    assert len(view.standings) == 6


def test_before_anything_is_published_nothing_is_seen(runs: Path) -> None:
    watcher = Watcher(studies.empty(runs / "small").paths)
    assert list(watcher.glances()) == []
    assert len(watcher.look().snapshot.trials) == 6


def test_what_is_wrong_is_left_to_the_look_that_tells_it(runs: Path) -> None:
    study = studies.finished(runs / "small")
    study.paths.database.write_bytes(b"no database")
    watcher = Watcher(study.paths)
    assert list(watcher.glances()) == []
    assert watcher.look().trouble is not None


async def test_an_app_that_is_given_a_watcher_draws_what_it_saw_at_once(runs: Path) -> None:
    study = studies.finished(runs / "small")
    watcher = Watcher(study.paths)
    assert watcher.seen_early() is None
    watcher.begin()
    assert watcher._early is not None
    watcher._early.result()
    app = StudyApp("monitor", study=study.paths, watcher=watcher)
    async with app.run_test(size=(80, 24)) as pilot:
        assert app.view is not None
        assert len(app.view.standings) == 6
        await settle(pilot)
        assert app.view.detail is not None, "looked at since"


@pytest.mark.parametrize("screen", ["monitor", "compare", "sql", "spec"])
async def test_a_view_with_nothing_new_lays_nothing_out(
    screen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow line a layout of every view would be most of what is sent."""
    study = studies.finished(tmp_path / "runs" / "small").paths
    async with StudyApp(screen, study=study).run_test(size=(160, 50)) as pilot:
        app = await settle(pilot)
        await until(
            pilot, lambda: (app.view is not None and app.view.detail is not None) or screen != "monitor"
        )
        assert app.view is not None
        laid_out: list[str] = []
        refresh = Widget.refresh

        def spy(widget: Widget, *regions: Region, layout: bool = False, **options: bool) -> Widget:
            if layout:
                laid_out.append(type(widget).__name__)
            return refresh(widget, *regions, layout=layout, **options)

        monkeypatch.setattr(Widget, "refresh", spy)
        assert isinstance(app.screen, StudyScreen)
        for _ in range(20):  # what the screen began before may still come
            laid_out.clear()
            app.screen.take(replace(app.view))
            await pilot.pause()
            if not laid_out:
                break
        assert not laid_out
