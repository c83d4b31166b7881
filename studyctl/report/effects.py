"""Figures compared with the dense model's: with their 95 % intervals, and marked where these hold no change."""

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from math import floor, log10
from typing import NamedTuple

from rich.text import Text

from studyctl.contract.limits import LEAST_UNITS
from studyctl.report.layout import change, ratio

UNSURE = "≈"
"""Before a figure whose 95 % interval holds no change; such figures are grey, too."""
FINE = 0.01
"""Half widths below it need three decimals, where others get two."""
WHY_NONE = f"fewer than {LEAST_UNITS} windows or items, or measured by an earlier version"
"""Why a figure has no interval."""
LEGEND = f"±: 95 % interval over windows and items; {UNSURE} (grey): it holds no change"
BRIEF_LEGEND = f"{UNSURE} unsure (95 %)"
_DECIMALS = re.compile(r"\.(\d+)$")


class Form(Enum):
    """How much of an interval is shown."""

    WHOLE = auto()
    """``+0.234 ±0.025``, or ``2.814 [2.060, 3.844]`` where the ends are not equally far from the figure."""
    SHORT = auto()
    """``+0.23±0.03``: with no digits that the interval makes idle."""
    PLAIN = auto()
    """The figure alone, with its mark."""


LOPSIDED = {Form.WHOLE: 1.25, Form.SHORT: 2.0}
"""With a longer side that is so many times the shorter one, an interval is shown by its ends."""


class Effect(NamedTuple):
    """A figure compared with the dense model's."""

    value: float | None
    low: float | None = None
    """Ends of its 95 % interval; None: there is none."""
    high: float | None = None
    no_change: float = 0.0
    """The value that stands for no change."""
    signed: bool = False
    """Whether a plus is shown."""
    prefix: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether both ends exist."""
        return self.value is not None and self.low is not None and self.high is not None

    @property
    def is_unsure(self) -> bool:
        """Whether its interval holds no change."""
        return self.low is not None and self.high is not None and self.low <= self.no_change <= self.high

    @property
    def mark(self) -> str:
        """:data:`UNSURE`, or nothing."""
        return UNSURE if self.is_unsure else ""

    @property
    def style(self) -> str:
        """Style of the figure in a table."""
        return "dim" if self.is_unsure else ""

    def figure(self, form: Form = Form.WHOLE) -> str:
        """Return the figure alone."""
        return self._text(self.value, self._decimals(form))

    def spread(self, form: Form = Form.WHOLE) -> str:
        """Return the interval, to be put behind the figure; empty where there is none."""
        if self.value is None or self.low is None or self.high is None or form is Form.PLAIN:
            return ""
        decimals = self._decimals(form)
        below, above, half = self.value - self.low, self.high - self.value, (self.high - self.low) / 2
        shown = _DECIMALS.search(self.figure(form))
        is_even = min(below, above) * LOPSIDED[form] >= max(below, above)
        if shown is not None and is_even and (abs(self.value - self.no_change) <= half) == self.is_unsure:
            return f"{' ' if form is Form.WHOLE else ''}±{half:.{len(shown[1])}f}"
        return f" [{self._end(self.low, decimals)}, {self._end(self.high, decimals)}]"

    def ends(self) -> str:
        """Return ``+0.209 to +0.259``; empty where there is no interval."""
        return f"{self._end(self.low)} to {self._end(self.high)}" if self.has_interval else ""

    def parts(self, form: Form) -> tuple[str, str]:
        """Return the figure with its mark, and what is put behind it."""
        return self.mark + self.figure(form), self.spread(form)

    def text(self, form: Form = Form.WHOLE) -> Text:
        """Return the figure for a table."""
        return Text("".join(self.parts(form)), style=self.style)

    def _decimals(self, form: Form) -> int | None:
        """Return how many decimals a form has; None: as many as make about four digits."""
        if not self.signed and self.no_change == 0 and self.value and abs(self.value) < 0.01:
            return 1 - floor(
                log10(abs(self.value))
            )  # two digits of a small KL: files of 5 bits and more have KLs of 0.0005
        if form is not Form.SHORT:
            return None
        is_fine = self.low is not None and self.high is not None and self.high - self.low < 2 * FINE
        return 3 if is_fine else 2

    def _end(self, value: float | None, decimals: int | None = None) -> str:
        return self._text(value, decimals).removeprefix(self.prefix)

    def _text(self, value: float | None, decimals: int | None = None) -> str:
        if self.signed:
            return change(value, decimals or 3).plain
        if value is None or decimals is None or not abs(value) < 1e6:
            return ratio(value, self.prefix).plain
        return f"{self.prefix}{value:z.{decimals}f}"


def effect(row: NamedTuple, name: str, prefix: str = "") -> Effect:
    """Return a figure of a row of the results, with its interval if it has one.

    Args:
        row: The row.
        name: Its field; one whose name ends in ``ratio`` is 1 for no change, one with ``change`` in its name has a sign.
        prefix: What is put before the figure.
    """
    low, high = (getattr(row, f"{name}_{end}", None) for end in ("low", "high"))
    value: float | None = getattr(row, name)
    no_change = 1.0 if name.endswith("ratio") else 0.0
    return Effect(value, low, high, no_change, "change" in name, prefix)


def legend(
    effects: Iterable[Effect], form: Form = Form.WHOLE, *, dense_is_measured: bool = True
) -> Iterator[str]:
    """Yield how to read intervals that are shown in a form, and why there are none."""
    compared = [one for one in effects if one.value is not None]
    if any(one.has_interval for one in compared):
        about = "±: 95 % interval" if form is not Form.PLAIN else "95 % intervals"
        yield f"{about} over windows and items; {UNSURE} (grey): it holds no change"
    if any(not one.has_interval for one in compared):
        why = WHY_NONE if dense_is_measured else "dense, which they are compared with, is not measured yet"
        yield f"no ±: {why}"
