"""The views and tables with their columns, and a comment on each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static, Tree

from studyctl.sql.vocabulary import quoted
from studyctl.store.session import CatalogTable


class Entry(NamedTuple):
    """A line of the tree."""

    name: str
    about: str
    """The text below the tree."""


class CatalogTree(Tree[Entry]):
    """The tree itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Insert"),
        Binding("space", "toggle_node", "Open or close", show=False),
        Binding("right,l", "open", "Open", show=False),
        Binding("left,h", "shut", "Close", show=False),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__("tables", id="sql-catalog")
        self.show_root = False
        self.guide_depth = 2
        self.auto_expand = False

    def action_open(self) -> None:
        """Show the columns of the table at the cursor."""
        if (node := self.cursor_node) is not None:
            node.expand()

    def action_shut(self) -> None:
        """Close the table at the cursor, or that of the column there."""
        node = self.cursor_node
        if node is not None and not node.is_expanded and node.parent is not None and not node.parent.is_root:
            node = node.parent
            self.move_cursor(node)
        if node is not None:
            node.collapse()


class CatalogPane(Vertical):
    """The tree, and below it the comment on the line at the cursor."""

    DEFAULT_CSS = """
    CatalogPane { width: 30; border-right: solid $panel; }
    CatalogPane Tree { height: 1fr; background: $background; padding: 0; scrollbar-size: 1 1; }
    CatalogPane Static { height: auto; max-height: 8; min-height: 3; padding: 0 1; color: $foreground; background: $panel; }
    """

    def __init__(self) -> None:
        super().__init__(id="sql-tree")
        self._shown: tuple[CatalogTable, ...] = ()

    def compose(self) -> ComposeResult:
        """Yield tree and comment."""
        yield CatalogTree()
        yield Static(id="sql-comment", markup=False)

    def show(self, tables: Sequence[CatalogTable]) -> None:
        """Draw the tables; where only the counts changed, nodes stay open."""
        tables, old = tuple(tables), self._shown
        if tables == old:
            return
        self._shown = tables
        tree = self.query_one(CatalogTree)
        if [replace(table, rows=None) for table in tables] == [replace(table, rows=None) for table in old]:
            for node, table in zip(tree.root.children, tables, strict=True):
                node.set_label(_table_label(table))
            return
        tree.clear()
        for table in tables:
            about = f"{'view' if table.view else 'table'} {table.name}: {table.comment}"
            node = tree.root.add(_table_label(table), Entry(quoted(table.name), about))
            for column in table.columns:
                label = Text.assemble(column.name, " ", (column.type.lower(), "dim"))
                node.add_leaf(label, Entry(quoted(column.name), f"{column.name}: {column.comment}"))
        tree.root.expand()

    @on(Tree.NodeHighlighted)
    def _explain(self, event: Tree.NodeHighlighted[Entry]) -> None:
        self.query_one("#sql-comment", Static).update(event.node.data.about if event.node.data else "")


def _table_label(table: CatalogTable) -> Text:
    rows = "" if table.rows is None else f" {table.rows:,}"
    return Text.assemble((table.name, "bold" if table.view else ""), (rows, "dim"))
