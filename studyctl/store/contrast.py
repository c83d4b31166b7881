"""Two trials of a model compared on the same windows."""

from typing import NamedTuple

import duckdb
import numpy as np

from studyctl.contract.hypotheses import Measure, Metric
from studyctl.findings.cells import Figures, Side, difference
from studyctl.findings.estimates import Cannot, Cells, over_windows


class Contrast(NamedTuple):
    """How many bits per byte one trial needs more than another, in the mean over the languages."""

    bits_per_byte: float
    low: float
    """Ends of the 95 % interval over windows (see :mod:`studyctl.findings.estimates`)."""
    high: float
    windows: int
    """Windows, or documents where these are the units."""
    languages: int

    @property
    def is_told_apart(self) -> bool:
        """Return whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


def contrast(connection: duckdb.DuckDBPyConnection, model: str, left: str, right: str) -> Contrast | None:
    """Return what one trial of a model needs more than another; None where a language has too few windows of both."""
    sides = [Side(((trial,),)) for trial in (left, right)]
    metric = Metric(Measure.BITS_PER_BYTE)
    cells = Figures(connection, {model: (left, right)}).cells(model, metric).values()
    try:
        differences = [difference(cell.sides(metric.measure, sides), np.array([1.0, -1.0])) for cell in cells]
        if not differences:
            return None
        estimate = over_windows(
            Cells(*(np.array([[cell[place] for cell in differences]]) for place in range(3)))
        )
    except Cannot:
        return None
    return Contrast(estimate.value, *estimate.ends, estimate.units, len(differences))
