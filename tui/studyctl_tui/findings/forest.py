"""A forest plot of text: intervals as bars on one scale, with a line where there is no difference."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

LOW, HIGH, DASH, POINT, ZERO, CROSSED = "├┤─●│┼"
CUT_LOW, CUT_HIGH = "◂▸"
"""In place of an end that is outside."""
ROOM = 1.0
"""What the scale leaves for intervals on each side of the estimates, as a share of their range."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval, as differences: of ratios these are logarithms."""

    low: float
    estimate: float
    high: float

    @classmethod
    def of_ratios(cls, low: float, estimate: float, high: float) -> "Interval":
        """Return the logarithms of ratios."""
        return cls(*(math.log(value) if value > 0 else -math.inf for value in (low, estimate, high)))


class Bar(NamedTuple):
    """A line of the plot, in three parts."""

    before: str
    interval: str
    after: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Places of differences in a line of text."""

    low: float
    high: float
    width: int

    @classmethod
    def of(cls, intervals: Iterable[Interval], width: int) -> "Scale":
        """Return the scale of a plot.

        It holds every estimate, and zero. An interval that is far wider than the range of these is cut, so that it does not press
        all others together.
        """
        shown = [one for one in intervals if all(map(math.isfinite, one))]
        points, ends = ([0.0, *values] for values in ((one.estimate for one in shown), sum(shown, ())))
        room = ROOM * (max(points) - min(points)) or math.inf
        low, high = max(min(points) - room, min(ends)), min(max(points) + room, max(ends))
        return cls(low, high, width) if high > low else cls(-1.0, 1.0, width)

    @property
    def zero(self) -> int:
        """Where there is no difference."""
        return self._cell(0.0)

    def bar(self, one: Interval) -> Bar:
        """Return a line of the plot."""
        cells = self.empty()
        first, last = self._cell(one.low), self._cell(one.high)
        for place in range(first, last + 1):
            cells[place] = CROSSED if place == self.zero else DASH
        cells[first] = LOW if one.low >= self.low else CUT_LOW
        cells[last] = HIGH if one.high <= self.high else CUT_HIGH
        cells[self._cell(one.estimate)] = POINT
        line = "".join(cells)
        return Bar(line[:first], line[first : last + 1], line[last + 1 :])

    def empty(self) -> list[str]:
        """Return the characters of a line without an interval."""
        return [ZERO if place == self.zero else " " for place in range(self.width)]

    def _cell(self, value: float) -> int:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(share * (self.width - 1))
