"""Every dialog at every size that the app supports, and the message of a terminal that is too small."""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from rich.text import Text
from textual.app import App
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input

import studyctl_tui
from studyctl.files import StudyPaths
from studyctl.sql.questions import questions
from studyctl_tui.app import SCREENS, StudyApp
from studyctl_tui.compare.flips import FlipsScreen
from studyctl_tui.shared.dialogs import Ask, Choice, Dialog, InputScreen
from studyctl_tui.shared.help import HelpScreen
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.too_small import COLUMNS, ROWS, TooSmallScreen
from studyctl_tui.sql.export import ExportDialog
from studyctl_tui.sql.naming import NameDialog
from studyctl_tui.sql.pick import PickDialog
from studyctl_tui.sql.plot import PlotDialog, plottable
from studyctl_tui.sql.ready import ReadyDialog
from studyctl_tui.sql.save import SaveDialog
from studyctl_tui.studies.start import ChooseSpec, PlanDialog
from tests.store.builder import TASKS
from tests.tui import studies
from tests.tui.app import settle, until

SIZES = [(60, 20), (80, 24), (120, 40)]
LONG = Text("a sentence of a long explanation. " * 60)
ROWS_OF_A_QUERY = pa.table({"name": ["a", "b"], "x": [1.0, 2.0], "y": [3.0, 1.0]})

T = TypeVar("T")


def below(kind: type[T]) -> Iterator[type[T]]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


def dialogs() -> list[type[ModalScreen[Any]]]:
    """Every modal screen of the app, also one that is added tomorrow."""
    for module in pkgutil.walk_packages(studyctl_tui.__path__, "studyctl_tui."):
        import_module(module.name)
    kinds = {kind for kind in below(ModalScreen) if kind.__module__.startswith("studyctl_tui.")}
    return sorted(kinds - {Dialog, NameDialog}, key=lambda kind: kind.__name__)


def make(kind: type[ModalScreen[Any]], screen: StudyScreen, spec: Path) -> ModalScreen[Any]:
    """A dialog with much to show."""
    choices = [Choice("x", "do it after a while", "x"), Choice("X", "do it at once", "X")]
    table = plottable(ROWS_OF_A_QUERY)
    assert table is not None
    makers: dict[type[ModalScreen[Any]], Callable[[], ModalScreen[Any]]] = {
        Ask: lambda: Ask("A question that has a title of some length?", LONG, choices),
        ChooseSpec: ChooseSpec,
        ExportDialog: lambda: ExportDialog(ROWS_OF_A_QUERY),
        FlipsScreen: lambda: FlipsScreen(
            StudyPaths(spec.parent), "alpha.wanda-0.5", "wanda-0.5", None, dict.fromkeys(TASKS, "acc")
        ),
        HelpScreen: lambda: HelpScreen(screen),
        InputScreen: lambda: InputScreen("save as (a file in the working directory, or a path):", "x.toml"),
        PickDialog: lambda: PickDialog("Questions", questions()),
        PlanDialog: lambda: PlanDialog(spec),
        PlotDialog: lambda: PlotDialog(table),
        ReadyDialog: ReadyDialog,
        SaveDialog: lambda: SaveDialog("select 1", "a name of some length, as researchers give them"),
        TooSmallScreen: TooSmallScreen,
    }
    assert kind in makers, f"this test has no example of {kind.__name__}: add one"
    return makers[kind]()


def parts(screen: ModalScreen[Any]) -> list[Widget]:
    """The widgets that are meant to be seen: not those that are hidden, and not those that scroll inside of another."""
    hidden = {part for part in screen.walk_children(Widget) if not part.display}
    scrolled = {
        part
        for part in screen.walk_children(Widget)
        for box in part.ancestors
        if isinstance(box, Widget)
        and box is not screen
        and box.allow_vertical_scroll
        and part.styles.dock == "none"
    }
    return [
        part
        for part in screen.walk_children(Widget)
        if part not in scrolled and not hidden.intersection((part, *part.ancestors))
    ]


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("kind", dialogs(), ids=lambda kind: kind.__name__)
async def test_everything_in_a_dialog_can_be_seen_and_reached(
    runs: Path, kind: type[ModalScreen[Any]], size: tuple[int, int]
) -> None:
    study = studies.finished(runs / "small")
    app = StudyApp("monitor", study=study.paths)
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        assert isinstance(app.screen, StudyScreen)
        dialog = make(kind, app.screen, study.paths.spec)
        app.push_screen(dialog)
        for _ in range(3):
            await settle(pilot)
        if kind is TooSmallScreen:
            assert dialog not in app.screen_stack, "it is in nobody's way where there is room"
            return
        for part in parts(dialog):
            assert part.region.area > 0, f"{part} has no size: {part.region}"
            assert app.screen.region.contains_region(part.region), f"{part} leaves the screen: {part.region}"
        for part in dialog.focus_chain:
            part.focus()
            await settle(pilot)
            assert dialog.focused is part
            assert dialog.find_widget(part).visible_region.area > 0, f"{part} cannot be seen"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize(
    ("key", "question", "typed"),
    [("ctrl+f", "find", "wanda"), ("ctrl+g", "line", "3:2"), ("f2", "save as", "b")],
)
async def test_questions_of_the_spec_editor_show_what_is_asked_and_typed(
    runs: Path, size: tuple[int, int], key: str, question: str, typed: str
) -> None:
    study = studies.finished(runs / "small")
    study.paths.spec.write_text('[study]\nname = "small"\n')
    app = StudyApp("spec", spec=study.paths.spec)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: getattr(app.screen, "path", None) is not None)
        await pilot.press(key)
        await settle(pilot)
        assert isinstance(app.screen, InputScreen)
        await pilot.press(*typed)
        await settle(pilot)
        shown = text(app)
        assert question in shown
        assert typed in shown
        assert app.screen.query_one(Input).size.width >= 40


def text(app: App[str]) -> str:
    """The characters on the screen."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


class TestASmallTerminal:
    """A message says what is needed. It is never in the way."""

    SMALL, LARGE = (COLUMNS - 1, ROWS - 1), (COLUMNS, ROWS)

    @pytest.fixture
    def app(self, runs: Path) -> StudyApp:
        return StudyApp("studies", study=studies.finished(runs / "small").paths)

    @pytest.mark.parametrize("name", SCREENS)
    async def test_every_screen_shows_what_matters_in_the_smallest(self, runs: Path, name: str) -> None:
        study = studies.finished(runs / "small").paths
        study.spec.write_text('[study]\nname = "small"\n')
        app = StudyApp(name, study=study)
        async with app.run_test(size=self.LARGE) as pilot:
            for _ in range(4):
                await settle(pilot)
            matters = {
                "studies": "small",
                "monitor": "wanda",
                "compare": "wanda-0.5",
                "spec": "name",
                "sql": "SELECT",
                "findings": "[[hypotheses]]",
            }
            body = "\n".join(text(app).splitlines()[1:])
            assert matters[name] in body

    async def test_it_goes_when_there_is_room_and_comes_again(self, app: StudyApp) -> None:
        async with app.run_test(size=self.SMALL) as pilot:
            for _ in range(2):
                await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))
                assert f"{COLUMNS} × {ROWS}" in text(app)
                await pilot.resize_terminal(*self.LARGE)
                await until(pilot, lambda: isinstance(app.screen, StudyScreen))
                await pilot.resize_terminal(*self.SMALL)
            await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))

    async def test_q_leaves(self, app: StudyApp) -> None:
        async with app.run_test(size=self.SMALL) as pilot:
            await settle(pilot)
            await pilot.press("q")
            await pilot.pause()
        assert app.return_value == ""

    async def test_escape_shows_what_fits_until_it_was_larger(self, app: StudyApp) -> None:
        async with app.run_test(size=self.SMALL) as pilot:
            await settle(pilot)
            await pilot.press("escape")
            await pilot.resize_terminal(COLUMNS - 2, ROWS - 2)
            (
                await until(pilot, lambda: isinstance(app.screen, StudyScreen)),
                "it does not come back with each row that is dragged",
            )
            await pilot.resize_terminal(*self.LARGE)
            await settle(pilot)
            await pilot.resize_terminal(*self.SMALL)
            await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))

    async def test_a_dialog_in_front_of_it_does_not_keep_it(self, app: StudyApp) -> None:
        """Such as the news that a study could not be started."""
        async with app.run_test(size=self.SMALL) as pilot:
            await settle(pilot)
            app.push_screen(Ask("news", Text("of a run"), ()))
            await settle(pilot)
            await pilot.resize_terminal(80, 24)
            await settle(pilot)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, StudyScreen))

    async def test_another_screen_in_front_of_it_does_not_keep_it(self, app: StudyApp) -> None:
        async with app.run_test(size=self.SMALL) as pilot:
            await settle(pilot)
            await app.switch_mode("sql")
            await pilot.resize_terminal(80, 24)
            await settle(pilot)
            await app.switch_mode("studies")
            await until(pilot, lambda: isinstance(app.screen, StudyScreen))

    async def test_a_dialog_that_is_open_stays_open(self, app: StudyApp) -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await settle(pilot)
            await pilot.press("question_mark")
            await pilot.resize_terminal(*self.SMALL)
            await settle(pilot)
            assert isinstance(app.screen, HelpScreen)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, StudyScreen))
