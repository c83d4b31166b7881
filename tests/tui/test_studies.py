"""The studies screen: what is listed, every key, and what a user is told."""

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.studies import StudyList, StudyRow
from studyctl_tui.app import StudyApp
from studyctl_tui.shared import runs as runs_screen
from studyctl_tui.shared.dialogs import Ask
from studyctl_tui.studies import screen as screen
from studyctl_tui.studies.screen import StudiesScreen
from studyctl_tui.studies.start import ChooseSpec, PlanDialog
from studyctl_tui.studies.table import SORTS, StudiesTable, age_text, bar_text
from tests.tui import studies
from tests.tui.app import settle, until

SPEC = '[study]\nname = "{name}"\n\n[[models]]\nid = "./nowhere"\n'
SMALL, LARGE = (80, 24), (160, 50)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other quickly."""
    monkeypatch.setattr(screen, "LOOK_SECONDS", 0.05)


class Shown:
    """What a user sees of the screen."""

    def __init__(self, app: StudyApp) -> None:
        self.app = app
        assert isinstance(app.screen, StudiesScreen)
        self.screen: StudiesScreen = app.screen

    @property
    def table(self) -> StudiesTable:
        return self.screen.query_one(StudiesTable)

    @property
    def studies(self) -> list[str]:
        return [str(self.table.get_cell_at((row, 1))) for row in range(self.table.row_count)]  # type: ignore[arg-type]

    def line(self, study: str) -> str:
        return " ".join(str(cell) for cell in self.table.get_row(study)).split("\n")[0]

    @property
    def about(self) -> str:
        return str(self.screen.query_one("#about", Static).content)

    @property
    def message(self) -> str:
        message = self.screen.query_one("#message", Static)
        return str(message.content) if message.display else ""

    @property
    def notes(self) -> list[str]:
        return [note.message for note in self.app._notifications]


async def opened(pilot: Pilot[str]) -> Shown:
    """Wait for the first look."""
    app = pilot.app
    assert isinstance(app, StudyApp)
    await until(pilot, lambda: isinstance(app.screen, StudiesScreen) and app.screen._complete)
    await pilot.pause()
    return Shown(app)


def body(app: StudyApp) -> str:
    return str(app.screen.query_one("#body", Static).content)


def choices(app: StudyApp) -> list[str]:
    return [str(option.prompt) for option in app.screen.query_one(OptionList).options]


@pytest.fixture
def all_states(runs: Path) -> Path:
    """A study in every state."""
    studies.finished(runs / "whole")
    studies.running(runs / "busy")
    studies.failed(runs / "bad")
    studies.died(runs / "dead")
    studies.empty(runs / "half").attempt("alpha.dense").run_all()
    (runs / "none" / "journal").mkdir(parents=True)
    studies.finished(runs / "odd").paths.plan.write_text('{"version": 7}')
    return runs


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_every_study_is_listed_with_its_state_and_progress(
    all_states: Path, size: tuple[int, int]
) -> None:
    async with StudyApp("studies").run_test(size=size) as pilot:
        shown = await opened(pilot)
        assert shown.studies == ["bad", "busy", "dead", "half", "none", "odd", "whole"]
        states = {study: shown.line(study).split()[:2] for study in shown.studies}
        assert states == {
            "bad": ["✗", "failed"],
            "busy": ["▶", "running"],
            "dead": ["✗", "died"],
            "half": ["◌", "unfinished"],
            "none": ["·", "empty"],
            "odd": ["!", "unreadable"],
            "whole": ["✓", "done"],
        }
        assert "6/6" in shown.line("whole")
        assert "5/6 1 " in shown.line("bad")
        assert "just now" in shown.line("busy")
        assert ("A small study" in shown.line("whole")) is (size == LARGE)
        assert "7 studies · by name" in shown.about
        assert shown.table.virtual_size.width <= size[0]


async def test_the_row_under_the_cursor_says_what_can_be_done(all_states: Path) -> None:
    texts = {
        "bad": "1 of 6 trials failed · enter shows why",
        "busy": "12 min 00 s left · x stops it",
        "dead": "died in the middle · R goes on",
        "half": "nobody runs it · R goes on",
        "none": "e opens its spec",
        "odd": "was written by a later studyctl",
        "whole": "c compares",
    }
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        for study, text in texts.items():
            assert shown.table.study == study
            assert text in shown.about
            await pilot.press("j")
        await pilot.press("k", "k")
        assert shown.table.study == "none" or shown.table.study == "odd"


@pytest.mark.parametrize(("key", "mode"), [("enter", "monitor"), ("c", "compare"), ("e", "spec")])
async def test_a_study_is_opened(runs: Path, key: str, mode: str) -> None:
    study = studies.finished(runs / "a")
    async with StudyApp("studies", spec=Path("other.toml")).run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press(key)
        await until(pilot, lambda: shown.app.current_mode == mode)
        assert shown.app.study is not None
        assert shown.app.study.root.resolve() == study.root.resolve()
        assert shown.app.spec is None
        await settle(pilot)


@pytest.mark.parametrize("key", ["enter", "i", "c"])
async def test_why_a_study_cannot_be_read_is_one_key_away(runs: Path, key: str) -> None:
    studies.finished(runs / "odd").paths.plan.write_text("{")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press(key)
        assert isinstance(shown.app.screen, Ask)
        assert "is no JSON" in body(shown.app)
        assert "hint: delete it and run `studyctl run" in body(shown.app)
        await pilot.press("escape")
        assert isinstance(shown.app.screen, StudiesScreen)


async def test_a_study_that_can_be_read_says_so(runs: Path) -> None:
    studies.finished(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("i")
        assert shown.notes == ["a can be read"]


async def test_without_studies_it_says_what_to_do_first(runs: Path) -> None:
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        for text in (
            "There are no studies in",
            "studyctl run pocket",
            "studyctl plan paper",
            "n  starts one",
        ):
            assert text in shown.message
        for key in ("enter", "c", "e", "x", "R", "y", "i"):  # nothing to act on, and nothing breaks
            await pilot.press(key)
        assert isinstance(shown.app.screen, StudiesScreen)


async def test_a_study_that_appears_changes_and_goes_is_followed(runs: Path, quick: None) -> None:
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        study = studies.running(runs / "a")
        await until(pilot, lambda: shown.studies == ["a"])
        assert shown.message == ""
        await until(pilot, lambda: shown.screen.focused is shown.table)
        study.attempt("alpha.rtn-4bit-g64").run_all()
        studies.write_runner(study, [(studies.TRIAL, 1)])
        await until(pilot, lambda: "2/6" in shown.line("a"))
        study.paths.runner.unlink()
        await until(pilot, lambda: "unfinished" in shown.line("a"))
        study.root.rename(runs.parent / "away")
        await until(pilot, lambda: "There are no studies" in shown.message)


async def test_only_cells_that_changed_are_drawn_again(
    runs: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.running(runs / "a")
    studies.finished(runs / "b")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        drawn: list[object] = []
        refresh = StudiesTable.refresh

        def counted(table: StudiesTable, *regions: object, **options: object) -> object:
            if not table._one_cell:
                drawn.append(regions or "all")
            return refresh(table, *regions, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(StudiesTable, "refresh", counted)
        shown.screen.look()
        await settle(pilot)
        assert drawn == []
        study.attempt("alpha.rtn-4bit-g64").run_all()
        studies.write_runner(study, [(studies.TRIAL, 1)])
        await until(pilot, lambda: "2/6" in shown.line("a"))
        assert len(drawn) == 1
        assert drawn != ["all"]


async def test_the_cursor_stays_on_its_study(runs: Path, quick: None) -> None:
    studies.finished(runs / "b")
    studies.finished(runs / "c")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("down")
        assert shown.table.study == "c"
        studies.finished(runs / "a")
        await until(pilot, lambda: shown.studies == ["a", "b", "c"])
        assert shown.table.study == "c"
        (runs / "c").rename(runs.parent / "away")
        await until(pilot, lambda: shown.studies == ["a", "b"])
        assert shown.table.study == "b"


async def test_sorting_goes_through_name_state_age_and_progress(all_states: Path) -> None:
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("s")
        assert shown.studies == ["busy", "dead", "bad", "odd", "half", "whole", "none"]
        assert "by state" in shown.about
        await pilot.press("s")
        assert "by last sign" in shown.about
        assert shown.studies[-2:] == ["none", "odd"]
        await pilot.press("s")
        assert shown.studies[-1] == "whole"
        await pilot.press("s")
        assert shown.studies[0] == "bad"


async def test_filtering_by_parts_of_names_and_states(all_states: Path) -> None:
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("slash", *"un")
        assert shown.studies == ["busy", "half", "odd"]  # running, unfinished, unreadable
        assert "3 of 7 studies" in shown.about
        await pilot.press("space", *"hal")
        assert shown.studies == ["half"]
        await pilot.press("enter")
        assert shown.screen.focused is shown.table
        await pilot.press("slash", "1")
        assert shown.app.current_mode == "studies"
        assert shown.message == "no study matches the filter; esc shows all again"
        await pilot.press("escape")
        assert len(shown.studies) == 7
        assert shown.screen.focused is shown.table
        assert not shown.screen.query_one("#filter", Input).display


async def test_the_name_is_copied(runs: Path) -> None:
    studies.finished(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("y")
        assert shown.app.clipboard == "a"
        assert shown.notes == ["copied a"]


async def test_a_name_is_never_taken_for_markup(runs: Path) -> None:
    studies.finished(runs / "[red]a[bold]")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        assert shown.studies == ["[red]a[bold]"]
        assert "[red]a[bold]" in shown.about
        await pilot.press("y")
        assert shown.notes == ["copied [red]a[bold]"]


async def test_columns_fit_after_a_resize(all_states: Path) -> None:
    async with StudyApp("studies").run_test(size=LARGE) as pilot:
        shown = await opened(pilot)
        await pilot.press("down")
        assert "A small study" in shown.line("whole")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "A small study" not in shown.line("whole"))
        assert shown.table.virtual_size.width <= 80
        assert shown.table.study == "busy"


# -- stopping


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def ask_to_stop(paths: StudyPaths, when: str) -> str:
        asked.append((paths.name, when))
        return f"asked the runner of {paths.name}"

    monkeypatch.setattr(runs_screen, "ask_to_stop", ask_to_stop)
    return asked


@pytest.mark.parametrize(("keys", "when"), [(["x"], "after_step"), (["enter"], "after_step"), (["X"], "now")])
async def test_a_run_is_stopped_after_asking(
    runs: Path, stops: list[tuple[str, str]], keys: list[str], when: str
) -> None:
    studies.running(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("x")
        assert "What was measured is kept" in body(shown.app)
        assert stops == []
        await pilot.press(*keys)
        await until(pilot, lambda: stops == [("a", when)] and shown.notes == ["asked the runner of a"])


async def test_a_run_is_not_stopped_when_the_question_is_left(
    runs: Path, stops: list[tuple[str, str]]
) -> None:
    studies.running(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("x", "escape")
        await settle(pilot)
        assert isinstance(shown.app.screen, StudiesScreen)
        assert stops == []


async def test_what_is_not_run_cannot_be_stopped(runs: Path, stops: list[tuple[str, str]]) -> None:
    studies.finished(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("x")
        assert shown.notes == ["a is not being run"]


async def test_a_stop_that_is_refused_says_why(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: StudyPaths, when: str) -> str:
        raise StudyError("study `a` is not being run")

    monkeypatch.setattr(runs_screen, "ask_to_stop", refuse)
    studies.running(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("x", "x")
        await until(pilot, lambda: shown.notes == ["study `a` is not being run"])


# -- starting and resuming


class Starter:
    """Stands in for the process that starts a run; lets a test look at what is shown meanwhile."""

    def __init__(self) -> None:
        self.specs: list[Path] = []
        self.go = threading.Event()
        self.error = ""

    def __call__(self, spec: Path, only: str = "*") -> str:
        self.specs.append(spec)
        assert self.go.wait(10)
        if self.error:
            raise StudyError(self.error)
        return "new runs in the background\n  studyctl show new"


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    starter = Starter()
    monkeypatch.setattr(runs_screen, "start_in_background", starter)
    yield starter
    starter.go.set()


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning finds something to run in every spec, without looking anything up."""

    class Comparison:
        todo = ("something",)

    class Preview:
        errors = ()
        comparison = Comparison()

    monkeypatch.setattr("studyctl.plan.preview.preview", lambda document: Preview())
    monkeypatch.setattr(
        "studyctl.report.plan.draw_plan", lambda shown, out, err: out.print("estimate: 3 min", style="red")
    )


async def dialog(pilot: Pilot[str], kind: type, ready: Callable[[], bool] = lambda: True) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind) and ready())
    await pilot.pause()


async def plan_dialog(pilot: Pilot[str]) -> None:
    """Wait for the dialog and for its plan."""
    app = pilot.app
    assert isinstance(app, StudyApp)
    await until(pilot, lambda: isinstance(app.screen, PlanDialog) and "looking up" not in body(app))


async def test_a_spec_is_chosen_planned_and_started(runs: Path, starter: Starter, planned: None) -> None:
    Path("new.toml").write_text(SPEC.format(name="new"))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n")
        await until(pilot, lambda: "new.toml" in choices(shown.app)[0])
        assert any("pocket" in choice and "ships with studyctl" in choice for choice in choices(shown.app))
        await pilot.press("enter")
        await plan_dialog(pilot)
        assert body(shown.app) == "estimate: 3 min"
        assert [choice.split()[0] for choice in choices(shown.app)] == ["s", "e", "esc"]
        assert starter.specs == []
        await pilot.press("s")
        await pilot.pause()
        assert shown.about.endswith("starting new …")
        starter.go.set()
        await until(pilot, lambda: shown.app.current_mode == "monitor")
        assert starter.specs == [Path("new.toml")]
        assert shown.app.study is not None
        assert shown.app.study.name == "new"
        assert shown.notes == ["new runs in the background"]
        assert shown.screen.starting == []


async def test_a_start_that_fails_says_why(runs: Path, starter: Starter, planned: None) -> None:
    Path("new.toml").write_text(SPEC.format(name="new"))
    starter.error = "error: running a study needs torch\n  = hint: pip install 'studyctl[engine]'"
    starter.go.set()
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n", "enter")
        await plan_dialog(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: type(shown.app.screen) is Ask)
        assert "pip install 'studyctl[engine]'" in body(shown.app)
        await pilot.press("escape")
        assert shown.screen.starting == []


async def test_who_went_elsewhere_while_a_run_starts_is_left_there(
    runs: Path, starter: Starter, planned: None
) -> None:
    studies.finished(runs / "a")
    Path("new.toml").write_text(SPEC.format(name="new"))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n", *"new", "enter")
        await plan_dialog(pilot)
        await pilot.press("s", "c")
        starter.go.set()
        await until(pilot, lambda: shown.notes == ["new runs in the background"])
        assert shown.app.current_mode == "compare"
        assert shown.app.study is not None
        assert shown.app.study.name == "a"


async def test_a_spec_with_an_error_is_shown_with_its_place_and_can_be_edited(
    runs: Path, starter: Starter
) -> None:
    Path("new.toml").write_text(SPEC.format(name="new") + "oops = 1\n")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n", "enter")
        await plan_dialog(pilot)
        assert "unknown key `oops`" in body(shown.app)
        assert "new.toml:6:1" in body(shown.app)
        assert [choice.split()[0] for choice in choices(shown.app)] == ["e", "esc"]
        await pilot.press("s")
        assert starter.specs == []
        await pilot.press("e")
        await until(pilot, lambda: shown.app.current_mode == "spec")
        assert shown.app.spec == Path("new.toml")


async def test_a_spec_that_ships_is_planned_by_its_name(runs: Path, starter: Starter, planned: None) -> None:
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n", *"paper", "enter")
        await plan_dialog(pilot)
        assert isinstance(shown.app.screen, PlanDialog)
        assert shown.app.screen.study == "paper"
        await pilot.press("escape")
        assert isinstance(shown.app.screen, StudiesScreen)
        assert starter.specs == []


async def test_the_list_of_specs_is_moved_in_while_the_field_has_the_focus(runs: Path) -> None:
    Path("a.toml").write_text(SPEC.format(name="a"))
    Path("b.toml").write_text(SPEC.format(name="b"))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n")
        await until(pilot, lambda: "a.toml" in choices(shown.app)[0])
        await pilot.press("down")
        options = shown.app.screen.query_one(OptionList)
        assert options.highlighted == 1
        await pilot.press("up", "up")
        assert options.highlighted == options.option_count - 1
        await pilot.press("escape")
        assert isinstance(shown.app.screen, StudiesScreen)


async def test_a_path_can_be_typed_and_a_wrong_one_is_told(runs: Path, planned: None, tmp_path: Path) -> None:
    spec = tmp_path / "else" / "far.toml"
    spec.parent.mkdir()
    spec.write_text(SPEC.format(name="far"))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("n")
        field = shown.app.screen.query_one(Input)
        field.value = "nothing.toml"
        await pilot.press("enter")
        assert isinstance(shown.app.screen, ChooseSpec)
        assert "nothing.toml is not there" in str(shown.app.screen.query_one(".trouble", Static).content)
        field.value = "pockte"
        await pilot.press("enter")
        assert "no spec `pockte`" in str(shown.app.screen.query_one(".trouble", Static).content)
        field.value = str(spec)
        await pilot.press("enter")
        await plan_dialog(pilot)
        assert isinstance(shown.app.screen, PlanDialog)
        assert shown.app.screen.study == "far"


@pytest.mark.parametrize("make", [studies.died, studies.empty, studies.failed])
async def test_a_study_is_resumed_from_its_own_spec(
    runs: Path, starter: Starter, planned: None, make: Callable[[Path], object]
) -> None:
    make(runs / "a")
    (runs / "a" / "spec.toml").write_text(SPEC.format(name="a"))
    starter.go.set()
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("R")
        await plan_dialog(pilot)
        await pilot.press("s")
        await until(pilot, lambda: shown.app.current_mode == "monitor")
        assert starter.specs == [StudyPaths(runs / "a").spec]


async def test_a_copy_of_a_study_under_another_name_is_not_resumed(
    runs: Path, starter: Starter, planned: None
) -> None:
    studies.empty(runs / "copy")
    (runs / "copy" / "spec.toml").write_text(SPEC.format(name="a"))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("R")
        await plan_dialog(pilot)
        assert "is of the study `a`, not of `copy`" in " ".join(body(shown.app).split())
        assert "s" not in [choice.split()[0] for choice in choices(shown.app)]


async def test_a_study_that_runs_is_not_resumed(runs: Path) -> None:
    studies.running(runs / "a")
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("R")
        assert shown.notes == ["a is running"]


# -- slow and broken folders


async def test_a_slow_folder_shows_studies_as_they_are_read(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def rows(_: StudyList) -> Iterator[StudyRow]:
        yield StudyRow("a", "done", 1, 1)
        assert go.wait(10)
        yield StudyRow("b", "done", 1, 1)

    monkeypatch.setattr(StudyList, "rows", rows)
    monkeypatch.setattr(screen, "PART_SECONDS", 0.0)
    app = StudyApp("studies")
    async with app.run_test(size=SMALL) as pilot:
        for _ in range(200):
            await pilot.pause(0.01)
            if isinstance(app.screen, StudiesScreen) and app.screen.query_one(StudiesTable).row_count:
                break
        shown = Shown(app)
        assert shown.studies == ["a"]
        go.set()
        await until(pilot, lambda: shown.studies == ["a", "b"])


async def test_before_the_first_look_it_says_what_it_reads(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def rows(_: StudyList) -> Iterator[StudyRow]:
        assert go.wait(10)
        yield from ()

    monkeypatch.setattr(StudyList, "rows", rows)
    app = StudyApp("studies")
    async with app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        assert Shown(app).message == f"reading {runs} …"
        go.set()


async def test_a_folder_that_cannot_be_listed_says_why(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(_: StudyList) -> Iterator[StudyRow]:
        raise StudyError("runs cannot be listed (Permission denied)", hint="STUDYCTL_RUNS names another")
        yield

    monkeypatch.setattr(StudyList, "rows", rows)
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        assert shown.message == "! runs cannot be listed (Permission denied)\nSTUDYCTL_RUNS names another"


async def test_nothing_is_read_while_another_screen_is_shown(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.finished(runs / "a")
    looks: list[int] = []
    rows = StudyList.rows

    def counted(studies_here: StudyList) -> Iterator[StudyRow]:
        looks.append(1)
        return rows(studies_here)

    monkeypatch.setattr(StudyList, "rows", counted)
    async with StudyApp("studies", study=study.paths).run_test(size=SMALL) as pilot:
        shown = await opened(pilot)
        await pilot.press("3")
        await settle(pilot)
        before = len(looks)
        shown.screen._look_again()
        await settle(pilot)
        assert len(looks) == before
        await pilot.press("alt+1")
        await until(pilot, lambda: len(looks) > before)


# -- texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "just now"), (60, "1 min ago"), (3599, "59 min ago"), (7300, "2 h ago"),
     (86400 * 3, "3 d ago"), (-5, "just now")],
)  # fmt: skip
def test_ages_are_told_in_steps(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age_text(now - timedelta(seconds=seconds), now) == text
    assert age_text(None, now) == "–"


@pytest.mark.parametrize(
    ("done", "failed", "trials", "bar"),
    [(0, 0, 0, "········"), (0, 0, 4, "░░░░░░░░"), (4, 0, 4, "████████"), (2, 1, 4, "████xx░░"),
     (0, 1, 10000, "x░░░░░░░"), (9999, 1, 10000, "███████x"), (9999, 0, 10000, "███████░")],
)  # fmt: skip
def test_bars_never_look_finished_before_they_are(done: int, failed: int, trials: int, bar: str) -> None:
    drawn = bar_text(done, failed, trials, 8)
    assert isinstance(drawn, Text)
    assert drawn.plain == bar


def test_the_newest_sign_comes_first() -> None:
    old, new = (
        StudyRow(name, "done", last_sign=datetime(2026, 1, day, tzinfo=UTC))
        for name, day in (("a", 1), ("b", 2))
    )
    rows = sorted([old, StudyRow("c", "empty"), new], key=SORTS["last sign"][1])
    assert [row.study for row in rows] == ["b", "a", "c"]


async def test_the_age_of_the_last_sign_is_reckoned_from_now(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.finished(runs / "a")
    for journal in study.paths.journal.iterdir():
        os.utime(journal, (1_700_000_000,) * 2)
    monkeypatch.setattr(screen, "now", lambda: datetime.fromtimestamp(1_700_000_000 + 7200, UTC))
    async with StudyApp("studies").run_test(size=SMALL) as pilot:
        assert "2 h ago" in (await opened(pilot)).line("a")
