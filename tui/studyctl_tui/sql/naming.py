"""A dialog that asks for a name and writes something under it; what has the name already is replaced only after asking."""

from typing import ClassVar, TypeVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from studyctl_tui.shared.dialogs import Dialog

T = TypeVar("T")


class Refused(Exception):
    """Nothing was written, for this reason."""

    def __init__(self, why: str, *, may_replace: bool = False) -> None:
        super().__init__(why)
        self.may_replace = may_replace
        """Whether the same name, entered once more, replaces what has it."""


class NameDialog(Dialog[T | None]):
    """The dialog; returns what :meth:`write` returns, None if it was closed. Subclasses override that and :meth:`trouble_with`."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Close")]
    DEFAULT_CSS = """
    NameDialog Input { background: $panel; margin: 1 0; }
    NameDialog Static { height: auto; color: $foreground; }
    NameDialog .says { min-height: 2; }
    """

    def __init__(self, heading: str, name: str, keys: str) -> None:
        """Prepare the dialog.

        Args:
            heading: what it asks for.
            name: stands in the field at first.
            keys: what its keys do.
        """
        super().__init__()
        self._heading, self._first, self._keys = heading, name, keys
        self._may_replace: str | None = None
        self._writing = False

    def trouble_with(self, name: str) -> str:
        """Return why a name will not do; empty if it will."""
        raise NotImplementedError

    def write(self, name: str, *, replace: bool) -> T:
        """Write under a name; called in a thread.

        Raises:
            Refused: it cannot be written.
        """
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Yield the question."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._heading, style="bold"))
            yield Input(self._first, select_on_focus=False, compact=True)
            yield Static("", classes="says", markup=False)
            yield Static(self._keys, markup=False)

    @on(Input.Changed)
    def _another_name(self) -> None:
        self._may_replace = None
        self._say("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        name = event.value.strip()
        if self._writing:
            return
        if trouble := self.trouble_with(name):
            self._say(trouble)
            return
        self._writing = True
        self._say("writing …")
        self._write(name, replace=name == self._may_replace)

    @work(thread=True)
    def _write(self, name: str, replace: bool) -> None:
        try:
            result = self.write(name, replace=replace)
        except Refused as refused:
            self.app.call_from_thread(self._refuse, name, refused)
        else:
            self.app.call_from_thread(self.dismiss, result)

    def _refuse(self, name: str, refused: Refused) -> None:
        self._writing = False
        self._may_replace = name if refused.may_replace else None
        self._say(str(refused))

    def _say(self, text: str) -> None:
        self.query_one(".says", Static).update(text)
