"""The app: six screens on one study. Closing it, or losing the connection to it, does not change a run."""

import gc
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar, TypeVar, cast

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import events, work
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.filter import LineFilter
from textual.screen import Screen
from textual.worker import active_worker

from studyctl.files import StudyPaths
from studyctl.printable import printable
from studyctl_tui.shared.help import HelpScreen
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.too_small import TooSmallScreen, too_small
from studyctl_tui.shared.view import View, Watcher
from studyctl_tui.themes import DARK, THEMES

for (
    _digit
) in "123456":  # Textual maps these to the option keys of one terminal, which hides alt+digit in all others
    cast("dict[str, object]", ANSI_SEQUENCES_KEYS).pop(f"\x1b{_digit}", None)

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How often the open study is read."""
PRELOAD_SECONDS = 1.0
SCREENS = ("studies", "monitor", "compare", "spec", "sql", "findings")
"""In the order of their number keys; each has a folder of this name, imported when it is first shown: all of them would
double the time that the app takes to start."""


def screen_type(name: str) -> type[StudyScreen]:
    """Return the class of a screen."""
    module = import_module(f"studyctl_tui.{name}.screen")
    return cast("type[StudyScreen]", getattr(module, f"{name.capitalize()}Screen"))


def _open(name: str) -> StudyScreen:
    return screen_type(name)()


class _Printable(LineFilter):
    """Takes control characters out of lines, and keeps their width."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Clean the text of the segments."""
        if all(segment.text.isprintable() for segment in segments):
            return segments
        return [
            Segment(set_cell_size(printable(text), cell_len(text)), style, control)
            for text, style, control in segments
        ]


_PRINTABLE = _Printable()


class StudyApp(App[str]):
    """The app; the text that it returns is printed in the shell after it has ended."""

    TITLE = "studyctl"
    CSS_PATH = "studyctl.tcss"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        name: partial(_open, name) for name in SCREENS
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"{number},alt+{number}", f"go('{name}')", name.capitalize(), show=False)
            for number, name in enumerate(SCREENS, 1)
        ),
        Binding("question_mark", "keys", "Keys", key_display="?"),
        Binding("f1", "keys", "Keys", show=False),
        Binding("t", "next_theme", "Theme", show=False),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True),
    ]

    def __init__(
        self,
        screen: str = "studies",
        *,
        study: StudyPaths | None = None,
        spec: Path | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """Prepare the app.

        Args:
            screen: the first screen, one of :data:`SCREENS`.
            study: the study that is open.
            spec: the file in the editor; None: the spec of the study.
            watcher: of that study, if it has begun to read already.
        """
        super().__init__()
        self.study = study
        self.spec = spec
        self.view: View | None = None
        """The newest view of the open study; None before the first."""
        for theme in THEMES.values():
            self.register_theme(theme)
        self.set_reactive(App.theme, DARK.name)
        self.stylesheet.set_variables(
            self.get_css_variables()
        )  # it was created with the variables of another theme
        self._first = screen
        self._looking = self._look_again = False
        self._is_small = False
        """Whether it was said that the terminal is too small."""
        self._watcher = watcher or (Watcher(study) if study is not None else None)

    def on_mount(self) -> None:
        """Show the first screen and begin to read the study."""
        if self._watcher is not None:
            self.view = self._watcher.seen_early()  # if there is one, the screen draws it first
        self.switch_mode(self._first)
        self.set_interval(LOOK_SECONDS, self.look)
        self.set_timer(PRELOAD_SECONDS, self._preload)
        self.look()

    @work(thread=True, group="preload")
    def _preload(self) -> None:
        for name in SCREENS:
            if name != "sql":  # it imports pyarrow: 40 MB that few who look in need
                screen_type(name)
        gc.enable()  # the command line disables it during the start

    # -- text of others

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Take out control characters as well: every line of every widget comes through here."""
        return [*super().get_line_filters(), _PRINTABLE]

    def copy_to_clipboard(self, text: str) -> None:
        """Copy a text without control characters, as a shell that it is pasted into would act on them."""
        super().copy_to_clipboard(printable(text))

    # -- the open study

    def open_study(self, study: StudyPaths, screen: str = "monitor") -> None:
        """Open another study and show a screen of it."""
        if self.study != study:
            self.study, self.spec, self.view = study, None, None
            self._watcher = Watcher(study)
        self.switch_mode(screen)
        self.look()

    def select(self, trial: str | None) -> None:
        """Select the trial whose details the next view has, and read that view now."""
        if self._watcher is not None and self._watcher.selected != trial:
            self._watcher.selected = trial
            self.look()

    def look(self) -> None:
        """Read the open study now, in a thread; if it is already being read, once more after that."""
        if self._looking:
            self._look_again = True
        elif self._watcher is not None:
            self._looking = True
            self._read(self._watcher)

    @work(thread=True, group="look")
    def _read(self, watcher: Watcher) -> None:
        for view in watcher.glances():
            self.call_from_thread(self._take, watcher, view)
        self.call_from_thread(self._looked, watcher, watcher.look())

    def _looked(self, watcher: Watcher, view: View) -> None:
        self._looking = False
        self._take(watcher, view)
        if self._look_again:
            self._look_again = False
            self.look()

    def _take(self, watcher: Watcher, view: View) -> None:
        if watcher is not self._watcher:
            return  # another study was opened meanwhile
        self.view = view
        if isinstance(self.screen, StudyScreen):
            self.screen.take(view)

    def call_from_thread(self, callback: Callable[..., T | Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run a function in the app's thread, for another thread, as Textual does.

        Calls of a cancelled worker, or while the app closes, are dropped: screens then lose their widgets one by one, and
        the first one that is missing would end the app with a traceback.
        """
        worker = active_worker.get(None)
        if worker is not None and worker.is_cancelled:
            return cast("T", None)

        def unless_closing() -> T | Awaitable[T]:
            return callback(*args, **kwargs) if self.is_running else cast("T", None)

        return super().call_from_thread(unless_closing)

    # -- keys

    def action_go(self, name: str) -> None:
        """Show a screen."""
        if name in ("monitor", "compare", "sql", "findings") and self.study is None:
            self.notify("no study is open: choose one here, or `studyctl run SPEC` makes one")
            name = "studies"
        self.switch_mode(name)

    def action_keys(self) -> None:
        """Show the keys of this screen."""
        if isinstance(self.screen, StudyScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_next_theme(self) -> None:
        """Go through the themes."""
        names = list(THEMES)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]

    def action_leave(self) -> None:
        """Leave; a run goes on. Ask first if a spec is not saved."""
        for screen in self.get_screen_stack("spec") if "spec" in self._screen_stacks else ():
            if isinstance(screen, StudyScreen):
                screen.ask_first(self._leave)
                return
        self._leave()

    def _leave(self) -> None:
        text = ""
        if self.view is not None and self.view.snapshot.running:
            name = self.view.paths.name
            text = f"{name} goes on running; `studyctl watch {quote(name)}` shows it again, `studyctl stop {quote(name)}` stops it"
        self.exit(text)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer the screens, the themes and the keys in the palette."""
        for number, name in enumerate(SCREENS, 1):
            kind = screen_type(name)
            yield SystemCommand(f"{kind.NAME} ({number})", kind.ABOUT, partial(self.action_go, name))
        for name in THEMES:
            yield SystemCommand(f"Theme: {name}", "colours", partial(setattr, self, "theme", name))
        if isinstance(screen, StudyScreen):
            for active in screen.active_bindings.values():
                binding = active.binding
                if active.node is screen and binding.description and active.enabled:
                    key = self.get_key_display(binding)
                    act = partial(self.run_action, binding.action, screen)
                    yield SystemCommand(f"{binding.description} ({key})", f"on {screen.NAME}", act)
        yield SystemCommand("Keys (?)", "the keys of this screen", self.action_keys)
        yield SystemCommand("Quit (q)", "leave; a run goes on", self.action_leave)

    # -- size

    def on_resize(self, event: events.Resize) -> None:
        """Show a message when the terminal becomes too small."""
        if not too_small(event.size):  # `self.size` is still that before
            self._is_small = False
        elif not self._is_small and isinstance(self.screen, StudyScreen):
            self._is_small = True
            self.push_screen(TooSmallScreen())
