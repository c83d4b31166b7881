"""Numbers and tables for a terminal of any width: figures are never cut, columns that do not fit go into a further table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from studyctl.units import duration_text

MISSING = "–"
GAP = 2
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures."""

    header: str
    cells: list[Text]
    left: bool = False
    """Set flush left, for cells of several parts that stand above each other."""
    optional: bool = False
    """Left out where it does not fit, instead of going into a further table."""

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max([len(self.header), *(cell.cell_len for cell in self.cells)])


def fitting_tables(
    label: str, names: Sequence[Text], columns: Sequence[Column], width: int
) -> Iterator[Table]:
    """Yield tables that together show all columns, the row names repeated in each.

    Args:
        label: Header of the row names.
        names: Row names; one that is longer than a third of the width is wrapped.
        columns: Figures, in order.
        width: Characters a line.
    """
    label_width = min(max(len(label), *(name.cell_len for name in names)), max(12, width // 3))
    chunks = _chunks(columns, width - 1 - label_width, len(columns))
    if len(chunks) > 1:  # evenly: six and one would look forgotten
        chunks = _chunks(columns, width - 1 - label_width, -(-len(columns) // len(chunks)))
    for chunk in chunks:
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(Text(label), width=label_width, overflow="fold")
        for column in chunk:
            table.add_column(
                Text(column.header),
                justify="left" if column.left else "right",
                no_wrap=True,
                min_width=column.width,
            )
        for row, name in enumerate(names):
            table.add_row(name, *(column.cells[row] for column in chunk))
        yield table


def _chunks(columns: Sequence[Column], width: int, most: int) -> list[list[Column]]:
    """Split columns so that each part fits the width and has at most so many; optional ones only where there is room."""
    chunks: list[list[Column]] = [[]]
    free = width
    for column in columns:
        needed = column.width + GAP
        if chunks[-1] and (needed > free or len(chunks[-1]) == most):
            if column.optional:
                continue
            chunks.append([])
            free = width
        chunks[-1].append(column)
        free -= needed
    return chunks


def ratio(value: float | None, prefix: str = "") -> Text:
    """Show a ratio or a perplexity: about four digits."""
    if value is None or not math.isfinite(value):
        return Text(MISSING)
    if value >= 1e6:
        return Text(f"{prefix}{value:.1e}")
    decimals = 3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0
    return Text(f"{prefix}{value:.{decimals}f}")


def fixed(value: float | None, decimals: int) -> Text:
    """Show a figure with so many decimals."""
    return Text(MISSING if value is None or not math.isfinite(value) else f"{value:.{decimals}f}")


def change(value: float | None) -> Text:
    """Show a change with its sign and three decimals."""
    if value is None or not math.isfinite(value):
        return Text(MISSING)
    text = f"{value:+.3f}"
    return Text("±0.000" if float(text) == 0 else text.replace("-", "−"))


def count(value: int | None) -> Text:
    """Show a whole number."""
    return Text(MISSING if value is None else str(value))


def duration(seconds: float | None) -> Text:
    """Show a time."""
    return Text(MISSING if seconds is None or not math.isfinite(seconds) else duration_text(seconds))
