"""Verdicts on hypotheses: tests corrected for their number (Holm 1979), and what they come to."""

import math
from collections.abc import Sequence
from typing import Protocol

from studyctl.contract.hypotheses import Alternative, Measure, Verdict

ALPHA = 0.05
"""Level of all tests, for a family of hypotheses together."""


class Tested(Protocol):
    """A mean that can be tested: an estimate over units, or flips of items."""

    @property
    def value(self) -> float:
        """Return the mean."""

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval."""

    @property
    def units(self) -> int:
        """Return the number of what was sampled."""

    def p(self, null: float = 0.0) -> float:
        """Return the two-sided p of the mean being ``null``."""

    def p_above(self, null: float) -> float:
        """Return the one-sided p of the mean being ``null`` or less, against more."""

    def p_below(self, null: float) -> float:
        """Return the one-sided p of the mean being ``null`` or more, against less."""


def holm(values: Sequence[float]) -> list[float]:
    """Return p after Holm's correction: the k-th smallest of m times ``m - k + 1``, never under the one before."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def claim_p(tested: Tested, measure: Measure, alternative: Alternative, margin: float | None) -> float:
    """Return the p of a claim: two-sided, or for ``no_worse`` one-sided against a loss of the margin."""
    if alternative is not Alternative.NO_WORSE:
        return tested.p()
    limit = null(measure, alternative, margin)
    return tested.p_above(limit) if measure.more_is_better else tested.p_below(limit)


def null(measure: Measure, alternative: Alternative, margin: float | None) -> float:
    """Return the difference that is tested: none, or for ``no_worse`` a loss of the margin."""
    if alternative is not Alternative.NO_WORSE:
        return 0.0
    limit = _on_scale(measure, margin or 0.0)
    return -limit if measure.more_is_better else limit


def judge(
    tested: Tested,
    measure: Measure,
    alternative: Alternative,
    margin: float | None,
    p_adjusted: float,
    tests: int = 1,
) -> Verdict:
    """Return the first verdict that holds.

    Args:
        tested: the mean.
        measure: what it is a mean of.
        alternative: what is claimed.
        margin: differences up to it do not matter.
        p_adjusted: p of the claim, after Holm.
        tests: how many claims were tested together: ``no_worse`` is contradicted by a p of its own (Bonferroni).
    """
    if alternative is Alternative.NO_WORSE:
        if p_adjusted <= ALPHA:
            return Verdict.SUPPORTED
        against = 1 - claim_p(tested, measure, alternative, margin)
        return Verdict.CONTRADICTED if 2 * against * tests <= ALPHA else Verdict.UNDECIDED
    if is_same(tested, measure, alternative, margin):
        return Verdict.SAME
    if p_adjusted > ALPHA:
        return Verdict.UNDECIDED
    return Verdict.SUPPORTED if on_side(tested, measure, alternative) else Verdict.CONTRADICTED


def on_side(tested: Tested, measure: Measure, alternative: Alternative) -> bool:
    """Return whether the mean is on the side of the claim, or the claim has no side."""
    gain = tested.value if measure.more_is_better else -tested.value
    if alternative is Alternative.BETTER:
        return gain > 0
    return gain < 0 if alternative is Alternative.WORSE else True


def is_same(tested: Tested, measure: Measure, alternative: Alternative, margin: float | None) -> bool:
    """Return whether the whole interval lies within the margin; never of ``no_worse``, which claims that itself."""
    if alternative is Alternative.NO_WORSE or margin is None:
        return False
    limit = _on_scale(measure, margin)
    low, high = tested.ends
    return -limit <= low and high <= limit


def holds_alone(tested: Tested, measure: Measure, alternative: Alternative, margin: float | None) -> bool:
    """Return whether the 95 % interval itself is on the side of the claim."""
    low, high = tested.ends if measure.more_is_better else tuple(-end for end in reversed(tested.ends))
    match alternative:
        case Alternative.BETTER:
            return low > 0
        case Alternative.WORSE:
            return high < 0
        case Alternative.DIFFERENT:
            return low > 0 or high < 0
        case Alternative.NO_WORSE:
            return low > -_on_scale(measure, margin or 0.0)


def _on_scale(measure: Measure, margin: float) -> float:
    """Return a margin on the scale of the estimate: that of a perplexity ratio is its distance from 1."""
    return math.log1p(margin) if measure is Measure.PPL_RATIO else margin
