"""The Spec screen: what one sees while a spec is typed, saved and run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, Static

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.spec.bundled import bundled_folder
from studyctl.spec.editing import save
from studyctl_tui.app import StudyApp
from studyctl_tui.shared.dialogs import Ask, InputScreen
from studyctl_tui.spec import file as spec_file
from studyctl_tui.spec import panes as spec_panes
from studyctl_tui.spec import screen as spec_screen
from studyctl_tui.spec.bars import Banner, FileBar, KeyHelp
from studyctl_tui.spec.plan import PlanPane
from studyctl_tui.spec.problems import ProblemList
from studyctl_tui.spec.screen import SpecScreen
from tests.tui import studies

GOOD = """\
# what we want to know
[study]
name = "mine"

[[models]]
id = "org/alpha"
[calibration]
source = "pocket"
samples = 4
sequence_length = 128
[[compression]]
method = "wanda"
sparsity = [0.3, 0.5]

[[compression]]
method = "rtn"
bits = 4
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spec_panes, "CHECK_SECONDS", 0.01)


@pytest.fixture
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_panes, "planned", lambda document: (None, []))


class Opened:
    """An app with a file in the editor."""

    def __init__(self, app: StudyApp, pilot: Pilot[str]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def screen(self) -> SpecScreen:
        return next(screen for screen in self.app.screen_stack if isinstance(screen, SpecScreen))

    @property
    def text(self) -> str:
        return self.screen.editor.text

    @property
    def notes(self) -> list[str]:
        return [note.message for note in self.app._notifications]

    @property
    def problems(self) -> list[str]:
        return [problem.what for problem in self.screen.panes.problems]

    @property
    def banner(self) -> str:
        return self.screen.query_one(Banner).text

    @property
    def bar(self) -> str:
        return self.screen.query_one(FileBar).render().plain

    @property
    def help(self) -> str:
        return self.screen.query_one(KeyHelp).render().plain

    @property
    def plan(self) -> str:
        return str(self.screen.query_one(PlanPane).query_one(Static).content)

    @property
    def offered(self) -> list[str]:
        return [item.label for item in self.screen.editor.completions._items]

    def listed(self) -> list[str]:
        panel = self.screen.query_one(ProblemList)
        return [str(panel.get_option_at_index(index).prompt) for index in range(panel.option_count)]

    def line(self, number: int) -> str:
        return str(self.screen.editor.document.get_line(number - 1))

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        names = {
            "\n": "enter",
            " ": "space",
            "[": "left_square_bracket",
            "]": "right_square_bracket",
            '"': "quotation_mark",
            "=": "equals_sign",
            "_": "underscore",
            ".": "full_stop",
            "#": "number_sign",
        }
        await self.press(*(names.get(char, char) for char in text))

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(500):
            if holds():
                return
            await self.pilot.pause(0.01)
        raise AssertionError("the screen never came to what was waited for")

    async def at(self, line: int, column: int = 1) -> None:
        self.screen.editor.show_place(line, column)
        await self.pilot.pause()

    async def end_of(self, line: int) -> None:
        await self.at(line, len(self.line(line)) + 1)


@asynccontextmanager
async def opened(
    path: Path | None, *, study: StudyPaths | None = None, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Opened]:
    app = StudyApp("spec", spec=path, study=study)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        page = Opened(app, pilot)
        screen = page.screen
        screen.editor.cursor_blink = False
        await page.until(lambda: screen.source.file is not None or bool(page.banner))
        await page.until(lambda: screen.panes.document is not None or bool(screen.panes.problems))
        yield page


# -- layout


@pytest.mark.usefixtures("no_plans")
async def test_a_small_terminal_has_the_text_above_help_and_one_pane(spec: Path) -> None:
    async with opened(spec) as page:
        editor, panes = page.screen.editor, page.screen.panes
        assert editor.size.height >= 12
        assert editor.region.bottom <= page.screen.query_one(KeyHelp).region.y
        assert panes.region.y >= page.screen.query_one(KeyHelp).region.bottom
        assert panes.size.height == 6
        assert page.screen.query_one(ProblemList).region.height == 5
        await page.press("f9")
        assert page.screen.query_one(PlanPane).region.height == 5
        assert not page.screen.query_one(ProblemList).region


@pytest.mark.usefixtures("no_plans")
async def test_a_wide_terminal_has_both_panes_at_the_right(spec: Path) -> None:
    async with opened(spec, size=(160, 50)) as page:
        problems, plan = page.screen.query_one(ProblemList).region, page.screen.query_one(PlanPane).region
        assert problems.x > page.screen.editor.region.x
        assert plan.y > problems.bottom > problems.y
        await page.pilot.resize_terminal(80, 24)
        await page.pilot.pause()
        assert page.screen.panes.region.y > page.screen.editor.region.y


@pytest.mark.usefixtures("no_plans")
async def test_numbers_and_letters_are_typed_and_alt_switches_screens(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("1", "q", "question_mark", "t")
        assert page.line(1) == "1q?t# what we want to know"
        page.app.post_message(events.Key("alt+1", "1"))  # as a terminal sends it, with its character
        await page.until(lambda: page.app.current_mode == "studies")
        await page.press("4")
        assert page.app.current_mode == "spec"
        assert page.line(1).startswith("1q?t# what")


# -- problems


@pytest.mark.usefixtures("no_plans")
async def test_problems_are_listed_and_underlined_as_one_types_and_go_when_mended(spec: Path) -> None:
    async with opened(spec) as page:
        assert page.listed() == ["✓ nothing is wrong with the text, and its plan can run"] or page.listed()
        await page.at(13, 5)
        await page.press("delete", "c")
        await page.until(lambda: bool(page.problems))
        assert page.problems == ["unknown key `sparcity`"]
        assert page.listed() == ["✗ 13:1 unknown key `sparcity` · did you mean `sparsity`?"]
        assert "✗ 1" in page.bar
        assert page.screen.editor._marks == {12: [(0, 8, "error")]}
        strip = page.screen.editor.render_line(12 - round(page.screen.editor.scroll_y))
        assert any(part.style and part.style.underline and "s" in part.text for part in strip)
        await page.press("backspace", "s")
        await page.until(lambda: not page.problems)
        assert page.screen.editor._marks == {}


@pytest.mark.usefixtures("no_plans")
async def test_a_problem_behind_the_end_of_a_line_is_underlined_there(spec: Path) -> None:
    async with opened(spec) as page:
        await page.end_of(13)
        await page.press("enter")
        await page.type("order =")
        await page.until(lambda: bool(page.problems))
        assert page.problems == ["`order` has no value"]
        strip = page.screen.editor.render_line(13 - round(page.screen.editor.scroll_y))
        assert [part.text for part in strip if part.style and part.style.underline][:1] == [" "]


@pytest.mark.usefixtures("no_plans")
async def test_f8_goes_through_the_problems_and_around(spec: Path) -> None:
    spec.write_text(GOOD.replace("sparsity", "sparcity").replace("bits = 4", "bits = 9"))
    async with opened(spec) as page:
        await page.press("f8")
        assert page.screen.editor.cursor_location == (12, 0)
        await page.press("f8")
        assert page.screen.editor.cursor_location == (16, 7)
        await page.press("f8")
        assert page.screen.editor.cursor_location == (12, 0)
        await page.press("shift+f8")
        assert page.screen.editor.cursor_location == (16, 7)
        assert page.screen.query_one(ProblemList).highlighted == 1


@pytest.mark.usefixtures("no_plans")
async def test_escape_leads_to_the_problems_and_enter_to_the_place(spec: Path) -> None:
    spec.write_text(GOOD.replace("sparsity", "sparcity").replace("bits = 4", "bits = 9"))
    async with opened(spec) as page:
        await page.press("escape")
        assert isinstance(page.app.focused, ProblemList)
        await page.press("down", "enter")
        assert page.screen.editor.has_focus
        assert page.screen.editor.cursor_location == (16, 7)
        await page.press("escape", "right")
        assert isinstance(page.app.focused, PlanPane)
        await page.press("left")
        assert isinstance(page.app.focused, ProblemList)
        await page.press("f9")
        assert isinstance(page.app.focused, PlanPane)
        await page.press("escape")
        assert page.screen.editor.has_focus
        assert page.text == spec.read_text()


@pytest.mark.usefixtures("no_plans")
async def test_problems_of_a_spec_that_this_one_extends_are_told_with_their_file(spec: Path) -> None:
    base = spec.with_name("base.toml")
    base.write_text("[study]\nname = 3\n")
    spec.write_text(GOOD.replace('name = "mine"', 'extends = "base.toml"'))
    async with opened(spec) as page:
        assert page.listed()[0].startswith("✗ base.toml:2:8 `name` needs text")
        assert page.screen.editor._marks == {}
        await page.press("escape", "enter")
        assert "this is in base.toml, line 2" in page.notes[-1]
        await page.press("f8")
        assert "no problem has a place in this text" in page.notes[-1]


@pytest.mark.usefixtures("no_plans")
async def test_a_fault_of_the_checks_is_told_and_the_text_stays(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(text: str, path: Path) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr(spec_panes, "parse_spec", fails)
    async with opened(spec) as page:
        assert page.problems == ["checking failed: KeyError: 'oops'"]
        assert page.text == GOOD


# -- plan


async def test_the_plan_says_what_would_run_and_warnings_join_the_problems(spec: Path) -> None:
    async with opened(spec) as page:
        await page.until(lambda: "estimate" in page.plan)
        assert "mine: 1 model × 4 variants = 4 trials" in page.plan
        assert "wanda-0.3" in page.plan
        assert page.listed()[0].startswith("! 6:6 could not look up model `org/alpha`")
        await page.until(lambda: page.screen.editor._marks == {5: [(5, 16, "warning")]})


async def test_errors_of_the_plan_have_places_in_the_text(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(document: Any) -> Any:
        problem = document.problem(
            "group_size 128 does not divide", ("compression", 1, "bits"), hint="take 64"
        )
        return None, [problem]

    monkeypatch.setattr(spec_panes, "planned", planned)
    async with opened(spec) as page:
        await page.until(lambda: bool(page.problems))
        assert page.listed() == ["✗ 17:8 group_size 128 does not divide\n  hint: take 64"]
        await page.until(lambda: page.screen.editor._marks == {16: [(7, 8, "error")]})


async def test_a_study_that_cannot_be_planned_says_why(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(document: Any) -> Any:
        raise StudyError("a journal is damaged")

    monkeypatch.setattr("studyctl.plan.preview.preview", damaged)
    async with opened(spec) as page:
        await page.until(lambda: page.problems == ["a journal is damaged"])
        assert page.plan == "no plan could be made"


async def test_slow_planning_never_blocks_typing_and_stale_plans_are_dropped(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, seen = threading.Event(), list[str]()

    def planned(document: Any) -> Any:
        seen.append(document.text)
        assert go_on.wait(20)
        return None, [Problem(f"plan of {document.spec.study.name}", severity="warning")]

    monkeypatch.setattr(spec_panes, "planned", planned)
    app = StudyApp("spec", spec=spec)
    async with app.run_test(size=(80, 24)) as pilot:
        page = Opened(app, pilot)
        while not seen:
            await asyncio.sleep(0.01)
        page.screen.editor.show_place(3, 9)
        await pilot.press("x")
        await pilot.press("y")
        assert page.line(3) == 'name = "xymine"'
        while page.screen.panes.document is None or "xymine" not in page.screen.panes.document.text:
            await asyncio.sleep(0.01)
        assert len(seen) == 1  # one at a time, however much is typed
        go_on.set()
        await page.until(lambda: page.problems == ["plan of xymine"])
        assert len(seen) == 2


async def test_the_app_ends_while_a_plan_is_made(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, never = threading.Event(), threading.Event()

    def planned(document: Any) -> Any:
        begun.set()
        never.wait(20)
        return None, []

    monkeypatch.setattr(spec_panes, "planned", planned)
    app = StudyApp("spec", spec=spec)
    async with app.run_test(size=(80, 24)) as pilot:
        while not begun.is_set():
            await asyncio.sleep(0.01)
        await pilot.press("ctrl+q")
    never.set()
    assert app.return_value == ""


# -- help and completion


@pytest.mark.usefixtures("no_plans")
async def test_the_key_under_the_cursor_is_explained(spec: Path) -> None:
    async with opened(spec) as page:
        await page.at(13, 3)
        await page.until(lambda: page.help.startswith("sparsity"))
        assert "number, or a list: a variant for each · at least 0 and less than 1" in page.help
        assert "fraction of the weights set to zero" in page.help
        await page.at(17, 8)
        await page.until(lambda: page.help.startswith("bits"))


@pytest.mark.usefixtures("no_plans")
async def test_completion_filters_and_writes_a_key_and_then_its_value(spec: Path) -> None:
    async with opened(spec) as page:
        await page.end_of(12)
        await page.press("enter", "ctrl+n")
        assert page.offered[:2] == ["pattern", "order"]
        await page.type("pro")
        assert page.offered == ["propagate"]
        await page.press("enter")
        assert page.line(13) == "propagate = "
        assert page.offered == ["compressed", "dense"]
        await page.press("down", "tab")
        assert page.line(13) == 'propagate = "dense"'
        assert page.offered == []
        await page.press("ctrl+z")
        assert page.line(13) == "propagate = "


@pytest.mark.usefixtures("no_plans")
@pytest.mark.parametrize("key", ["ctrl+space", "ctrl+@", "ctrl+n"])
async def test_escape_closes_the_list_and_stays_in_the_text(spec: Path, key: str) -> None:
    async with opened(spec) as page:
        await page.at(12, 13)
        await page.press(key)
        assert page.offered == ["wanda"]
        await page.press("escape")
        assert page.offered == []
        assert page.screen.editor.has_focus
        assert page.text == GOOD


@pytest.mark.usefixtures("no_plans")
async def test_the_list_is_at_the_cursor_and_closes_when_it_goes_elsewhere(spec: Path) -> None:
    async with opened(spec) as page:
        await page.at(12, 13)
        await page.press("ctrl+n")
        shown, cursor = page.screen.editor.completions.region, page.screen.editor.cursor_screen_offset
        assert shown.y == cursor.y + 1
        assert shown.height == 1
        await page.press("home")
        assert page.offered == []
        await page.end_of(1)
        await page.press("ctrl+n")
        assert "nothing else could be written here" in page.notes[-1]


@pytest.mark.usefixtures("no_plans")
async def test_clicking_an_item_writes_it(spec: Path) -> None:
    spec.write_text(GOOD.replace('"wanda"', ""))
    async with opened(spec) as page:
        await page.end_of(12)
        await page.press("ctrl+n")
        assert page.offered[:2] == ["magnitude", "wanda"]
        await page.pilot.click(page.screen.editor.completions, offset=(3, 1))
        assert page.line(12) == 'method = "wanda"'


# -- saving


@pytest.mark.usefixtures("no_plans")
async def test_saving_keeps_the_bytes_of_what_was_not_edited(spec: Path) -> None:
    data = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").replace("wanted", "\twanted \u2028").encode().rstrip()
    spec.write_bytes(data)
    async with opened(spec) as page:
        assert not page.screen.unsaved
        await page.press("ctrl+s")
        await page.until(lambda: bool(page.notes))
        assert spec.read_bytes() == data
        await page.end_of(17)
        await page.type("\n# end")
        assert page.screen.unsaved
        assert "● not saved" in page.bar
        await page.press("ctrl+s")
        await page.until(lambda: not page.screen.unsaved)
        assert spec.read_bytes() == data + b"\r\n# end"


@pytest.mark.usefixtures("no_plans")
async def test_a_spec_with_problems_is_saved_and_says_so(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x", "ctrl+s")
        await page.until(lambda: bool(page.notes))
        assert page.notes[-1] == "saved mine.toml, which has problems: ✗ 1"
        assert spec.read_text().startswith("x# what")


@pytest.mark.usefixtures("no_plans")
async def test_undo_and_redo(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x")
        await page.press("ctrl+z")
        assert page.text == GOOD
        assert not page.screen.unsaved
        await page.press("ctrl+y")
        assert page.text == "x" + GOOD


@pytest.mark.usefixtures("no_plans")
async def test_a_change_made_elsewhere_is_told_and_loaded_when_one_likes(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x")
        spec.write_text(GOOD + "# theirs\n")
        page.screen.source.look()
        await page.until(lambda: "changed elsewhere" in page.banner)
        await page.press("f5")
        await page.until(lambda: page.text.endswith("# theirs\n"))
        assert not page.banner
        assert not page.screen.unsaved
        await page.press("ctrl+z")
        assert page.text == "x" + GOOD  # what was typed is not lost
        spec.unlink()
        page.screen.source.look()
        await page.until(lambda: "the file is gone" in page.banner)
        await page.press("ctrl+s")
        await page.until(lambda: not page.banner)
        assert spec.read_text() == "x" + GOOD


@pytest.mark.usefixtures("no_plans")
async def test_saving_over_a_change_made_elsewhere_asks_and_keeps_both(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x")
        spec.write_text("theirs")
        await page.press("ctrl+s")
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("escape")
        assert spec.read_text() == "theirs"
        assert page.screen.unsaved
        await page.press("ctrl+s")
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("o")
        await page.until(lambda: not page.screen.unsaved)
        assert spec.read_text() == "x" + GOOD
        assert spec.with_name("mine.toml.orig").read_text() == "theirs"


@pytest.mark.usefixtures("no_plans")
async def test_saving_over_a_change_made_elsewhere_can_load_that_one(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x")
        spec.write_text("theirs")
        await page.press("ctrl+s")
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("enter")  # the first answer is the one that changes no file
        await page.until(lambda: page.text == "theirs")
        assert spec.read_text() == "theirs"


@pytest.mark.usefixtures("no_plans")
async def test_saving_twice_at_once_writes_the_newer_text(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("x", "ctrl+s", "y", "ctrl+s")
        await page.until(lambda: spec.read_text() == "xy" + GOOD and not page.screen.unsaved)
        assert not isinstance(page.app.screen, Ask)


@pytest.mark.usefixtures("no_plans")
@pytest.mark.parametrize("letters", ["x", "xyz"], ids=["one save", "saves that wait for each other"])
async def test_a_text_is_never_saved_under_the_name_of_a_file_that_is_being_opened(
    spec: Path, monkeypatch: pytest.MonkeyPatch, letters: str
) -> None:
    other = spec.with_name("other.toml")
    other.write_text(GOOD.replace("mine", "other"))
    go_on = threading.Event()

    def slow(*arguments: Any, **more: Any) -> Any:
        assert go_on.wait(20)
        return save(*arguments, **more)

    async with opened(spec) as page:
        monkeypatch.setattr(spec_file, "save", slow)
        await page.press(*(key for letter in letters for key in (letter, "ctrl+s")))
        page.screen.source.open(other)
        await page.until(lambda: page.screen.path == other)
        go_on.set()
        await page.until(lambda: len(page.notes) == len(letters))
        assert page.screen.path == other
        assert "other" in page.text
        assert not page.screen.unsaved
        assert spec.read_text() == letters + GOOD
        assert other.read_text() == GOOD.replace("mine", "other")


@pytest.mark.usefixtures("no_plans")
async def test_a_file_that_cannot_be_written_is_told_and_the_text_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "new.toml") as page:
        await page.press("x")
        file = page.screen.source.file
        assert file is not None
        page.screen.source.save(page.text, path=tmp_path / "file" / "new.toml")
        await page.until(lambda: bool(page.notes))
        assert "cannot be written" in page.notes[-1]
        assert page.screen.unsaved


@pytest.mark.usefixtures("no_plans")
async def test_a_save_under_another_name_that_waits_keeps_to_its_text(spec: Path) -> None:
    """What is typed and saved after it goes to the new name, not to a file that was opened meanwhile."""
    copy, other = spec.with_name("copy.toml"), spec.with_name("other.toml")
    other.write_text("")
    async with opened(spec) as page:
        source = page.screen.source
        source.save("a" + GOOD, path=copy)
        source.save("ab" + GOOD)
        source.open(other)
        await page.until(lambda: page.screen.path == other and len(page.notes) == 2)
        assert (spec.read_text(), copy.read_text(), other.read_text()) == (GOOD, "ab" + GOOD, "")


# -- which file


@pytest.mark.usefixtures("no_plans")
async def test_a_file_that_is_not_there_starts_from_a_template(tmp_path: Path) -> None:
    path = tmp_path / "fresh.toml"
    async with opened(path) as page:
        assert 'name = "fresh"' in page.text
        assert "new file" in page.bar
        assert page.problems == []
        assert not page.screen.unsaved  # nothing of anybody's would be lost
        assert not path.exists()
        await page.press("ctrl+s")
        await page.until(path.exists)
        await page.until(lambda: "new file" not in page.bar)


@pytest.mark.usefixtures("no_plans")
async def test_a_spec_that_ships_is_not_changed_but_copied(tmp_path: Path) -> None:
    async with opened(bundled_folder() / "pocket.toml") as page:
        assert "ships with studyctl" in page.banner
        await page.press("x", "ctrl+n")
        assert page.text == (bundled_folder() / "pocket.toml").read_text()
        await page.press("ctrl+s")
        assert isinstance(page.app.screen, InputScreen)
        assert page.app.screen.query_one(Input).value == "pocket.toml"
        await page.press("enter")
        await page.until((tmp_path / "pocket.toml").exists)
        await page.until(lambda: not page.banner)
        await page.press("x")
        assert page.text.startswith("x")
        assert page.app.spec == Path("pocket.toml")


@pytest.mark.usefixtures("no_plans")
async def test_saving_under_another_name_never_goes_over_a_file(spec: Path) -> None:
    other = spec.with_name("other.toml")
    other.write_text("theirs")
    async with opened(spec) as page:
        await page.press("f2")
        page.app.screen.query_one(Input).value = "other"
        await page.press("enter")
        await page.until(lambda: bool(page.notes))
        assert "exists already" in page.notes[-1]
        assert other.read_text() == "theirs"
        assert page.screen.path == spec


@pytest.mark.usefixtures("no_plans")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("größe".encode("latin-1"), "not UTF-8"),
        (b"#" * (5 << 20), "5.0 MiB large; the editor takes up to 256 KiB"),
    ],
)
async def test_what_cannot_be_edited_says_why(spec: Path, data: bytes, message: str) -> None:
    spec.write_bytes(data)
    async with opened(spec) as page:
        assert message in page.banner
        assert message in page.listed()[0]
        await page.press("x", "ctrl+s", "ctrl+r")
        assert page.text == ""
        assert spec.read_bytes() == data
        spec.write_text(GOOD)
        await page.press("f5")
        await page.until(lambda: page.text == GOOD)


@pytest.mark.usefixtures("no_plans")
async def test_without_a_spec_the_screen_says_how_to_open_one() -> None:
    async with opened(None) as page:
        assert page.banner == "no spec is open"
        assert "studyctl edit FILE" in page.listed()[0]


@pytest.mark.usefixtures("no_plans")
async def test_the_spec_of_the_open_study_says_that_it_is_a_copy(runs: Path, spec: Path) -> None:
    study = studies.finished(runs / "small")
    study.paths.spec.write_text(f'# studyctl: relative paths start at "{spec.parent}"\n{GOOD}')
    async with opened(None, study=study.paths) as page:
        assert page.screen.path == study.paths.spec
        assert "the copy that the study ran" in page.banner


@pytest.mark.usefixtures("no_plans")
async def test_a_study_without_a_spec_says_so(runs: Path) -> None:
    async with opened(None, study=studies.finished(runs / "small").paths) as page:
        assert "this study has no spec.toml yet" in page.banner


@pytest.mark.usefixtures("no_plans")
async def test_opening_another_study_asks_before_text_is_lost(runs: Path, spec: Path) -> None:
    study = studies.finished(runs / "small")
    study.paths.spec.write_text(GOOD.replace("mine", "small"))
    async with opened(spec) as page:
        await page.press("x")
        page.app.open_study(study.paths, "spec")
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("escape")
        await page.pilot.pause()
        assert page.screen.path == spec
        assert page.text == "x" + GOOD
        page.app.spec = None
        page.screen.open_wanted()
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("s")
        await page.until(lambda: page.screen.path == study.paths.spec)
        assert spec.read_text() == "x" + GOOD
        page.screen.open_wanted()
        assert page.screen._opening is None  # the file that was saved is not opened again


@pytest.mark.usefixtures("no_plans")
async def test_leaving_asks_when_there_is_unsaved_text(spec: Path) -> None:
    done = list[str]()
    async with opened(spec) as page:
        page.screen.ask_first(lambda: done.append("at once"))
        await page.press("x")
        page.screen.ask_first(lambda: done.append("discarded"))
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("d")
        page.screen.ask_first(lambda: done.append("saved"))
        await page.until(lambda: isinstance(page.app.screen, Ask))
        await page.press("s")
        await page.until(lambda: len(done) == 3)
    assert done == ["at once", "discarded", "saved"]
    assert spec.read_text() == "x" + GOOD


# -- running


@pytest.mark.usefixtures("no_plans")
async def test_running_saves_first_and_shows_the_monitor(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = list[tuple[Path, str]]()

    def start(path: Path) -> str:
        ran.append((path, path.read_text()))
        return "mine runs in the background"

    monkeypatch.setattr(spec_screen, "start_in_background", start)
    async with opened(spec) as page:
        await page.press("number_sign", "ctrl+r")
        await page.until(lambda: page.app.current_mode == "monitor")
        assert ran == [(spec, "#" + GOOD)]
        assert page.app.study is not None
        assert page.app.study.name == "mine"
        assert page.app.spec == spec
        assert any("mine runs in the background" in note for note in page.notes)


@pytest.mark.usefixtures("no_plans")
async def test_a_spec_with_errors_is_not_run(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_screen, "start_in_background", lambda path: pytest.fail("it ran"))
    spec.write_text(GOOD.replace("sparsity", "sparcity"))
    async with opened(spec) as page:
        await page.press("ctrl+r")
        assert "fix the problems first" in page.notes[-1] or "fix the problems first" in page.notes[0]
        assert page.screen.editor.cursor_location == (12, 0)


@pytest.mark.usefixtures("no_plans")
async def test_a_run_that_does_not_start_says_why(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(path: Path) -> str:
        raise StudyError("no disk")

    monkeypatch.setattr(spec_screen, "start_in_background", start)
    async with opened(spec) as page:
        await page.press("ctrl+r")
        await page.until(lambda: bool(page.notes))
        assert page.notes[-1] == "no disk"
        assert page.app.current_mode == "spec"


# -- places


@pytest.mark.usefixtures("no_plans")
async def test_going_to_the_table_that_makes_a_variant(spec: Path) -> None:
    async with opened(spec) as page:
        page.screen.go_to("wanda-0.5")
        await page.until(lambda: page.screen.editor.cursor_location == (10, 0))
        page.screen.go_to("rtn-4bit-g128")
        await page.until(lambda: page.screen.editor.cursor_location == (14, 0))
        page.screen.go_to("awq-3bit-g128")
        await page.until(lambda: bool(page.notes))
        assert "makes no variant awq-3bit-g128" in page.notes[-1]


@pytest.mark.usefixtures("no_plans")
async def test_going_to_a_variant_of_a_spec_that_is_not_open_yet(spec: Path) -> None:
    app = StudyApp("studies", spec=spec)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.switch_mode("spec")
        assert isinstance(app.screen, SpecScreen)
        app.screen.go_to("wanda-0.5")
        page = Opened(app, pilot)
        await page.until(lambda: page.screen.editor.cursor_location == (10, 0))


@pytest.mark.usefixtures("no_plans")
async def test_the_app_closes_while_a_plan_is_made(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closing = asyncio.Event()

    async def made_while_closing(made: Callable[[], object]) -> object:
        await closing.wait()
        return made()

    monkeypatch.setattr(spec_panes, "_in_background", made_while_closing)
    monkeypatch.setattr(PlanPane, "on_unmount", lambda pane: closing.set(), raising=False)
    async with opened(spec) as page:
        assert page.plan.startswith("planning")
    assert closing.is_set()


@pytest.mark.usefixtures("no_plans")
async def test_going_to_a_line_and_finding_text(spec: Path) -> None:
    async with opened(spec) as page:
        await page.press("ctrl+g", "9", "colon", "3", "enter")
        assert page.screen.editor.cursor_location == (8, 2)
        await page.press("ctrl+f")
        await page.type("method")
        await page.press("enter")
        assert page.screen.editor.selected_text == "method"
        assert page.screen.editor.cursor_location == (11, 6)
        await page.press("f3")
        assert page.screen.editor.cursor_location == (15, 6)
        await page.press("f3")
        assert page.screen.editor.cursor_location == (11, 6)
        await page.press("ctrl+f")
        page.app.screen.query_one(Input).value = "nowhere"
        await page.press("enter")
        assert "there is no “nowhere”" in page.notes[-1]
