"""The text of a spec: colours, problems underlined at their place, and a list of what could be written."""

import re
from collections.abc import Sequence
from typing import ClassVar

import tree_sitter_toml
from rich.style import Style
from rich.text import Span, Text
from textual.binding import Binding, BindingType
from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets.text_area import Selection, TextAreaTheme
from tree_sitter import Language
from typing_extensions import override

from studyctl.completions import Completions, Item
from studyctl.errors import Problem
from studyctl.spec.assist import Help, complete, explain
from studyctl.spec.editing import as_drawn, as_meant, as_shown
from studyctl_tui.shared.dialogs import InputScreen
from studyctl_tui.shared.editor import CompletingEditor

HIGHLIGHTS = """
(table [(bare_key) (dotted_key) (quoted_key)] @table)
(table_array_element [(bare_key) (dotted_key) (quoted_key)] @table)
(pair [(bare_key) (dotted_key) (quoted_key)] @key)
(string) @string
[(integer) (float) (boolean)] @number
(comment) @comment
"""
"""The syntax to colour, by name; each name has a style below."""
NAMES = ("table", "key", "string", "number", "comment")

LIVELY = 24 << 10
"""Maximum characters of a text that is coloured and explained at every key: typing would lag with more."""
SEVERITIES = ("error", "warning")


class SpecEditor(CompletingEditor):
    """The text area, with problems and completions; files are handled by the screen."""

    DEFAULT_CSS = """
    SpecEditor {
        border: none; padding: 0; height: 1fr; background: $background; scrollbar-size: 0 1;
        &:focus { border: none; }
        & .spec--table { color: $primary; text-style: bold; }
        & .spec--key { color: $primary; }
        & .spec--string { color: $success; }
        & .spec--number { color: $accent; }
        & .spec--comment { color: $text-muted; text-style: italic; }
        & .spec--error { color: $error; text-style: underline bold; }
        & .spec--warning { color: $warning; text-style: underline; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"spec--{name}" for name in (*NAMES, *SEVERITIES)}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+n,ctrl+space,ctrl+@",
            "complete",
            "Complete",
            key_display="^n",
            tooltip="what could be written here",
        ),
        Binding("escape", "screen.text", "From the text to the panes and back", show=False),
        Binding("ctrl+g", "to_line", "Go to a line", show=False),
        Binding("ctrl+f", "find", "Find", show=False),
        Binding("f3", "find_again", "Find the next", show=False),
        Binding("ctrl+z,super+z", "undo", "Undo", show=False),
        Binding("ctrl+y,super+y,ctrl+shift+z", "redo", "Redo", show=False),
    ]

    def __init__(self) -> None:
        self._marks: dict[int, list[tuple[int, int, str]]] = {}
        """Columns of problems by row: start, end, severity."""
        super().__init__(soft_wrap=False, tab_behavior="indent", show_line_numbers=True, id="editor")
        self.indent_width = 4
        self._sought = ""

    def on_mount(self) -> None:
        """Take the colours of the app."""
        self.register_language("toml", Language(tree_sitter_toml.language()), HIGHLIGHTS)
        self.language = "toml"
        self.app.theme_changed_signal.subscribe(self, self._recolour)  # its colours are known by then
        self._recolour()

    def _recolour(self, _: object = None) -> None:
        styles = {name: self._style(name) for name in (*NAMES, *SEVERITIES)}
        self.register_theme(TextAreaTheme("spec", syntax_styles=styles))
        self.theme = "spec"

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"spec--{name}", partial=True)

    # -- text

    @property
    def meant(self) -> str:
        """The text to check: with the original characters that the editor shows as others."""
        return as_meant(self.text)

    def edit(self, edit: Edit) -> EditResult:
        """Perform an edit, with line ends and special characters in its text replaced first."""
        edit.text = as_shown(edit.text.replace("\r\n", "\n").replace("\r", "\n"))
        return super().edit(edit)

    def load(self, text: str, *, read_only: bool) -> None:
        """Show another text."""
        self.completions.close()
        self.mark(())
        self.language = "toml" if len(text) <= LIVELY else None
        self.load_text(text)
        self.read_only = read_only
        self.indent_type = "tabs" if "\n\t" in text else "spaces"

    def exchange(self, text: str) -> None:
        """Put another text in place of this one as an edit, so that it can be undone; the cursor stays near."""
        place = self.cursor_location
        self.history.checkpoint()
        self.replace(text, self.document.start, self.document.end, maintain_selection_offset=False)
        self.move_cursor(place, center=True)

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is drawn; a problem behind its end is underlined there."""
        text = as_drawn(self.document.get_line(line_index))
        line = Text(text, end="", no_wrap=True)
        for start, _, severity in self._marks.get(line_index, ()):
            if start >= len(text):  # `stylize` would leave it out: the blank for the cursor comes later
                line.spans.append(Span(len(text), len(text) + 1, self._style(severity)))
        return line

    def mark(self, problems: Sequence[Problem]) -> None:
        """Underline problems at their places in this text."""
        marks: dict[int, list[tuple[int, int, str]]] = {}
        for problem in problems:
            if problem.line is not None:
                start = (problem.column or 1) - 1
                end = start + problem.length
                marks.setdefault(problem.line - 1, []).append((start, end, problem.severity))
        if marks != self._marks:
            self._marks = marks
            self._build_highlight_map()
            self.refresh()

    def _build_highlight_map(self) -> None:
        """Colour the text, then the problems in it: what comes later is drawn over what was before."""
        super()._build_highlight_map()
        for row, marks in self._marks.items():
            line = self.document.get_line(row) if row < self.document.line_count else ""
            for start, end, severity in marks:
                if start < len(line):
                    columns = len(line[:start].encode()), len(line[:end].encode())
                    self._highlights[row].append((*columns, severity))

    # -- going to places

    def show_place(self, line: int, column: int = 1) -> None:
        """Move the cursor to a place, counted from 1, and show it in the middle."""
        self.move_cursor((line - 1, column - 1), center=True)

    def action_to_line(self) -> None:
        """Ask for a line and go there."""

        def answered(text: str | None) -> None:
            if numbers := re.findall(r"\d+", text or ""):
                self.show_place(*map(int, numbers[:2]))

        self.app.push_screen(InputScreen("go to line, or line:column", restrict=r"[\d:]*"), answered)

    def action_find(self) -> None:
        """Ask for a text and go to where it is next."""

        def answered(text: str | None) -> None:
            self._sought = text or self._sought
            if text:
                self.action_find_again()

        self.app.push_screen(InputScreen("find (F3: the next)", self._sought), answered)

    def action_find_again(self) -> None:
        """Select the next match of the sought text, wrapping at the end; case matters only if the text has capitals."""
        sought, text, line = self._sought, self.text, self.document.get_line
        if sought == sought.lower() and len(text.lower()) == len(text):
            text = text.lower()
        row, column = max(self.selection)
        start = sum(len(line(above)) + 1 for above in range(row)) + column
        index = text.find(sought, start)
        index = text.find(sought) if index < 0 else index
        if index < 0:
            self.app.notify(f"there is no “{sought}” in this text", markup=False)
        elif sought:
            row, column = text.count("\n", 0, index), index - text.rfind("\n", 0, index) - 1
            self.selection = Selection((row, column), (row, column + len(sought)))
            self.scroll_cursor_visible(center=True)

    # -- help and completions

    def explained(self) -> Help | None:
        """Return what the key at the cursor means; None where that is not known."""
        return explain(self.text, *self.cursor_location) if self.language else None

    @override
    def complete(self) -> Completions:
        return complete(self.text, *self.cursor_location)

    @override
    def worth_showing(self, items: Sequence[Item], typed: str) -> Sequence[Item]:
        """Leave out what is written already."""
        return [item for item in items if item.insert.rstrip(" =") != typed]

    @override
    def accept(self) -> None:
        """Write the chosen item; after a key, offer its values."""
        item = self.completions.chosen
        super().accept()
        if item.insert.endswith("= "):
            self.offer()
