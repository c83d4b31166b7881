"""Histograms of per-token KL in fixed logarithmic bins. They add up over batches, and percentiles are read from them.

Bin 0 holds values below :data:`LOWEST`; bin i > 0 holds ``LOWEST · RATIO^(i-1)`` to ``LOWEST · RATIO^i``, and the last bin is
open-ended. The geometric mean of a bin's bounds is within 2 % of every value in it.
"""

import math
from collections.abc import Iterable, Mapping

LOWEST = 1e-8
"""Nats; smaller values are rounding noise."""
RATIO = 1.04
BINS = 660
"""The last bin starts above 1,000 nats."""

KlCounts = Mapping[int, int]
"""Tokens by bin; bins without tokens are left out."""


def added(counts: Iterable[KlCounts]) -> dict[int, int]:
    """Return the sum of the counts of several batches."""
    total: dict[int, int] = {}
    for batch in counts:
        for index, tokens in batch.items():
            total[index] = total.get(index, 0) + tokens
    return total


def quantile(counts: KlCounts, share: float) -> float | None:
    """Return the KL in nats that this share of the tokens does not exceed, accurate to 2 %; None without tokens."""
    rank = share * (sum(counts.values()) - 1)
    below = 0
    for index in sorted(counts):
        below += counts[index]
        if rank < below:
            return 0.0 if index == 0 else LOWEST * math.pow(RATIO, index - 0.5)
    return None
