"""Figures as cells of tables: always with their interval, and marked where that includes no change."""

import math
from collections.abc import Callable

from rich.text import Text

from studyctl.report.document.model import UNSURE, Cell
from studyctl.report.layout import MISSING, change, fixed

MARKS = f"In brackets: 95 % intervals. {UNSURE} (grey): before rounding, the interval includes no change, so no change cannot be excluded."


def includes(low: float | None, high: float | None, no_change: float) -> bool:
    """Return whether an interval includes no change."""
    return low is not None and high is not None and low <= no_change <= high


def cell(
    value: float | None,
    low: float | None,
    high: float | None,
    show: Callable[[float | None], Text] = change,
    no_change: float | None = 0.0,
) -> Cell:
    """Return a figure with its interval.

    Args:
        value: the figure; None if there is none.
        low: lower end of its interval; None if there is none.
        high: upper end.
        show: how figures are written.
        no_change: value of no change; None if the figure is no comparison.
    """
    text = show(value).plain
    if text == MISSING or low is None or high is None or not math.isfinite(low + high):
        return Cell(text)
    unsure = no_change is not None and includes(low, high, no_change)
    return Cell(text, f"[{show(low).plain}, {show(high).plain}]", unsure)


def plain(text: Text | str) -> Cell:
    """Return a cell without an interval."""
    return Cell(text if isinstance(text, str) else text.plain)


def three(value: float | None) -> Text:
    """Show a figure with three decimals."""
    return fixed(value, 3)
