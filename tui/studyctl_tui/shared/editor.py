"""The base class of the app's two text editors."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import TextArea


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
