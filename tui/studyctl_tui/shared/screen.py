"""What all screens of the app have in common."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer, Input, TextArea

from studyctl_tui.shared.topbar import TopBar
from studyctl_tui.shared.view import View

if TYPE_CHECKING:
    from studyctl_tui.app import StudyApp


class StudyScreen(Screen[None]):
    """A screen of the app: a bar that says where one is, the body, and hints of keys.

    Subclasses override :meth:`compose_body` and :meth:`show_view`.
    """

    NAME: ClassVar[str] = ""
    """What the bar and the palette call it."""
    ABOUT: ClassVar[str] = ""
    """What it is for, one sentence; `?` shows it."""
    NEEDS: ClassVar[tuple[int, int]] = (80, 20)
    """Columns and rows below which the app says that the terminal is too small."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = False
        """Whether there is a bar and a body: views may come before."""
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
        """Yield what is between bar and footer."""
        yield from ()

    def show_view(self, view: View) -> None:
        """Draw the open study as it is now: called when the screen appears and once or twice a second after.

        Must be quick: change only what is different from the last view.
        """

    def ask_first(self, then: Callable[[], object], otherwise: Callable[[], object] | None = None) -> None:
        """Do something that loses unsaved work, once that is saved or given up; at once where there is none.

        Args:
            then: what is done.
            otherwise: what is done instead if the answer is to go on.
        """
        then()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let the key of a filter be typed where text is typed."""
        if action == "filter" and isinstance(self.focused, Input | TextArea):
            return False
        return super().check_action(action, parameters)

    def type_into(self, field: Input) -> None:
        """Show a field and have it take every key from now on: a letter that was meant for it could be a command here."""
        field.display = True
        self.set_focus(field)

    def on_mount(self) -> None:
        """Draw what came before there was anything to draw on."""
        self._ready = True
        self._catch_up()

    def on_screen_resume(self) -> None:
        """Catch up with what came while another screen was shown."""
        self._catch_up()

    def _catch_up(self) -> None:
        if (view := self.study_app.view) is not None:
            self.take(view)

    def take(self, view: View) -> None:
        """Take a view for bar and body."""
        if self._ready and view is not self._shown:
            self._shown = view
            self.query_one(TopBar).show_view(view)
            self.show_view(view)
