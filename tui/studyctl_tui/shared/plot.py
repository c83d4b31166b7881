"""The base class of the app's two plots."""

import numpy as np
import numpy.typing as npt
from textual.app import ComposeResult
from textual.containers import Grid
from textual.strip import Strip
from textual_plot import PlotWidget
from textual_plot.plot_widget import Canvas, Legend


class _Canvas(Canvas):  # type: ignore[misc]  # its package has no types
    """A canvas that can be drawn before it has its size: lines without a style break the filter of NO_COLOR."""

    def render_line(self, y: int) -> Strip:
        """Draw a line; a blank one where the canvas does not reach yet."""
        strip: Strip = super().render_line(y)
        return strip if strip.cell_length else Strip.blank(self.size.width, self.rich_style)


class Plot(PlotWidget):  # type: ignore[misc]  # its package has no types
    """A plot on such canvases, in the theme's colours."""

    DEFAULT_CSS = """
    Plot > .plot--axis { color: $foreground; }
    Plot > .plot--tick { color: $foreground; text-style: none; }
    Plot > .plot--label { color: $foreground; text-style: bold; }
    Plot #legend { border: solid $foreground; }
    """

    def compose(self) -> ComposeResult:
        """Yield what the plot expects."""
        with Grid():
            for name in ("margin-top", "margin-left", "plot", "margin-bottom"):
                yield _Canvas(1, 1, id=name)
        yield Legend(id="legend")


def padded(values: npt.ArrayLike) -> tuple[float, float]:
    """Return limits with some room around the finite values: the frame would hide what is at the edge."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    room = 0.08 * (high - low) or max(abs(high) * 0.05, 0.01)
    return low - room, high + room
