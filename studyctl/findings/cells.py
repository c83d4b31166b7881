"""The figures of two sides in each model and language (or task), from the tables ``windows`` and ``items``.

A side is the mean of its variants in each window (or item) first; the seeds of a variant count as one. What is compared is then
linear in a value of each side, and its sampling in the influence of each unit on that value: ``V = n/(n-1) · Σ(influences)²``.

- bits_per_byte, ppl_ratio, top1: a ratio of sums ``r = Σd / Σs`` over windows of size s (bytes or tokens), with the
  influence ``(d - r·s) / Σs`` (Cochran 1977, section 2.11). ppl_ratio is the exponential of a difference in nats per token.
- kl_ratio: ``log K`` with ``K = Σkl / Σtokens``, with the influence ``(kl - K·tokens) / (K · Σtokens)``; snr likewise, in
  decibels of the noise: the signal is dense's and cancels.
- accuracy, gold_nats: means over items; gold_nats is the log probability of the right answer among the choices.

Where :data:`MANY_DOCUMENTS` documents give several windows each, documents are the units, with the sums of their windows.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np
from numpy.typing import NDArray

from studyctl.contract.hypotheses import Measure, Metric
from studyctl.contract.limits import LEAST_UNITS
from studyctl.findings.estimates import Cannot
from studyctl.findings.items import Flips, clustered_variance

Reals = NDArray[np.float64]
Numbers = NDArray[np.int64]

MANY_DOCUMENTS = 20
"""From so many documents with several windows each, documents are the units: windows of one document are alike."""
LEAST_ITEMS_OF_NATS = 50
"""With fewer items the mean of log probabilities is far from normal."""
NO_VARIANCE = 1e-20
"""Of a mean of scores between 0 and 1: less is rounding."""
DECIBELS = -10 / math.log(10)
"""Of a nat of noise."""


class Side(NamedTuple):
    """One side of a comparison in one model: the trials of each of its variants, one per seed."""

    variants: tuple[tuple[str, ...], ...]

    @property
    def trials(self) -> tuple[str, ...]:
        """Return all trials."""
        return tuple(trial for of_variant in self.variants for trial in of_variant)

    def weights(self, places: Mapping[str, int]) -> Reals:
        """Return what each trial counts in the mean: variants alike, and in them seeds alike."""
        row = np.zeros(len(places))
        for trials in self.variants:
            for trial in trials:
                row[places[trial]] += 1 / len(trials) / len(self.variants)
        return row


class SideValues(NamedTuple):
    """What some sides come to in one model and language (or task)."""

    values: Reals
    """``[sides]``."""
    influences: Reals
    """Of each unit on these values, ``[sides, units]``."""
    scores: Reals | None = None
    """Of tasks: the values of items, ``[sides, items]``."""
    passages: Numbers | None = None
    """Number of the passage of each item; None: each has its own."""


class Difference(NamedTuple):
    """A difference between sides in one cell, with the variance of its mean."""

    value: float
    variance: float
    units: int
    flips: Flips | None = None
    """Of a task whose items are right or wrong, if one trial is compared with one other; of any whose items all changed alike."""


@dataclass(frozen=True)
class TextCell:
    """The windows of some trials in one model and language."""

    places: Mapping[str, int]
    """Row of each trial."""
    figures: Mapping[str, Reals]
    """By column of the table, ``[trials, windows]``; NaN: not measured."""
    sizes: Mapping[str, Reals]
    """Tokens and bytes, ``[windows]``."""
    documents: Numbers
    """``[windows]``, -1: not recorded."""

    def sides(self, measure: Measure, sides: Sequence[Side]) -> SideValues:
        """Return the values of sides on the windows that all their trials have.

        Raises:
            Cannot: a trial has no such figure, or there is too little.
        """
        column, size_of = _TEXT[measure]
        trials = sorted({trial for side in sides for trial in side.trials})
        if missing := [trial for trial in trials if trial not in self.places]:
            raise Cannot(f"not measured: {missing[0]}")
        rows = [self.places[trial] for trial in trials]
        figures, sizes = self.figures[column][rows], self.sizes[size_of]
        measured = np.isfinite(self.figures["nll_nats"][rows]).all(axis=0) & (sizes > 0)
        common = measured & np.isfinite(figures).all(axis=0)
        if not common.any():
            raise Cannot(f"no {measure} of the same windows")
        # To leave out the windows in which a variant broke would make it look better than it is.
        if broken := int(measured.sum() - common.sum()):
            raise Cannot(f"{measure} is not finite in {broken} of {measured.sum()} windows")
        figures, sizes = figures[:, common], sizes[common]
        places = {trial: place for place, trial in enumerate(trials)}
        sums = np.stack([side.weights(places) for side in sides]) @ figures
        sums, sizes = _by_document(sums, sizes, self.documents[common])
        ratios = sums.sum(axis=1) / sizes.sum()
        influences = (sums - ratios[:, None] * sizes) / sizes.sum()
        if measure in (Measure.KL_RATIO, Measure.SNR):
            if not (ratios > 0).all():
                raise Cannot("a side does not differ from dense")
            influences /= ratios[:, None]
            ratios = np.log(ratios)
        factor = {Measure.BITS_PER_BYTE: 1 / math.log(2), Measure.SNR: DECIBELS}.get(measure, 1.0)
        return SideValues(ratios * factor, influences * factor)


_TEXT = {
    Measure.BITS_PER_BYTE: ("nll_nats", "bytes"),
    Measure.PPL_RATIO: ("nll_nats", "tokens"),
    Measure.TOP1: ("top1", "tokens"),
    Measure.KL_RATIO: ("kl_nats", "tokens"),
    Measure.SNR: ("noise", "tokens"),
}
"""Column and size of each measure of texts."""


def _by_document(sums: Reals, sizes: Reals, documents: Numbers) -> tuple[Reals, Reals]:
    """Return the sums of documents in place of windows, where these are the units."""
    if (documents < 0).any():
        return sums, sizes
    _, numbers, counts = np.unique(documents, return_inverse=True, return_counts=True)
    if (counts > 1).sum() < MANY_DOCUMENTS:
        return sums, sizes
    return _sums(sums, numbers), _sums(sizes[None], numbers)[0]


def _sums(rows: Reals, numbers: Numbers) -> Reals:
    """Return the sums of each row by number, ``[rows, numbers]``."""
    sums: Reals = np.stack([np.bincount(numbers, row) for row in rows])
    return sums


@dataclass(frozen=True)
class TaskCell:
    """The items of some trials in one model and task."""

    places: Mapping[str, int]
    figures: Mapping[str, Reals]
    """``score`` by the task's main metric and ``gold_nats``, ``[trials, items]``; NaN: not measured."""
    passages: Numbers | None
    """Number of the passage of each item; None: each has its own."""
    averaged: bool
    """Whether the main metric counts in means over tasks."""

    def sides(self, measure: Measure, sides: Sequence[Side]) -> SideValues:
        """Return the values of sides on the items that all their trials have.

        Raises:
            Cannot: a trial has no such figure, or there are too few items.
        """
        trials = sorted({trial for side in sides for trial in side.trials})
        if missing := [trial for trial in trials if trial not in self.places]:
            raise Cannot(f"not measured: {missing[0]}")
        column = "score" if measure is Measure.ACCURACY else "gold_nats"
        figures = self.figures[column][[self.places[trial] for trial in trials]]
        if broken := int(np.isinf(figures).any(axis=0).sum()):
            raise Cannot(f"{measure} is not finite in {broken} items")
        common = np.isfinite(figures).all(axis=0)
        least = LEAST_UNITS if measure is Measure.ACCURACY else LEAST_ITEMS_OF_NATS
        passages = self.passages[common] if self.passages is not None else None
        units = int(common.sum()) if passages is None else len(np.unique(passages))
        if units < least:
            raise Cannot(
                f"{units} {'items' if passages is None else 'passages'} in a task, {least} are needed"
            )
        places = {trial: place for place, trial in enumerate(trials)}
        scores = np.stack([side.weights(places) for side in sides]) @ figures[:, common]
        values = scores.mean(axis=1)
        influences = (scores - values[:, None]) / scores.shape[1]
        if passages is not None:
            passages = np.unique(passages, return_inverse=True)[1]
            influences = _sums(influences, passages)
        return SideValues(values, influences, scores, passages)


AnyCell = TextCell | TaskCell


def difference(cell: SideValues, coefficients: Reals) -> Difference:
    """Return a linear combination of sides.

    Args:
        cell: the sides.
        coefficients: of each side, ``[sides]``; they sum to 0.
    """
    influences = coefficients @ cell.influences
    units = len(influences)
    variance = units / (units - 1) * float(np.square(influences).sum()) if units > 1 else math.nan
    value = float(coefficients @ cell.values)
    flips = None
    if cell.scores is not None:
        changes = coefficients @ cell.scores
        variance, units = clustered_variance(changes, cell.passages)
        used = cell.scores[coefficients != 0]
        paired = len(used) == 2 and cell.passages is None and bool(np.isin(used, (0.0, 1.0)).all())
        # Items that all changed alike (most often not at all) have no variance, but that is no certainty.
        alike = variance < NO_VARIANCE and bool(((used >= 0) & (used <= 1)).all())
        if paired or alike:
            counts = np.array([np.maximum(changes, 0).sum(), np.maximum(-changes, 0).sum(), len(changes)])
            flips = Flips(*(counts * (units / len(changes))).tolist())
    return Difference(value, variance, units, flips)


class Figures:
    """Reads the cells of a study, once each."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, trials: Mapping[str, Collection[str]]) -> None:
        """Take the connection, and for each model the trials that some comparison is about."""
        self._connection = connection
        self._trials = {model: sorted(of_model) for model, of_model in trials.items()}
        self._cells: dict[tuple[str, bool, bool], Mapping[str, AnyCell]] = {}

    def cells(self, model: str, metric: Metric) -> Mapping[str, AnyCell]:
        """Return the cells of a model: by language or by task, in alphabetical order.

        Raises:
            Cannot: the task that the metric names has no accuracy.
        """
        of_tasks, nats = metric.measure.is_of_tasks, metric.measure is Measure.GOLD_NATS
        key = (model, of_tasks, nats)
        if key not in self._cells:
            self._cells[key] = self._tasks(model, nats) if of_tasks else self._texts(model)
        cells = self._cells[key]
        if metric.task is None:
            return {name: cell for name, cell in cells.items() if isinstance(cell, TextCell) or cell.averaged}
        of_task = {name: cell for name, cell in cells.items() if name == metric.task}
        if any(isinstance(cell, TaskCell) and not (nats or cell.averaged) for cell in of_task.values()):
            raise Cannot(f"the main metric of {metric.task} is no fraction of which more is better")
        return of_task

    def _texts(self, model: str) -> Mapping[str, AnyCell]:
        cells: dict[str, AnyCell] = {}
        for language, columns in self._read(model, "language", _WINDOWS):
            # A window is the same in two trials if it has the same tokens.
            windows = columns["window"] * _MOST_TOKENS + columns["tokens"]
            places, figures = self._by_trial(model, columns, windows)
            sizes = {name: _shared(figures[name]) for name in ("tokens", "bytes")}
            documents = np.nan_to_num(_shared(figures["document"]), nan=-1).astype(np.int64)
            cells[language] = TextCell(places, figures, sizes, documents)
        return cells

    def _tasks(self, model: str, nats: bool) -> Mapping[str, AnyCell]:
        query = _ITEMS.format(nats=_NATS if nats else "NULL::DOUBLE")
        cells: dict[str, AnyCell] = {}
        for task, columns in self._read(model, "task", query):
            places, figures = self._by_trial(model, columns, columns["item"])
            passages = _shared(figures["passage"])
            alone = np.isnan(passages)
            passages[alone] = -1.0 - np.flatnonzero(alone)
            _, numbers = np.unique(passages, return_inverse=True)
            shared = numbers.max() + 1 < len(numbers)
            averaged = bool((columns["averaged"] == 1).all())
            cells[task] = TaskCell(places, figures, numbers if shared else None, averaged)
        return cells

    def _by_trial(
        self, model: str, columns: Mapping[str, Reals], units: Reals
    ) -> tuple[dict[str, int], dict[str, Reals]]:
        """Return the row of each trial, and the columns by trial and unit, ``[trials, units]``; NaN: no such row, or NULL."""
        trials, rows = np.unique(columns["trial"].astype(np.int64), return_inverse=True)
        numbers, places = np.unique(units, return_inverse=True)
        figures = {}
        for name in columns.keys() - {"part", "trial", "window", "item", "averaged"}:
            figures[name] = np.full((len(trials), len(numbers)), np.nan)
            figures[name][rows, places] = columns[name]
        of_model = self._trials[model]
        return {of_model[trial]: row for row, trial in enumerate(trials)}, figures

    def _read(self, model: str, subject: str, query: str) -> Iterator[tuple[str, dict[str, Reals]]]:
        """Yield the columns of each language or task, as numbers: texts would take several times as long."""
        table = "windows" if subject == "language" else "items"
        subjects = self._connection.execute(
            f"SELECT DISTINCT {subject} FROM {table} WHERE model = $model ORDER BY 1", {"model": model}
        ).fetchall()
        names = [name for (name,) in subjects]
        values = {"model": model, "subjects": names, "trials": self._trials.get(model, [])}
        fetched = self._connection.execute(
            f"""
            WITH subjects AS (SELECT unnest($subjects) AS {subject}, generate_subscripts($subjects, 1) - 1 AS part),
                compared AS (SELECT unnest($trials) AS trial_id, generate_subscripts($trials, 1) - 1 AS trial)
            SELECT s.part, c.trial, {query}
                JOIN subjects s ON s.{subject} = i.{subject} JOIN compared c ON c.trial_id = i.trial_id
            WHERE i.model = $model ORDER BY s.part
            """,
            values,
        ).fetchnumpy()
        columns = {name: _numbers(column) for name, column in fetched.items()}
        ends = np.searchsorted(columns["part"], np.arange(len(names) + 1))
        for name, begin, end in zip(names, ends, ends[1:], strict=False):
            if begin < end:
                yield name, {key: column[begin:end] for key, column in columns.items()}


def _shared(figures: Reals) -> Reals:
    """Return what every trial has alike of each unit; trials of earlier versions may lack it (NaN)."""
    shared: Reals = np.fmax.reduce(figures, axis=0)
    return shared


def _numbers(column: Any) -> Reals:
    """Return a column of DuckDB's as floats, NULL as NaN."""
    return np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)


_MOST_TOKENS = 1 << 24
_WINDOWS = (
    """i."window", i.tokens, i.bytes, i.document, i.nll_nats, i.kl_nats, i.top1, i.noise FROM windows i"""
)
# A hash of 52 bits: a float holds it. Two of a million passages are alike with a probability of 1e-4, and then make one cluster.
_ITEMS = """i.item, CASE WHEN i.passage IS NOT NULL THEN (hash(i.passage) >> 12)::DOUBLE END AS passage, t.averaged,
    coalesce(i.score, i.correct) AS score, {nats} AS gold_nats
FROM items i JOIN tasks t ON t.trial_id = i.trial_id AND t.task = i.task AND t.main"""
_NATS = """CASE WHEN len(i.loglikelihoods) > 1 THEN i.loglikelihoods[i.gold + 1] - list_max(i.loglikelihoods)
    - ln(list_sum(list_transform(i.loglikelihoods, lambda x: exp(x - list_max(i.loglikelihoods))))) END"""
