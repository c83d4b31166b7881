"""Estimates of a mean over models and languages (or tasks), with intervals for the population that another sample is drawn of.

The cells are ``x[m, l]``: a difference in model m and language l, with the variance ``u[m, l]`` of its windows. All forms are
closed; θ is the mean of the cells, the interval ``θ ± t(df) · √V``:

- windows: ``V = Σu / (ML)²``, ``df = (Σu)² / Σ(u² / (n - 1))`` (Satterthwaite 1946).
- languages: Student's t over the means of the languages, ``df = L - 1``.
- models: Student's t over the means of the models, ``df = M - 1``.
- languages and models, crossed: mean squares ``A = L · var(x̄_m)``, ``B = M · var(x̄_l)``, and the residual ``E``;
  ``V = Q / (ML)`` with ``Q = A + B - E``, not under ``max(A, B)``, and ``df = Q² / (A²/(M-1) + B²/(L-1) + E²/((M-1)(L-1)))``,
  that of the term itself where the maximum is taken.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from studyctl.contract.hypotheses import LEAST_CLUSTERS, Level
from studyctl.contract.limits import LEAST_UNITS

Reals = NDArray[np.float64]

FEW_CLUSTERS = 5
"""An interval over fewer of them is wide, and rests on each."""
UPPER = 0.975
Z = float(ndtri(UPPER))
POWER_Z = float(ndtri(0.8))
"""For the number of units that decides with a power of 80 %."""
MOST_NEEDED = 10**9
"""More units than this are as good as none."""


MOST_NATS = 700.0
"""``exp`` of more is not finite."""


class Cannot(Exception):
    """There is no estimate; the text says why."""


class Estimate(NamedTuple):
    """A mean with the variance of its sampling."""

    value: float
    variance: float
    freedom: float
    """Degrees of freedom of Student's t; infinite: a normal distribution."""
    units: int
    """What was sampled: windows or items, languages, models."""

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of the 95 % interval."""
        return student(self.value, self.variance, self.freedom)

    def p(self, null: float = 0.0) -> float:
        """Return the two-sided p of the mean being ``null``."""
        return min(1.0, 2 * min(self.p_above(null), self.p_below(null)))

    def p_above(self, null: float) -> float:
        """Return the one-sided p of the mean being ``null`` or less, against more."""
        return self._tail(self.value - null)

    def p_below(self, null: float) -> float:
        """Return the one-sided p of the mean being ``null`` or more, against less."""
        return self._tail(null - self.value)

    def _tail(self, distance: float) -> float:
        if not self.variance:
            return 0.5 if not distance else float(distance < 0)
        score = -distance / math.sqrt(self.variance)
        return float(stdtr(self.freedom, score) if math.isfinite(self.freedom) else _normal(score))


def _normal(score: float) -> float:
    return math.erfc(-score / math.sqrt(2)) / 2


def exp(nats: float) -> float:
    """Return the exponential, of more than :data:`MOST_NATS` that of these."""
    return math.exp(min(nats, MOST_NATS))


def student(value: float, variance: float, freedom: float) -> tuple[float, float]:
    """Return the ends of the 95 % interval of Student's t."""
    half = float(stdtrit(freedom, UPPER) if math.isfinite(freedom) else Z) * math.sqrt(variance)
    return value - half, value + half


@dataclass(frozen=True, slots=True)
class Cells:
    """A difference in every model and language (or task)."""

    values: Reals
    """``x[m, l]``."""
    variances: Reals
    """``u[m, l]``, of the mean over the windows of a cell."""
    units: NDArray[np.int64]
    """``n[m, l]``: windows, documents, items or passages of a cell."""


def estimate(cells: Cells, level: Level) -> Estimate:
    """Return the mean of the cells, with what another sample of this level might have changed.

    Raises:
        Cannot: there are too few units of this level.
    """
    match level:
        case Level.WINDOWS:
            return over_windows(cells)
        case Level.LANGUAGES:
            return over_clusters(cells.values.mean(axis=0), "language")
        case Level.MODELS:
            return over_clusters(cells.values.mean(axis=1), "model")
        case Level.CROSSED:
            return over_both(cells.values)


def over_windows(cells: Cells) -> Estimate:
    """Return the mean over these models and languages; only the windows are a sample."""
    if (fewest := int(cells.units.min())) < LEAST_UNITS:
        raise Cannot(f"{_count(fewest, 'window')} in a cell, {LEAST_UNITS} are needed")
    total = float(cells.variances.sum())
    squares = float((np.square(cells.variances) / (cells.units - 1)).sum())
    freedom = total**2 / squares if squares else math.inf
    return Estimate(float(cells.values.mean()), total / cells.values.size**2, freedom, int(cells.units.sum()))


def over_clusters(means: Reals, kind: str) -> Estimate:
    """Return the mean over languages or models, of which these are a sample."""
    count = len(means)
    if count < LEAST_CLUSTERS:
        raise Cannot(f"{_count(count, kind)}, {LEAST_CLUSTERS} are needed")
    return Estimate(float(means.mean()), float(means.var(ddof=1)) / count, count - 1, count)


def over_both(values: Reals) -> Estimate:
    """Return the mean over models and languages, of which both are samples."""
    models, languages = values.shape
    for count, kind in ((models, "model"), (languages, "language")):
        if count < LEAST_CLUSTERS:
            raise Cannot(f"{_count(count, kind)}, {LEAST_CLUSTERS} are needed")
    variance, freedom = crossed_variance(values)
    return Estimate(float(values.mean()), float(variance), float(freedom), min(models, languages))


def crossed_variance(values: Reals) -> tuple[Reals, Reals]:
    """Return the variance of the mean over models and languages, and its degrees of freedom.

    Args:
        values: ``[models, languages, ...]``; each place of the further axes is a table of its own.
    """
    models, languages = values.shape[:2]
    by_model, by_language = values.mean(axis=1), values.mean(axis=0)
    residual = values - by_model[:, None] - by_language + values.mean(axis=(0, 1))
    freedoms = (models - 1, languages - 1, (models - 1) * (languages - 1))
    a, b = languages * by_model.var(axis=0, ddof=1), models * by_language.var(axis=0, ddof=1)
    e = np.square(residual).sum(axis=(0, 1)) / freedoms[2]
    q, largest = a + b - e, np.maximum(a, b)
    squares = a**2 / freedoms[0] + b**2 / freedoms[1] + e**2 / freedoms[2]
    of_sum = np.maximum(q, 0) ** 2 / np.where(squares > 0, squares, 1)
    of_largest = np.where(a >= b, freedoms[0], freedoms[1])
    freedom = np.maximum(1, np.where(q > largest, of_sum, of_largest))
    return np.maximum(q, largest) / (models * languages), freedom


def interaction(groups: tuple[Reals, Reals], kind: str) -> Estimate:
    """Return how far the first group of languages (or tasks) is above the second: Student's t with the pooled variance.

    Args:
        groups: means of the languages of each group.
        kind: what they are: language or task.
    """
    first, second = groups
    freedom = len(first) + len(second) - 2
    if not (len(first) and len(second)):
        raise Cannot(f"a group has no {kind}")
    if freedom < 1:
        raise Cannot(f"one {kind} in each group, at least two are needed in one")
    squares = sum(float(np.square(group - group.mean()).sum()) for group in groups)
    variance = squares / freedom * (1 / len(first) + 1 / len(second))
    return Estimate(float(first.mean() - second.mean()), variance, freedom, len(first) + len(second))


class Needed(NamedTuple):
    """How many units would decide a difference that is as large as it is estimated, with a power of 80 %."""

    windows: int | None
    """Of each cell; None: no number of them would, or what varies among those that there are is too little to tell."""
    languages: int | None
    models: int | None


def needed(cells: Cells, level: Level, null: float = 0.0) -> Needed:
    """Return the units that would decide it, ``(t + z)² · s² / θ²`` with s² of each kind of unit as if it alone were sampled.

    Args:
        cells: the differences.
        level: the kind of unit.
        null: the difference that is tested; θ is the distance from it.
    """
    value = float(cells.values.mean()) - null
    by_model, by_language = cells.values.mean(axis=1), cells.values.mean(axis=0)

    def clusters(means: Reals) -> int | None:
        count = len(means)
        return _units(float(means.var(ddof=1)), value, count - 1, count) if count >= LEAST_CLUSTERS else None

    windows = over_windows(cells) if cells.units.min() >= LEAST_UNITS else None
    per_cell = float(cells.units.mean())
    of_windows = None
    if windows is not None:
        of_windows = _units(per_cell * windows.variance, value, windows.freedom, per_cell)
    match level:
        case Level.WINDOWS:
            return Needed(of_windows, None, None)
        case Level.LANGUAGES:
            return Needed(None, clusters(by_language), None)
        case Level.MODELS:
            return Needed(None, None, clusters(by_model))
        case Level.CROSSED:
            return Needed(None, clusters(by_language), clusters(by_model))


def windows_share(cells: Cells, level: Level) -> float | None:
    """Return the noise of the windows as a share of the variance of the clusters' means; None for the level of windows."""
    if level is Level.WINDOWS:
        return None
    axes = {Level.LANGUAGES: (0,), Level.MODELS: (1,), Level.CROSSED: (0, 1)}[level]
    shares = []
    for axis in axes:
        variance = float(cells.values.mean(axis=axis).var(ddof=1))
        noise = float(cells.variances.sum(axis=axis).mean()) / cells.values.shape[axis] ** 2
        shares.append(noise / variance if variance else math.inf)
    return min(shares)


def _units(variance: float, value: float, freedom: float, there: float) -> int | None:
    if not value:
        return None
    quantile = float(stdtrit(freedom, UPPER) if math.isfinite(freedom) else Z)
    count = (quantile + POWER_Z) ** 2 * variance / value**2
    # Fewer than there are have not decided it: the variance of few units, of items above all, may be estimated as 0.
    return math.ceil(count) if there < count < MOST_NEEDED else None


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
