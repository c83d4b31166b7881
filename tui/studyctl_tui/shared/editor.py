"""The base classes of the app's two text editors."""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.widgets import TextArea
from typing_extensions import override

from studyctl.completions import Completions, Item
from studyctl_tui.shared.completions import CompletionList

STEPS = {"up": -1, "down": 1, "pageup": -5, "pagedown": 5}
"""How far a key goes in the list of completions."""


class Editor(TextArea):
    """A text area whose keys take effect in the order in which they are pressed.

    Textual inserts a letter at once, but runs a key's binding only after the key went up through all widgets: if keys come
    fast, a letter overtakes a backspace. Here bindings run at once too.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+home", "document_start", "Go to the beginning of the text", show=False),
        Binding("ctrl+end", "document_end", "Go to the end of the text", show=False),
    ]

    async def _on_key(self, event: events.Key) -> None:
        if event.key.startswith("alt+"):
            event.prevent_default()  # these keys are the app's, even if a terminal sends a letter with them
            return
        for binding in self._bindings.key_to_bindings.get(event.key, ()):
            if await self.app.run_action(binding.action, default_namespace=self):
                event.stop()
                event.prevent_default()
                return

    def action_document_start(self) -> None:
        """Go to the beginning."""
        self.move_cursor(self.document.start)

    def action_document_end(self) -> None:
        """Go to the end."""
        self.move_cursor(self.document.end)


class CompletingEditor(Editor):
    """An editor with a list of what could be written at the cursor."""

    _span = (0, 0, 0)
    """Row, first and last column of what an item replaces."""

    @cached_property
    def completions(self) -> CompletionList:
        """The list at the cursor. The screen composes it and hands its clicks to :meth:`accept`: a text area shows no children."""
        return CompletionList()

    def complete(self) -> Completions:
        """Return what could be written at the cursor."""
        raise NotImplementedError

    def worth_showing(self, items: Sequence[Item], typed: str) -> Sequence[Item]:
        """Return the items that a list which nobody asked for has, where `typed` is before the cursor."""
        return items

    def action_complete(self) -> None:
        """Open the list of what could be written here."""
        if not self.read_only:
            self.offer(asked=True)

    def offer(self, *, asked: bool = False) -> None:
        """Show what could be written here; close the list if that is nothing, and say so if it was asked for."""
        row, column = self.cursor_location
        possible = self.complete()
        typed = self.document.get_line(row)[possible.start : column]
        items = possible.items if asked else self.worth_showing(possible.items, typed)
        if not items:
            if asked:
                self.app.notify("nothing else could be written here", timeout=3)
            self.completions.close()
            return
        self._span = (row, possible.start, possible.end)
        x, y = self.cursor_screen_offset
        self.completions.open(items, x - (column - possible.start), y)

    def accept(self) -> None:
        """Write the item of the list that is chosen."""
        item = self.completions.chosen
        self.completions.close()
        row, start, end = self._span
        self.history.checkpoint()
        self.replace(item.insert, (row, start), (row, end), maintain_selection_offset=False)
        self.move_cursor((row, start + len(item.insert)))

    @on(TextArea.Changed)
    @on(TextArea.SelectionChanged)
    def _follow(self) -> None:
        """Filter the list as one types; close it when the cursor goes elsewhere."""
        if not self.completions.is_open:
            return
        row, column = self.cursor_location
        if row != self._span[0] or column < self._span[1]:
            self.completions.close()
        else:
            self.offer()

    @override
    async def _on_key(self, event: events.Key) -> None:
        key, shown = event.key, self.completions.is_open
        if shown and key in STEPS:
            self.completions.move(STEPS[key])
        elif shown and key in ("enter", "tab"):
            self.accept()
        elif shown and key == "escape":
            self.completions.close()
        else:
            return
        event.stop()
        event.prevent_default()

    def _on_blur(self, event: events.Blur) -> None:
        self.completions.close()
