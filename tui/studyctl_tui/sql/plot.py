"""A picture of a result: points over a column of numbers, or bars with labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static
from textual_plot import PlotWidget

from studyctl.report.layout import ratio
from studyctl_tui.sql.cells import is_number

Floats = npt.NDArray[np.float64]
MOST_POINTS = 2000
"""Points of a series; of more rows every n-th is drawn."""
MOST_BARS = 200
STYLES = ("blue", "red", "green", "magenta", "cyan", "yellow")
MARKERS = ("●", "x", "+", "o", "◆", "*")
"""With the colours, so that series are told apart without them."""


@dataclass(frozen=True, slots=True)
class Plottable:
    """The columns of a result that a picture can be made of."""

    table: pa.Table
    labels: tuple[str, ...]
    """Names of columns of text."""
    numbers: tuple[str, ...]
    """Names of columns of numbers."""

    @property
    def bars(self) -> bool:
        """Whether labels with numbers are the better picture."""
        return bool(self.labels) and self.table.num_rows <= MOST_BARS


def plottable(table: pa.Table) -> Plottable | None:
    """Return what can be drawn of a result; None where it has no rows or no column of numbers."""
    names, taken = list(table.schema.names), set[str]()
    labels, numbers = [], []
    for name, kind in zip(names, table.schema.types, strict=True):
        if name in taken:
            continue  # of equal names the first
        taken.add(name)
        if is_number(kind):
            numbers.append(name)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            labels.append(name)
    first = table.select([names.index(name) for name in (*labels, *numbers)])
    return Plottable(first, tuple(labels), tuple(numbers)) if numbers and table.num_rows else None


class PlotDialog(ModalScreen[None]):
    """The picture. It is a view of the rows as they came; nothing is computed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f7", "dismiss", "Close"),
        Binding("b", "kind", "Bars or points", priority=True),
        Binding("right_square_bracket", "column(1)", "Next column", priority=True),
        Binding("left_square_bracket", "column(-1)", "Column before", priority=True),
    ]
    DEFAULT_CSS = """
    PlotDialog { align: center middle; }
    PlotDialog > Vertical { width: 96%; height: 96%; padding: 0 1; border: round $primary; background: $surface; }
    PlotDialog PlotWidget { height: 1fr; }
    PlotDialog PlotWidget > .plot--axis { color: $foreground; }
    PlotDialog PlotWidget > .plot--tick { color: $foreground; text-style: none; }
    PlotDialog PlotWidget > .plot--label { color: $foreground; text-style: bold; }
    PlotDialog PlotWidget #legend { border: solid $foreground; }
    PlotDialog VerticalScroll { height: 1fr; }
    PlotDialog .keys { height: 1; color: $text-muted; }
    """

    def __init__(self, data: Plottable) -> None:
        super().__init__()
        self._data = data
        self._bars = data.bars
        self._at = 0
        """Which column of numbers: the length of the bars, or what goes to the right."""

    def compose(self) -> ComposeResult:
        """Yield both pictures; one is shown."""
        with Vertical():
            yield Static(id="sql-plot-title", markup=False)
            yield PlotWidget()
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
        self.query_one(PlotWidget).display = not self._bars
        self.query_one(VerticalScroll).display = self._bars
        if self._bars:
            self.query_one(VerticalScroll).focus()
            self._draw_bars()
        else:
            self.query_one(PlotWidget).focus()
            self._draw_points()

    def _draw_bars(self) -> None:
        number, table = self._data.numbers[self._at], self._data.table.slice(0, MOST_BARS)
        labels = [
            " ".join(parts)
            for parts in zip(*(_texts(table, name) for name in self._data.labels[:2]), strict=True)
        ]
        room = max(20, self.query_one(VerticalScroll).size.width)
        self.query_one("#sql-bars", Static).update(bars(labels, _floats(table, number).tolist(), room))
        more = f", the first {MOST_BARS}" if self._data.table.num_rows > MOST_BARS else ""
        self._title(f"{number}, a bar a row{more}")

    def _draw_points(self) -> None:
        plot, numbers = self.query_one(PlotWidget), list(self._data.numbers)
        step = -(-self._data.table.num_rows // MOST_POINTS)
        plot.clear()
        across = numbers.pop(self._at) if len(numbers) > 1 else ""
        x = (
            _floats(self._data.table, across)[::step]
            if across
            else np.arange(self._data.table.num_rows, dtype=float)[::step]
        )
        drawn = np.empty(0)
        for number, (name, style, marker) in enumerate(zip(numbers, STYLES, MARKERS, strict=False)):
            y = _floats(self._data.table, name)[::step]
            plot.scatter(
                x, y, marker=marker, marker_style=style, label=name if number < len(STYLES) else None
            )
        plot.set_xlimits(*_room(x))
        plot.set_ylimits(*_room(drawn))
        plot.set_xlabel(across or "row")
        plot.set_ylabel(numbers[0] if len(numbers) == 1 else "")
        plot.show_legend(is_visible=len(numbers) > 1)
        hidden = f", the first {len(STYLES)} of {len(numbers)}" if len(numbers) > len(STYLES) else ""
        every = f", every {step}. row" if step > 1 else ""
        self._title(f"{', '.join(numbers[: len(STYLES)])} over {across or 'the rows'}{hidden}{every}")

    def _title(self, text: str) -> None:
        self.query_one("#sql-plot-title", Static).update(
            Text(text, style="bold", no_wrap=True, overflow="ellipsis")
        )


def bars(labels: Sequence[str], values: Sequence[float], width: int) -> Table:
    """Return bars of text, from zero; negative ones are told by their sign and another block."""
    known = [abs(value) for value in values if math.isfinite(value)]
    longest = max(known, default=0.0) or 1.0
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(10, width // 3))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    room = max(4, width - width // 3 - 14)
    for label, value in zip(labels, values, strict=True):
        table.add_row(
            Text(label),
            _figure(value),
            Text(_bar(value, longest, room), style="red" if value < 0 else "blue"),
        )
    return table


def _bar(value: float, longest: float, room: int) -> str:
    if not math.isfinite(value):
        return ""
    eighths = round(abs(value) / longest * room * 8)
    if value < 0:
        return "▒" * max(1, round(eighths / 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _figure(value: float) -> Text:
    return Text(f"{value:.4g}") if math.isfinite(value) else ratio(None)


def _floats(table: pa.Table, name: str) -> Floats:
    """Return a column as numbers, NaN for NULL."""
    column = pc.fill_null(table.column(name).cast(pa.float64(), safe=False), math.nan)
    found: Floats = column.to_numpy()
    return found


def _room(values: Floats) -> tuple[float | None, float | None]:
    """Return limits with some room around the points, as the frame would hide those at the edge."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None, None
    low, high = float(known.min()), float(known.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _texts(table: pa.Table, name: str) -> list[str]:
    return [" ".join((value or "").split()) for value in table.column(name).to_pylist()]
