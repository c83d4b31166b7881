"""Figures as cells of tables: with their interval, and marked where that holds no change."""

from typing import NamedTuple

from rich.text import Text

from studyctl.report.document.model import Cell
from studyctl.report.effects import effect
from studyctl.report.findings import excludes_no_change, figure


def compared(row: NamedTuple, name: str) -> Cell:
    """Return a figure of a row that is compared with dense; see :func:`studyctl.report.effects.effect`."""
    shown = effect(row, name)
    return Cell(shown.figure(), shown.spread().strip(), shown.is_unsure)


def estimate(metric: str, value: float | None, low: float | None, high: float | None) -> Cell:
    """Return an estimate of a hypothesis; its metric says how it is written, and what no difference is."""
    if value is None or low is None or high is None:
        return Cell(figure(metric, value))
    interval = f"[{figure(metric, low)}, {figure(metric, high)}]"
    return Cell(figure(metric, value), interval, not excludes_no_change(metric, low, high))


def plain(text: Text | str) -> Cell:
    """Return a cell without an interval."""
    return Cell(text if isinstance(text, str) else text.plain)
