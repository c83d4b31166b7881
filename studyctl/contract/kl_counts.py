"""Counts of the KL of tokens in fixed logarithmic bins, from which percentiles over any number of batches are read.

Bin 0 holds what is below :data:`LOWEST`; bin i > 0 reaches from ``LOWEST · RATIO^(i-1)`` to ``LOWEST · RATIO^i``, the last one
without an end. The geometric middle of a bin is within 2 % of everything in it.
"""

import math
from collections.abc import Iterable, Mapping

LOWEST = 1e-8
"""Nats: below that rounding decides."""
RATIO = 1.04
BINS = 660
"""The last begins at over 1,000 nats."""

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
    """Return the KL that this share of the tokens does not exceed, in nats, to 2 %; None without tokens."""
    rank = share * (sum(counts.values()) - 1)
    below = 0
    for index in sorted(counts):
        below += counts[index]
        if rank < below:
            return 0.0 if index == 0 else LOWEST * math.pow(RATIO, index - 0.5)
    return None
