"""Differences between two variants in the items of tasks: score intervals, McNemar's test, means over tasks.

- A task whose items are right or wrong: the score interval of a paired difference (Tango 1998), whose z at 0 is McNemar's
  without a correction. Its exact form is :func:`mcnemar_p`.
- Where several items are about one passage, or have other values than 0 and 1: Student's t with ``G - 1`` degrees of freedom
  and the variance ``G/(G-1) · Σ_g(Σ(x - d))² / n²`` over the G passages (or items).
- A mean over T tasks: the mean of the differences ``± 1.96 · √V`` with ``V = Σ[(b + c + 2/T)/(n + 2/T) - d²]/n / T²``;
  in it tasks with passages or other values have the variance above.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from studyctl.findings.estimates import Z

Reals = NDArray[np.float64]


class Flips(NamedTuple):
    """Items of a task that two models answer differently, right or wrong."""

    wins: float
    """Items that only the first has right."""
    losses: float
    """Items that only the second has right."""
    items: float

    @property
    def value(self) -> float:
        """Return the difference of the two accuracies."""
        return (self.wins - self.losses) / self.items

    @property
    def units(self) -> int:
        """Return the number of items."""
        return int(self.items)

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of Tango's 95 % interval."""
        low, high = tango(*(np.array([float(count)]) for count in self))
        return float(low[0]), float(high[0])

    def p(self, null: float = 0.0) -> float:
        """Return the two-sided p of the difference being ``null``."""
        return min(1.0, 2 * min(self.p_above(null), self.p_below(null)))

    def p_above(self, null: float) -> float:
        """Return the one-sided p of the difference being ``null`` or less, against more."""
        return float(ndtr(-self._score(null)))

    def p_below(self, null: float) -> float:
        """Return the one-sided p of the difference being ``null`` or more, against less."""
        return float(ndtr(self._score(null)))

    def _score(self, null: float) -> float:
        score = float(_tango_score(*(np.array([float(value)]) for value in (null, *self)))[0])
        return 0.0 if math.isnan(score) else score  # nothing flipped, and no flip is most likely

    def variance_in_mean(self, tasks: int) -> float:
        """Return the variance of the difference in a mean over so many tasks, with 2 flips more among all of them."""
        more = 2 / tasks
        return ((self.wins + self.losses + more) / (self.items + more) - self.value**2) / self.items


def tango(wins: Reals, losses: Reals, items: Reals) -> tuple[Reals, Reals]:
    """Return the ends of the score intervals of paired differences ``(wins - losses) / items`` (Tango 1998).

    The interval holds every difference whose score is below z. The score is a monotone function of the difference, so each end is
    found by bisection.

    Args:
        wins: pairs of which only the second is right, ``[tasks]``.
        losses: pairs of which only the first is right, ``[tasks]``.
        items: all pairs, ``[tasks]``.
    """
    estimate = (wins - losses) / items
    ends = []
    for bound in (-1.0, 1.0):
        inside, outside = estimate.copy(), np.full_like(estimate, bound)
        for _ in range(52):  # bits of a float
            middle = (inside + outside) / 2
            is_inside = np.abs(_tango_score(middle, wins, losses, items)) < Z
            inside, outside = np.where(is_inside, middle, inside), np.where(is_inside, outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def _tango_score(difference: Reals, wins: Reals, losses: Reals, items: Reals) -> Reals:
    """Return the score statistic of a true difference: how far the counts are from it, in its standard errors."""
    # The probability of a loss that is most likely under this difference: the larger root of a x² + b x + c.
    a, b = 2 * items, (2 * items - wins + losses) * difference - wins - losses
    c = -losses * difference * (1 - difference)
    loss = (np.sqrt(np.maximum(b * b - 4 * a * c, 0)) - b) / (2 * a)
    variance = items * (2 * loss + difference * (1 - difference))
    with np.errstate(divide="ignore", invalid="ignore"):
        score: Reals = (wins - losses - items * difference) / np.sqrt(np.maximum(variance, 0))
    return score


def clustered_variance(differences: Reals, passages: NDArray[np.int64] | None) -> tuple[float, int]:
    """Return the variance of a mean difference, and the number of its units.

    Args:
        differences: of the items, ``[items]``.
        passages: number of the passage of each item; None: each has its own.
    """
    deviations = differences - differences.mean()
    if passages is not None:
        deviations = np.bincount(passages, deviations)
    count = len(deviations)
    return count / (count - 1) * float(np.square(deviations).sum()) / len(differences) ** 2, count


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Return the exact two-sided p of McNemar's test: 2 · P(X ≤ min) for X ~ Binomial(sum, 1/2), at most 1.

    McNemar (1947), in the exact form, which is valid for few discordant pairs too.
    """
    total = right_to_wrong + wrong_to_right
    fewer = min(right_to_wrong, wrong_to_right)
    if 2 * fewer == total:
        return 1.0
    log_term = (
        math.lgamma(total + 1) - math.lgamma(fewer + 1) - math.lgamma(total - fewer + 1) - total * math.log(2)
    )
    relative, term = 0.0, 1.0  # in units of the term at `fewer`, the largest one
    for count in range(fewer, -1, -1):
        relative += term
        term *= count / (total - count + 1)
        if term < relative * 1e-17:
            break
    return min(1.0, 2 * math.exp(log_term) * relative)
