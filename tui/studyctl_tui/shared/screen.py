"""The base class of the app's screens."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Input, TextArea

from studyctl.files import StudyPaths
from studyctl.run.trust import foreign, question, remember
from studyctl_tui.shared.dialogs import Ask, Choice
from studyctl_tui.shared.topbar import TopBar
from studyctl_tui.shared.view import View

if TYPE_CHECKING:
    from studyctl_tui.app import StudyApp


class StudyScreen(Screen[None]):
    """A screen of the app: a bar with its name, the body, and key hints.

    Subclasses override :meth:`compose_body` and :meth:`show_view`.
    """

    NAME: ClassVar[str] = ""
    """Its name in the bar and the palette."""
    ABOUT: ClassVar[str] = ""
    """Its purpose in one sentence; `?` shows it."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = False
        """Whether bar and body are mounted: views may come earlier."""
        self._shown: View | None = None

    @property
    def study_app(self) -> "StudyApp":
        """The app, with its type."""
        return cast("StudyApp", self.app)

    def compose(self) -> ComposeResult:
        """Frame the body."""
        yield TopBar(self.NAME)
        with Container(classes="body"):
            yield from self.compose_body()
        yield Footer(compact=True, show_command_palette=False)

    def compose_body(self) -> ComposeResult:
        """Yield the widgets between bar and footer."""
        yield from ()

    def show_view(self, view: View) -> None:
        """Draw the open study as it is now: called when the screen appears and once or twice a second after.

        Must be quick: change only what is different from the last view.
        """

    def ask_first(self, then: Callable[[], object], otherwise: Callable[[], object] | None = None) -> None:
        """Do something that would lose unsaved work, after asking what to do with the work; at once if there is none.

        Args:
            then: called when the work is saved or may be lost.
            otherwise: called if the user goes on editing.
        """
        then()

    def ask_trust(self, paths: StudyPaths, spec: Path, then: Callable[[], object]) -> None:
        """Do something with a study; ask first if somebody else made it, or the one that the spec is stored in."""
        studies = foreign(paths, spec)
        if not studies:
            then()
            return

        def answered(answer: str | None) -> None:
            if answer:
                if trouble := remember(studies):
                    self.notify(trouble, severity="warning", markup=False)
                then()

        body = Text("\n\n".join(map(question, studies)))
        trust = Choice("t", "Trust it, now and later", "trust")
        self.app.push_screen(Ask("Made by somebody else", body, [trust]), answered)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let the key of the filter type its character in a text field."""
        if action == "filter" and isinstance(self.focused, Input | TextArea):
            return False
        return super().check_action(action, parameters)

    def type_into(self, field: Input) -> None:
        """Show a field and focus it at once: otherwise the next letter could be a command of the screen."""
        field.display = True
        self.set_focus(field)

    def on_mount(self) -> None:
        """Draw the view that came before the widgets."""
        self._ready = True
        self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """Draw the view that came while another screen was shown."""
        if (view := self.study_app.view) is not None:
            self.take(view)

    def take(self, view: View) -> None:
        """Draw a view in bar and body."""
        if self._ready and view is not self._shown:
            self._shown = view
            self.query_one(TopBar).show_view(view)
            self.show_view(view)
