"""Figures and tables for a terminal of any width: figures are never cut, columns that do not fit go into another table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from studyctl.units import bytes_text, duration_text

MISSING = "–"
GAP = 2
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of figures."""

    header: str
    """May have line breaks."""
    cells: list[Text]
    left: bool = False
    """Whether to align left, for cells of several parts that should line up."""
    shorter: tuple[list[Text], ...] = ()
    """The same cells with fewer characters, the longest first: taken where they save a table."""

    @property
    def width(self) -> int:
        """Return the characters that it needs."""
        return max([*map(len, self.header.split("\n")), *(cell.cell_len for cell in self.cells)])

    def shortened(self, times: int) -> "Column":
        """Return the column with shorter cells, as short as it has them."""
        forms = (self.cells, *self.shorter)
        return replace(self, cells=forms[min(times, len(self.shorter))])


def print_tables(
    console: Console, label: str, names: Sequence[Text], columns: Sequence[Column], *, indent: int = 0
) -> None:
    """Print as many tables as it takes to show all columns, the row names repeated in each.

    Args:
        console: Where to print.
        label: Header above the row names.
        names: Row names; one that is longer than a third of the width is wrapped, at its ``@`` if it has one.
        columns: Figures, in order; all of them are shortened as far as that makes the tables fewer.
        indent: Blanks before each line.
    """
    width = console.width - indent
    most = max(12, width // 3)
    names = [name if name.cell_len <= most else _on_two_lines(name) for name in names]
    longest = max(line.cell_len for name in names for line in name.split("\n"))
    label_width = min(max(len(label), longest), most)
    room = width - label_width
    forms = [
        [column.shortened(times) for column in columns]
        for times in range(1 + max(len(column.shorter) for column in columns))
    ]
    columns = min(forms, key=lambda form: len(_chunks(form, room, len(form))))
    chunks = _chunks(columns, room, len(columns))
    if len(chunks) > 1:  # split evenly: not six columns and one
        chunks = _chunks(columns, room, -(-len(columns) // len(chunks)))
    for number, chunk in enumerate(chunks):
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        breaks = max(column.header.count("\n") for column in chunk)
        table.add_column(Text(_bottom_aligned(label, breaks)), width=label_width, overflow="fold")
        for column in chunk:
            table.add_column(
                Text(_bottom_aligned(column.header, breaks)),
                justify="left" if column.left else "right",
                overflow="fold",
                min_width=max(1, min(column.width, room - GAP)),
            )
        for row, name in enumerate(names):
            table.add_row(name, *(column.cells[row] for column in chunk))
        if number:
            console.print()
        console.print(Padding.indent(table, indent))


def _on_two_lines(name: Text) -> Text:
    """Return a name on two lines if it has a backend: ``awq-4bit-g64`` and ``@autoawq`` below it."""
    at = name.plain.rfind("@")
    return Text("\n").join(name.divide([at])) if at > 0 else name


def _bottom_aligned(header: str, breaks: int) -> str:
    """Return a header padded with line breaks on top, so that its last line is right above the figures."""
    return "\n" * (breaks - header.count("\n")) + header


def _chunks(columns: Sequence[Column], width: int, most: int) -> list[list[Column]]:
    """Split columns into parts that fit the width and have at most ``most``."""
    chunks: list[list[Column]] = [[]]
    free = width
    for column in columns:
        needed = column.width + GAP
        if chunks[-1] and (needed > free or len(chunks[-1]) == most):
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
    return Text(f"{prefix}{value:z.{decimals}f}")


def fixed(value: float | None, decimals: int) -> Text:
    """Show a figure with this many decimals."""
    return Text(MISSING if value is None or not math.isfinite(value) else f"{value:z.{decimals}f}")


def change(value: float | None, decimals: int = 3) -> Text:
    """Show a change with its sign and this many decimals."""
    if value is None or not math.isfinite(value):
        return Text(MISSING)
    text = f"{value:+z.{decimals}f}"
    return Text(text.removeprefix("+") if float(text) == 0 else text.replace("-", "−"))


def count(value: int | None) -> Text:
    """Show a whole number."""
    return Text(MISSING if value is None else str(value))


def duration(seconds: float | None) -> Text:
    """Show a time."""
    return Text(MISSING if seconds is None or not math.isfinite(seconds) else duration_text(seconds))


def size(count: int | None) -> Text:
    """Show an amount of memory."""
    return Text(MISSING if count is None else bytes_text(count))


def mib(value: float | None) -> Text:
    """Show a size in MiB, without the unit."""
    return fixed(value, 0 if value is not None and value >= 100 else 1)


def gib(count: int | None) -> Text:
    """Show an amount of memory in GiB, without the unit."""
    return ratio(None if count is None else count / 2**30)
