"""A picture of a result: points over a column of numbers, or bars with labels."""

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from studyctl.report.layout import MISSING
from studyctl_tui.shared.dialogs import Dialog
from studyctl_tui.shared.plot import Plot, padded
from studyctl_tui.sql.cells import is_number

Floats = npt.NDArray[np.float64]
MOST_POINTS = 2000
"""Maximum points of a series; if there are more rows, every n-th is drawn."""
MOST_BARS = 200
STYLES = ("blue", "red", "green", "magenta", "cyan", "yellow")
MARKERS = ("●", "x", "+", "o", "◆", "*")
"""A marker for each colour, so that series differ without colours too."""


class Plottable(NamedTuple):
    """The columns of a result that can be drawn."""

    table: pa.Table
    labels: list[str]
    """Names of columns of text."""
    numbers: list[str]
    """Names of columns of numbers."""


def plottable(table: pa.Table) -> Plottable | None:
    """Return what can be drawn of a result; None where it has no rows or no column of numbers."""
    names = table.schema.names
    table = table.select([names.index(name) for name in dict.fromkeys(names)])  # of equal names the first
    labels = [field.name for field in table.schema if pa.types.is_string(field.type)]
    numbers = [field.name for field in table.schema if is_number(field.type)]
    return Plottable(table, labels, numbers) if numbers and table.num_rows else None


class PlotDialog(Dialog[None]):
    """The picture of the rows as they are; nothing is computed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f7", "dismiss", "Close"),
        Binding("b", "kind", "Bars or points", priority=True),
        Binding("right_square_bracket", "column(1)", "Next column", priority=True),
        Binding("left_square_bracket", "column(-1)", "Column before", priority=True),
    ]
    DEFAULT_CSS = """
    PlotDialog .dialog { width: 96%; max-width: 96%; height: 96%; max-height: 96%; padding: 0 1; }
    PlotDialog Plot { height: 1fr; }
    PlotDialog VerticalScroll { height: 1fr; }
    PlotDialog .keys { height: 1; color: $text-muted; }
    """

    def __init__(self, data: Plottable) -> None:
        super().__init__()
        self._data = data
        self._bars = bool(data.labels) and data.table.num_rows <= MOST_BARS
        self._at = 0
        """Index in the columns of numbers: the length of the bars, or the x axis."""

    def compose(self) -> ComposeResult:
        """Yield both pictures; one is shown."""
        with Vertical(classes="dialog"):
            yield Static(id="sql-plot-title", markup=False)
            yield Plot()
            with VerticalScroll():
                yield Static(id="sql-bars")
            yield Static(
                "[ ] another column · b bars or points · + - zoom · esc closes", classes="keys", markup=False
            )

    def on_mount(self) -> None:
        """Draw."""
        self.call_after_refresh(self._draw)

    def on_resize(self) -> None:
        """Bars follow the width."""
        self.call_after_refresh(self._draw)

    def action_kind(self) -> None:
        """Show the other picture, where there are labels for bars."""
        if self._data.labels:
            self._bars = not self._bars
            self._draw()

    def action_column(self, step: int) -> None:
        """Take another column of numbers."""
        self._at = (self._at + step) % len(self._data.numbers)
        self._draw()

    def _draw(self) -> None:
        plot, scroll = self.query_one(Plot), self.query_one(VerticalScroll)
        plot.display, scroll.display = not self._bars, self._bars
        (scroll if self._bars else plot).focus()
        title = self._draw_bars() if self._bars else self._draw_points()
        self.query_one("#sql-plot-title", Static).update(
            Text(title, style="bold", no_wrap=True, overflow="ellipsis")
        )

    def _draw_bars(self) -> str:
        """Draw the bars and return the title."""
        number, table = self._data.numbers[self._at], self._data.table.slice(0, MOST_BARS)
        columns = [table.column(name).to_pylist() for name in self._data.labels[:2]]
        labels = [
            " ".join(" ".join((part or "").split()) for part in parts) for parts in zip(*columns, strict=True)
        ]
        room = max(20, self.query_one(VerticalScroll).size.width)
        self.query_one("#sql-bars", Static).update(bars(labels, _floats(table, number).tolist(), room))
        more = f", the first {MOST_BARS}" if self._data.table.num_rows > MOST_BARS else ""
        return f"{number}, a bar a row{more}"

    def _draw_points(self) -> str:
        """Draw the points and return the title."""
        plot, table, numbers = self.query_one(Plot), self._data.table, list(self._data.numbers)
        step = -(-table.num_rows // MOST_POINTS)
        across = numbers.pop(self._at) if len(numbers) > 1 else ""
        x = (_floats(table, across) if across else np.arange(table.num_rows, dtype=float))[::step]
        series = {name: _floats(table, name)[::step] for name in numbers[: len(STYLES)]}
        plot.clear()
        for (name, y), style, marker in zip(series.items(), STYLES, MARKERS, strict=False):
            plot.scatter(x, y, marker=marker, marker_style=style, label=name)
        plot.set_xlimits(*padded(x))
        plot.set_ylimits(*padded(np.concatenate(list(series.values()))))
        plot.set_xlabel(across or "row")
        plot.set_ylabel(numbers[0] if len(numbers) == 1 else "")
        plot.show_legend(is_visible=len(numbers) > 1)
        hidden = f", the first {len(STYLES)} of {len(numbers)}" if len(numbers) > len(STYLES) else ""
        every = f", every {step}. row" if step > 1 else ""
        return f"{', '.join(series)} over {across or 'the rows'}{hidden}{every}"


def bars(labels: Sequence[str], values: Sequence[float], width: int) -> Table:
    """Return bars of text, from zero; negative ones differ by their sign and another block."""
    longest = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // 3))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    room = max(4, width - width // 3 - 14)
    for label, value in zip(labels, values, strict=True):
        if not math.isfinite(value):
            table.add_row(Text(label), MISSING, "")
            continue
        eighths = round(abs(value) / longest * room * 8)
        if value < 0:
            bar = Text("▒" * max(1, round(eighths / 8)), style="red")
        else:
            bar = Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), style="blue")
        table.add_row(Text(label), f"{value:.4g}", bar)
    return table


def _floats(table: pa.Table, name: str) -> Floats:
    """Return a column as numbers, NaN for NULL."""
    column = pc.fill_null(table.column(name).cast(pa.float64(), safe=False), math.nan)
    numbers: Floats = column.to_numpy()
    return numbers
