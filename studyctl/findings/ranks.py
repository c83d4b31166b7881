"""Whether two metrics put the variants in the same order: all pairs of variants by both metrics, and which pairs are sure.

Of P pairs, C surely stand in the same order by both metrics, D surely in opposite orders, and U are unsure; Kendall's tau then
lies between ``(C - D - U) / P`` and ``(C + U - D) / P``. A pair is sure if the larger of its two p holds after Holm over the
pairs. (A bootstrap interval of tau is no use: variants are no sample.)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from studyctl.contract.hypotheses import LEAST_CLUSTERS, Level, Measure, Metric, PlannedHypothesis, Verdict
from studyctl.contract.limits import LEAST_UNITS
from studyctl.findings.cells import NO_VARIANCE, Figures, Side, SideValues
from studyctl.findings.estimates import Cannot, crossed_variance
from studyctl.findings.hypotheses import SHOWN_LEFT_OUT, Outcome, Trial
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
    of_model: dict[str, dict[str, list[Trial]]] = {}
    for trial in trials:
        if trial.variant != "dense":
            of_model.setdefault(trial.model, {}).setdefault(trial.variant, []).append(trial)
    # A model of which nothing is done would leave no variant at all.
    models = [model for model, of_variant in of_model.items() if any(map(_is_done, of_variant.values()))]
    every = list(dict.fromkeys(trial.variant for trial in trials if trial.variant != "dense"))
    variants = [name for name in every if all(_is_done(of_model[model].get(name, ())) for model in models)]
    if not (models and 2 <= len(variants) <= MOST_VARIANTS):
        raise Cannot(
            f"{len(variants) if models else 0} variants are measured for all models, 2 to {MOST_VARIANTS} are needed"
        )
    for reason, names in (
        ("nothing is measured", [model for model in of_model if model not in models]),
        ("not measured for all models", [name for name in every if name not in variants]),
    ):
        if names:
            outcome.notes.append(f"left out: {', '.join(names[:SHOWN_LEFT_OUT])} ({reason})")
    sides = {
        model: [Side((tuple(trial.trial_id for trial in of_model[model][name]),)) for name in variants]
        for model in models
    }
    outcome.compared = dict.fromkeys(
        trial for of_sides in sides.values() for side in of_sides for trial in side.trials
    )
    outcome.models = len(models)
    first, second = (
        _differences(metric, hypothesis.generalize, sides, figures) for metric in hypothesis.metrics
    )
    return _counted(outcome, variants, first, second)


def _is_done(trials: Sequence[Trial]) -> bool:
    """Return whether there are trials of a variant, and all of its seeds are measured."""
    return bool(trials) and all(trial.state == "done" for trial in trials)


def _counted(outcome: Outcome, variants: list[str], first: Differences, second: Differences) -> RankOutcome:
    ups = [1.0 if metric.measure.more_is_better else -1.0 for metric in outcome.hypothesis.metrics]
    larger = np.maximum(first.p, second.p)
    adjusted = np.array(holm(larger.tolist()))
    sure = adjusted <= ALPHA
    signs = np.sign(first.values * ups[0] * second.values * ups[1])
    pairs, same, opposite = len(larger), int((sure & (signs > 0)).sum()), int((sure & (signs < 0)).sum())
    unsure = pairs - same - opposite
    left, right = np.triu_indices(len(variants), 1)
    reversals = []
    for place in np.flatnonzero(sure & (signs < 0)):
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
    tau = float(signs.sum()) / pairs
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
        for count, kind in ((len(sides), "models"), (len(subjects), "languages")):
            if count < LEAST_CLUSTERS:
                raise Cannot(f"{count} {kind}, {LEAST_CLUSTERS} are needed")
        return _tested(changes.mean(axis=(0, 1)), *crossed_variance(changes))
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
    if metric.measure is Measure.ACCURACY and (len(cells) > 1 or _is_binary(cells[0])):
        return _tested(mean, total / len(cells) ** 2, np.array(np.inf))
    squares = (np.square(variances) / freedoms[:, None]).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(squares > 0, total**2 / squares, np.inf)
    return _tested(mean, total / len(cells) ** 2, freedom)


def _variances(cell: SideValues, left: NDArray[np.int64], right: NDArray[np.int64], cells: int) -> Reals:
    """Return the variance of the difference of each pair of sides in one cell."""
    scores, units = cell.scores, cell.influences.shape[1]
    variances: Reals = units / (units - 1) * _squares(cell.influences, left, right)
    if scores is None or not ((scores >= 0) & (scores <= 1)).all():
        return variances
    # Of one task McNemar's, the variance if there is no difference; of several as in :meth:`Flips.variance_in_mean`.
    more, changes = (2 / cells, cell.values[left] - cell.values[right]) if cells > 1 else (0.0, 0.0)
    turned = _squares(scores, left, right) * units / scores.shape[1]
    flips: Reals = ((turned + more) / (units + more) - np.square(changes)) / units
    # Passages that all changed alike have no variance, but that is no certainty.
    return flips if _is_binary(cell) else np.where(variances < NO_VARIANCE, flips, variances)


def _is_binary(cell: SideValues) -> bool:
    """Return whether items are right or wrong, each by itself."""
    return cell.scores is not None and cell.passages is None and bool(np.isin(cell.scores, (0.0, 1.0)).all())


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
