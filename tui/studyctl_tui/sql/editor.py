"""The editor of queries: SQL in colours, the place of a mistake underlined, and a list of what could be written."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import ClassVar

import tree_sitter_sql
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets.text_area import TextAreaTheme
from tree_sitter import Language
from typing_extensions import override

from studyctl.completions import Completions, Item
from studyctl.sql.completion import Catalog, complete
from studyctl_tui.shared.editor import CompletingEditor

THEME = "studyctl-sql"
LIVELY = 12 << 10
"""Maximum characters of a text in which the list opens by itself: typing would lag with more."""
_COMMON = re.compile(
    r"\b(?:from|select|where|group|order|by|all|limit|join|left|using|on|as|and|or|not|in|is|with|having|qualify"
    r"|filter|over|union|asc|desc|distinct|case|when|then|else|end|describe|show|tables|summarize|explain|pivot"
    r"|unpivot|exclude|replace|columns)\b",
    re.IGNORECASE,
)
"""Keywords by pattern: the grammar knows no query that begins with FROM, PIVOT or DESCRIBE and leaves it unhighlighted."""
_BEGUN = re.compile(r'[^\W\d]\w+$|[\w"]\.$')
"""What is before the cursor when the list opens by itself: two letters of a word, or a dot after a name."""
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
    """Return the grammar and its highlight query; the grammar has a node kind for each keyword."""
    language = Language(tree_sitter_sql.language())
    kinds = {
        kind
        for number in range(language.node_kind_count)
        if language.node_kind_is_named(number) and (kind := language.node_kind_for_id(number) or "")
    }
    keywords = " ".join(f"({kind})" for kind in sorted(kinds) if kind.startswith("keyword_"))
    return language, f"{_OTHER_CAPTURES}\n[{keywords}] @keyword"


class SqlEditor(CompletingEditor):
    """A text area that knows SQL."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+space,ctrl+@,ctrl+n", "complete", "What could be written here", show=False)
    ]

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
        self.catalog: Catalog | None = None
        """What is completed; None: it is not known yet."""
        self._typed = False
        """Whether the last edit was a character from the keyboard."""
        self._mark: tuple[int, int, int] | None = None
        """Row, first and last column (from 0) of the mistake."""
        self._keyword = Style(bold=True)
        for key in ("ctrl+e", "f6", "f7"):  # these are the screen's, in its order in the footer
            del self._bindings.key_to_bindings[key]
        self.register_language("sql", *_language())
        self.language = "sql"

    def on_mount(self) -> None:
        """Take the colours of the app's theme, now and when it changes."""
        self.watch(self.app, "theme", self._take_colours)

    def _take_colours(self) -> None:
        theme = self.app.current_theme
        colours = {
            "keyword": theme.primary,
            "identifier": theme.foreground,
            "relation": theme.secondary,
            "function": theme.secondary,
            "string": theme.success,
            "number": theme.accent,
        }
        # the pattern above also matches in comments and strings: their styles turn bold off
        styles = {
            name: Style(color=Color.parse(colour).rich_color if colour else None, bold=name == "keyword")
            for name, colour in colours.items()
        }
        self._keyword = styles["keyword"]
        styles["comment"] = Style(bold=False, italic=True, dim=True)
        self.register_theme(TextAreaTheme(THEME, syntax_styles=styles))
        self.theme = THEME

    def get_line(self, line_index: int) -> Text:
        """Return a line with keywords and mistake; the grammar's colours are laid over them."""
        line = super().get_line(line_index)
        for word in _COMMON.finditer(line.plain):
            line.stylize(self._keyword, *word.span())
        if self._mark is not None and self._mark[0] == line_index:
            line.stylize(Style(underline=True, reverse=True), self._mark[1], self._mark[2])
        return line

    def put(self, text: str) -> None:
        """Replace everything; undo brings it back."""
        self.history.checkpoint()
        self.replace(text, self.document.start, self.document.end)
        self.history.checkpoint()
        self.move_cursor((0, 0))

    def rearrange(self, text: str) -> None:
        """Put the same query in another layout; the cursor stays where it was in the query, and undo brings the old one back."""
        row, column = self.cursor_location
        before = [*self.document.lines[:row], self.document.get_line(row)[:column]]
        ahead = sum(not character.isspace() for line in before for character in line)
        self.put(text)
        places = (
            (row, column)
            for row, line in enumerate(self.document.lines)
            for column, character in enumerate(line)
            if not character.isspace()
        )
        self.move_cursor(next(islice(places, ahead, None), self.document.end))

    def place(self, line: int, column: int, length: int) -> None:
        """Put the cursor at a mistake and underline it; line and column from 1, as in problems."""
        row, first = line - 1, column - 1
        self.move_cursor((row, first))
        self._mark = (row, first, first + max(1, length))
        self.notify_style_update()

    def unmark(self) -> None:
        """Take the underline away."""
        if self._mark is not None:
            self._mark = None
            self.notify_style_update()

    # -- completion

    @override
    def complete(self) -> Completions:
        row, column = self.cursor_location
        if self.catalog is None:
            return Completions(column, column, ())
        return complete(self.text, row, column, self.catalog)

    @override
    def worth_showing(self, items: Sequence[Item], typed: str) -> Sequence[Item]:
        """Return nothing for a word that is written out: enter then begins a new line."""
        return () if typed.lower() in (item.insert.lower() for item in items) else items

    @override
    def edit(self, edit: Edit) -> EditResult:
        """Perform an edit, and remember whether it may open the list."""
        self._typed = len(edit.text) == 1
        return super().edit(edit)

    def on_text_area_changed(self) -> None:
        """Forget the mistake, which may be corrected, and open the list once there is enough of a word."""
        self.unmark()
        row, column = self.cursor_location
        typed, self._typed = self._typed, False
        begun = _BEGUN.search(self.document.get_line(row)[:column]) is not None
        if typed and begun and not self.completions.is_open and len(self.text) <= LIVELY:
            self.offer()
