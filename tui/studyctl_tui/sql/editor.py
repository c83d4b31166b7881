"""Where a query is written: SQL in colours, and the place of a mistake underlined."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import ClassVar

import tree_sitter_sql
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.widgets import TextArea
from textual.widgets.text_area import TextAreaTheme
from tree_sitter import Language

from studyctl_tui.shared.editor import Editor

THEME = "studyctl-sql"
TAKEN = frozenset({"ctrl+e", "f6", "f7"})
"""Keys of a text area that are the screen's here."""
_COMMON = re.compile(
    r"\b(?:from|select|where|group|order|by|all|limit|join|left|using|on|as|and|or|not|in|is|with|having|qualify"
    r"|filter|over|union|asc|desc|distinct|case|when|then|else|end|describe|show|tables|summarize|explain|pivot"
    r"|unpivot|exclude|replace|columns)\b",
    re.IGNORECASE,
)
"""DuckDB begins queries with FROM, PIVOT or DESCRIBE, which the grammar does not know: it leaves those parts without a word."""
_OTHER_CAPTURES = """
(comment) @comment
(marginalia) @comment
(identifier) @identifier
(literal) @string
((literal) @number (#match? @number "^[-+0-9.]"))
(invocation (object_reference name: (identifier) @function))
(relation (object_reference name: (identifier) @relation))
"""


@cache
def _language() -> tuple[Language, str]:
    """Return the grammar, and the query that says what its parts are; of keywords it has one kind each."""
    language = Language(tree_sitter_sql.language())
    kinds = {
        kind
        for number in range(language.node_kind_count)
        if language.node_kind_is_named(number) and (kind := language.node_kind_for_id(number) or "")
    }
    keywords = " ".join(f"({kind})" for kind in sorted(kinds) if kind.startswith("keyword_"))
    return language, f"{_OTHER_CAPTURES}\n[{keywords}] @keyword"


def _bindings() -> Iterator[Binding]:
    """Yield a text area's bindings without the keys that are taken."""
    for binding in (*TextArea.BINDINGS, *Editor.BINDINGS):
        assert isinstance(binding, Binding)
        if keys := [key for key in binding.key.split(",") if key not in TAKEN]:
            yield replace(binding, key=",".join(keys))


class SqlEditor(Editor, inherit_bindings=False):
    """A text area that knows SQL."""

    BINDINGS: ClassVar[list[BindingType]] = list(_bindings())

    def __init__(self, text: str = "") -> None:
        super().__init__(
            text,
            id="sql-editor",
            theme="css",
            compact=True,
            soft_wrap=True,
            show_line_numbers=True,
            highlight_cursor_line=False,
            placeholder="select … from …",
        )
        self._mark: tuple[int, int, int] | None = None
        """Row, first and last column (from 0) of the mistake."""
        self._keyword = Style(bold=True)
        self.register_language("sql", *_language())
        self.language = "sql"

    def on_mount(self) -> None:
        """Take the colours of the app's theme, now and when it changes."""
        self.watch(self.app, "theme", self._take_colours)

    def _take_colours(self) -> None:
        theme = self.app.current_theme
        # a keyword may stand in a comment or string for the pattern above, so these say that they are not bold
        self._keyword = Style(color=_colour(theme.primary), bold=True)
        plain = Style(color=_colour(theme.foreground), bold=False)
        styles = {
            "keyword": self._keyword,
            "identifier": plain,
            "relation": Style(color=_colour(theme.secondary), bold=False),
            "function": Style(color=_colour(theme.secondary), bold=False),
            "string": Style(color=_colour(theme.success), bold=False),
            "number": Style(color=_colour(theme.accent), bold=False),
            "comment": Style(bold=False, italic=True, dim=True),
        }
        self.register_theme(TextAreaTheme(THEME, syntax_styles=styles))
        self.theme = THEME

    def get_line(self, line_index: int) -> Text:
        """Return a line with what the grammar's colours are laid over."""
        line = super().get_line(line_index)
        for word in _COMMON.finditer(line.plain):
            line.stylize(self._keyword, *word.span())
        if self._mark is not None and self._mark[0] == line_index:
            line.stylize(Style(underline=True, reverse=True), self._mark[1], self._mark[2])
        return line

    def put(self, text: str) -> None:
        """Replace everything; undo brings it back."""
        self.replace(text, self.document.start, self.document.end)
        self.history.checkpoint()
        self.move_cursor((0, 0))

    def place(self, line: int, column: int, length: int) -> None:
        """Put the cursor at a mistake and underline it; numbers from 1, as problems have them."""
        row, first = line - 1, column - 1
        self.move_cursor((row, first))
        self._mark = (row, first, first + max(1, length))
        self.notify_style_update()

    def unmark(self) -> None:
        """Take the underline away."""
        if self._mark is not None:
            self._mark = None
            self.notify_style_update()

    def on_text_area_changed(self) -> None:
        """Forget the mistake: it may be mended."""
        self.unmark()


def _colour(name: str | None) -> str | None:
    """Return a theme's colour as rich names it."""
    return Color.parse(name).rich_color.name if name else None
