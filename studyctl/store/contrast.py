"""Two variants of a model compared on the same windows."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from studyctl.findings.cells import MANY_DOCUMENTS
from studyctl.findings.estimates import student
from studyctl.store.intervals import Estimate, mean_of_languages, ratio_of_sums


class Window(NamedTuple):
    """Columns of the table ``windows``."""

    language: str
    window: int
    nll_nats: float
    tokens: int
    bytes: int | None
    document: int | None


class Contrast(NamedTuple):
    """How many bits per byte one variant needs more than another, in the mean over the languages."""

    bits_per_byte: float
    low: float
    """Ends of the 95 % interval over windows (see :mod:`studyctl.store.intervals`)."""
    high: float
    windows: int
    languages: int

    @property
    def is_told_apart(self) -> bool:
        """Return whether the interval excludes no difference."""
        return self.low > 0 or self.high < 0


def contrast(left: Iterable[Window], right: Iterable[Window]) -> Contrast | None:
    """Return what ``left`` needs more than ``right``; None where a language has too few windows of both for an interval."""
    others = {(row.language, row.window, row.tokens): row for row in right}
    pairs: dict[str, list[tuple[Window, Window]]] = defaultdict(list)
    for row in left:
        if (other := others.get((row.language, row.window, row.tokens))) is not None:
            pairs[row.language].append((row, other))
    estimates = [estimate for of_language in pairs.values() if (estimate := _estimate(of_language))]
    if not estimates or len(estimates) < len(pairs):
        return None
    value, variance, freedom = mean_of_languages(estimates)
    windows = sum(map(len, pairs.values()))
    return Contrast(value, *student(value, variance, freedom), windows, len(estimates))


def _estimate(pairs: Sequence[tuple[Window, Window]]) -> Estimate | None:
    of_document = Counter(row.document for row, _ in pairs)
    by_document = sum(count > 1 for count in of_document.values()) >= MANY_DOCUMENTS
    bits: dict[int | None, float] = defaultdict(float)
    size: dict[int | None, float] = defaultdict(float)
    for row, other in pairs:
        unit = row.document if by_document else row.window
        bits[unit] += (row.nll_nats - other.nll_nats) / math.log(2)
        size[unit] += math.nan if row.bytes is None else row.bytes
    return ratio_of_sums(np.array(list(bits.values())), np.array(list(size.values())))
