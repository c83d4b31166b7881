"""``?``: the keys of a screen."""

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from studyctl_tui.shared.dialogs import Dialog
from studyctl_tui.shared.screen import StudyScreen


def _distance(active: ActiveBinding) -> int:
    """Return the place of a key in the list: first the screen's, then our widgets', then the app's, then Textual's."""
    if isinstance(active.node, Screen):
        return 3 if active.binding.action.startswith(("app.", "screen.")) else 0
    if isinstance(active.node, App):
        return 2
    return 1 if _is_ours(active) else 3


def _is_ours(active: ActiveBinding) -> bool:
    """Whether one of our classes has the key, and not only the class of Textual that it extends."""
    ours = (kind for kind in type(active.node).__mro__ if kind.__module__.startswith("studyctl_tui."))
    declared = (binding for kind in ours for binding in vars(kind).get("BINDINGS", ()))
    return any(
        isinstance(binding, Binding) and binding.action == active.binding.action for binding in declared
    )


class HelpScreen(Dialog[None]):
    """Lists the active key bindings."""

    DEFAULT_CSS = "HelpScreen Static { width: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,q,f1", "dismiss", "Close")]

    def __init__(self, screen: StudyScreen) -> None:
        super().__init__()
        self._heading = Text.assemble((screen.NAME, "bold"), f"  {screen.ABOUT}")
        self._keys = [
            (self.app.get_key_display(active.binding), active.binding.description)
            for active in sorted(screen.active_bindings.values(), key=_distance)
            if active.binding.description and not active.binding.system
        ]

    def compose(self) -> ComposeResult:
        """Yield the list."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for key, description in dict.fromkeys(self._keys):
            table.add_row(Text(key, style="bold"), description)
        with VerticalScroll(classes="dialog"):
            yield Static(self._heading)
            yield Static(table)
