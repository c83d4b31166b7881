"""Whether two metrics put the variants in the same order: all pairs of variants by both metrics, and which pairs are sure.

Of P pairs, C surely stand in the same order by both metrics, D surely in opposite orders, and U are unsure; Kendall's tau then
lies between ``(C - D - U) / P`` and ``(C + U - D) / P``. A pair is sure if the larger of its two p holds after Holm over the
pairs. (A bootstrap interval of tau is no use: variants are no sample.)
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from studyctl.contract.hypotheses import Level, Measure, Metric, PlannedHypothesis, Verdict
from studyctl.findings.cells import Figures, Side, SideValues
from studyctl.findings.estimates import LEAST_CLUSTERS, LEAST_UNITS, Cannot, over_both
from studyctl.findings.hypotheses import Outcome, Trial
from studyctl.findings.verdicts import ALPHA, holm

Reals = NDArray[np.float64]

MOST_VARIANTS = 500
"""More have over a hundred thousand pairs."""


class Differences(NamedTuple):
    """All pairs of variants by one metric, ``[pairs]``."""

    values: Reals
    p: Reals


class Reversed(NamedTuple):
    """A pair of variants that two metrics surely put in opposite orders: the first is better by the first metric."""

    variant: str
    other_variant: str
    differences: tuple[float, float]
    p: tuple[float, float]
    p_adjusted: float


class RankOutcome(NamedTuple):
    """What a comparison of two orders came to."""

    outcome: Outcome
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    reversals: tuple[Reversed, ...] = ()


def compare_ranks(hypothesis: PlannedHypothesis, trials: Iterable[Trial], figures: Figures) -> RankOutcome:
    """Return whether the two metrics of a hypothesis order all compressed variants alike."""
    outcome = Outcome(hypothesis)
    try:
        return _compared(outcome, list(trials), figures)
    except Cannot as cannot:
        outcome.verdict, outcome.reason = Verdict.UNTESTABLE, str(cannot)
        return RankOutcome(outcome)


def _compared(outcome: Outcome, trials: list[Trial], figures: Figures) -> RankOutcome:
    hypothesis = outcome.hypothesis
    of_model: dict[str, dict[str, list[str]]] = {}
    for trial in trials:
        if trial.variant != "dense" and trial.state == "done":
            of_model.setdefault(trial.model, {}).setdefault(trial.variant, []).append(trial.trial_id)
    variants = [
        variant
        for variant in next(iter(of_model.values()), {})
        if all(variant in others for others in of_model.values())
    ]
    if not 2 <= len(variants) <= MOST_VARIANTS:
        raise Cannot(f"{len(variants)} variants are measured for all models, 2 to {MOST_VARIANTS} are needed")
    done = {trial.variant for trial in trials if trial.variant != "dense"}
    if left_out := sorted(done - set(variants)):
        outcome.notes.append(f"left out: {', '.join(left_out[:3])} (not measured for all models)")
    sides = {
        model: [Side((tuple(of_variant[variant]),)) for variant in variants]
        for model, of_variant in of_model.items()
    }
    outcome.compared = {
        trial: None for of_variant in of_model.values() for v in variants for trial in of_variant[v]
    }
    outcome.models = len(of_model)
    first, second = (
        _differences(metric, hypothesis.generalize, sides, figures) for metric in hypothesis.metrics
    )
    return _counted(outcome, variants, first, second)


def _counted(outcome: Outcome, variants: list[str], first: Differences, second: Differences) -> RankOutcome:
    ups = [1 if metric.measure.more_is_better else -1 for metric in outcome.hypothesis.metrics]
    larger = np.maximum(first.p, second.p)
    adjusted = np.array(holm(larger.tolist()))
    sure = adjusted <= ALPHA
    alike = np.sign(first.values * ups[0]) == np.sign(second.values * ups[1])
    pairs, same, opposite = len(larger), int((sure & alike).sum()), int((sure & ~alike).sum())
    unsure = pairs - same - opposite
    left, right = np.triu_indices(len(variants), 1)
    reversals = []
    for place in np.flatnonzero(sure & ~alike):
        better, worse = int(left[place]), int(right[place])
        sign = 1.0 if first.values[place] * ups[0] > 0 else -1.0
        if sign < 0:
            better, worse = worse, better
        differences = (float(sign * first.values[place]), float(sign * second.values[place]))
        p = (float(first.p[place]), float(second.p[place]))
        reversals.append(Reversed(variants[better], variants[worse], differences, p, float(adjusted[place])))
    if same == pairs:
        outcome.verdict = Verdict.AGREE
    else:
        outcome.verdict = Verdict.DISAGREE if opposite else Verdict.UNDECIDED
    outcome.reason = (
        f"of {pairs} pairs of variants {same} surely agree, {opposite} surely do not, {unsure} are unsure"
    )
    tau = float(np.where(alike, 1, -1).sum()) / pairs
    low, high = (same - opposite - unsure) / pairs, (same + unsure - opposite) / pairs
    return RankOutcome(outcome, tau, low, high, pairs, tuple(reversals))


def _differences(metric: Metric, level: Level, sides: dict[str, list[Side]], figures: Figures) -> Differences:
    """Return the differences of all pairs of sides, in the mean over models and languages that all have."""
    cells = {model: figures.cells(model, metric) for model in sides}
    subjects = [
        name for name in next(iter(cells.values())) if all(name in others for others in cells.values())
    ]
    if not subjects:
        raise Cannot(f"{metric} is not measured for all models")
    if metric.measure is Measure.PPL_RATIO and (len(subjects) > 1 or len(sides) > 1):
        raise Cannot("ppl_ratio is per token: it is no mean over languages or models")
    grid = [
        [cells[model][name].sides(metric.measure, of_model) for name in subjects]
        for model, of_model in sides.items()
    ]
    left, right = np.triu_indices(len(next(iter(sides.values()))), 1)
    values = np.array([[cell.values for cell in row] for row in grid])
    changes = values[..., left] - values[..., right]  # [models, languages, pairs]
    if level is Level.WINDOWS:
        return _over_windows([cell for row in grid for cell in row], changes.reshape(-1, len(left)), metric)
    if level is Level.CROSSED:
        estimates = [over_both(changes[..., pair]) for pair in range(len(left))]
        return Differences(changes.mean(axis=(0, 1)), np.array([estimate.p() for estimate in estimates]))
    means = changes.mean(axis=0 if level is Level.LANGUAGES else 1)
    if len(means) < LEAST_CLUSTERS:
        raise Cannot(f"{len(means)} {level}, {LEAST_CLUSTERS} are needed")
    return _tested(means.mean(axis=0), means.var(axis=0, ddof=1) / len(means), np.array(len(means) - 1.0))


def _over_windows(cells: list[SideValues], changes: Reals, metric: Metric) -> Differences:
    """Return the differences with the noise of windows or items."""
    left, right = np.triu_indices(len(cells[0].values), 1)
    variances, freedoms = np.empty_like(changes), np.empty(len(cells))
    for place, cell in enumerate(cells):
        units = cell.influences.shape[1]
        if units < LEAST_UNITS:
            raise Cannot(f"{units} windows in a cell, {LEAST_UNITS} are needed")
        variances[place], freedoms[place] = _variances(cell, left, right, len(cells)), units - 1
    mean, total = changes.mean(axis=0), variances.sum(axis=0)
    if metric.measure is Measure.ACCURACY:
        return _tested(mean, total / len(cells) ** 2, np.array(np.inf))
    squares = (np.square(variances) / freedoms[:, None]).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(squares > 0, total**2 / squares, np.inf)
    return _tested(mean, total / len(cells) ** 2, freedom)


def _variances(cell: SideValues, left: NDArray[np.int64], right: NDArray[np.int64], cells: int) -> Reals:
    """Return the variance of the difference of each pair of sides in one cell."""
    scores, units = cell.scores, cell.influences.shape[1]
    variances: Reals = units / (units - 1) * _squares(cell.influences, left, right)
    if scores is not None and cell.passages is None and np.isin(scores, (0.0, 1.0)).all():
        flips = _squares(scores, left, right)
        # Of one task McNemar's, the variance if there is no difference; of several as in :meth:`Flips.variance_in_mean`.
        more, changes = (2 / cells, cell.values[left] - cell.values[right]) if cells > 1 else (0.0, 0.0)
        variances = ((flips + more) / (units + more) - np.square(changes)) / units
    return variances


def _squares(rows: Reals, left: NDArray[np.int64], right: NDArray[np.int64]) -> Reals:
    """Return the sum of squared differences of each pair of rows."""
    products = rows @ rows.T
    own = np.diagonal(products)
    return np.maximum(own[left] + own[right] - 2 * products[left, right], 0)


def _tested(values: Reals, variances: Reals, freedom: Reals) -> Differences:
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = -np.abs(values) / np.sqrt(variances)
        p = 2 * np.where(
            np.isfinite(freedom), stdtr(np.where(np.isfinite(freedom), freedom, 1.0), scores), ndtr(scores)
        )
    return Differences(values, np.where(variances > 0, np.minimum(p, 1), np.where(values == 0, 1.0, 0.0)))
