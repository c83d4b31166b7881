"""The cells of a comparison, a model and a language (or task) each, and means over them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from studyctl.contract.hypotheses import Level, Measure
from studyctl.findings.cells import AnyCell, Difference, Side, difference
from studyctl.findings.estimates import Cannot, Cells, Estimate, estimate
from studyctl.findings.verdicts import Tested

MOST_GRIDS = 200
"""Sets of languages that are followed for the largest complete grid: there may be 2 ^ models."""


class Pair(NamedTuple):
    """Two sides in one model."""

    left: Side
    right: Side


class Cell(NamedTuple):
    """The differences of one model and language (or task)."""

    mean: Difference
    """Over the pairs."""
    pairs: Mapping[int, Difference]
    """By the number of the pair; without those of which the model has no variants."""


@dataclass(frozen=True, slots=True)
class Grid:
    """All cells of a hypothesis; complete: every model has every language (or task)."""

    models: tuple[str, ...]
    subjects: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    def part(self, models: Iterable[str] | None = None, subjects: Iterable[str] | None = None) -> "Grid":
        """Return some models and some languages."""
        return Grid(
            self.models if models is None else tuple(models),
            self.subjects if subjects is None else tuple(subjects),
            self.cells,
        )

    @property
    def pairs(self) -> list[int]:
        """Return the numbers of the pairs that some model has."""
        return sorted({number for model in self.models for number in self._of(model)})

    def having(self, pair: int) -> "Grid":
        """Return the models that have variants of a pair."""
        return self.part(models=[model for model in self.models if pair in self._of(model)])

    def _of(self, model: str) -> Mapping[int, Difference]:
        return self.cells[model, self.subjects[0]].pairs

    def differences(self, pair: int | None = None) -> list[list[Difference]]:
        """Return the differences of every model and language; of one pair if it is named, which every model must have."""
        rows = [[self.cells[m, s] for s in self.subjects] for m in self.models]
        return [[cell.mean if pair is None else cell.pairs[pair] for cell in row] for row in rows]

    def arrays(self, pair: int | None = None) -> Cells:
        """Return them as arrays."""
        rows = self.differences(pair)
        return Cells(
            np.array([[cell.value for cell in row] for row in rows]),
            np.array([[cell.variance for cell in row] for row in rows]),
            np.array([[cell.units for cell in row] for row in rows]),
        )


def mean_at(grid: Grid, level: Level, measure: Measure, pair: int | None = None) -> Tested:
    """Return the mean of a grid at a level.

    Raises:
        Cannot: there is too little of that level.
    """
    if not (grid.models and grid.subjects):
        raise Cannot("nothing is measured for both sides")
    if pair is not None:
        grid = grid.having(pair)
    if measure is Measure.ACCURACY and level is Level.WINDOWS:
        return _over_items([cell for row in grid.differences(pair) for cell in row])
    return estimate(grid.arrays(pair), level)


def _over_items(cells: Sequence[Difference]) -> Tested:
    """Return the mean of differences in tasks: a score interval for one, a normal one for the mean of several."""
    count = len(cells)
    if count == 1:
        cell = cells[0]
        return cell.flips or Estimate(cell.value, cell.variance, cell.units - 1, cell.units)
    variance = sum(cell.flips.variance_in_mean(count) if cell.flips else cell.variance for cell in cells)
    return Estimate(
        sum(cell.value for cell in cells) / count,
        variance / count**2,
        math.inf,
        sum(cell.units for cell in cells),
    )


def compared(cell: AnyCell, measure: Measure, pairs: Mapping[int, Pair]) -> Cell:
    """Return the differences of pairs of sides in a model and language (or task).

    Raises:
        Cannot: a trial has no such figure, or there is too little.
    """
    values = cell.sides(measure, [side for pair in pairs.values() for side in pair])
    one_each = np.zeros((len(pairs), 2 * len(pairs)))
    places = np.arange(len(pairs))
    one_each[places, 2 * places], one_each[places, 2 * places + 1] = 1, -1
    return Cell(
        difference(values, one_each.mean(axis=0)),
        {
            number: difference(values, coefficients)
            for number, coefficients in zip(pairs, one_each, strict=True)
        },
    )


def largest(cells: Mapping[tuple[str, str], Cell]) -> Grid:
    """Return the largest grid without a missing cell: its languages are those that some models have in common.

    It is the first of several that are as large, in the order of the models. Of models that each lack something else no more
    than :data:`MOST_GRIDS` sets of languages are followed, those that make the largest grids.
    """
    of_model: dict[str, frozenset[str]] = {}
    for model, subject in cells:
        of_model[model] = of_model.get(model, frozenset()) | {subject}

    def models_with(subjects: frozenset[str]) -> tuple[str, ...]:
        return tuple(model for model, others in of_model.items() if subjects <= others)

    shared = dict.fromkeys(of_model.values())  # in an order that is the same in every process
    for one in list(shared):
        shared |= dict.fromkeys(one & other for other in list(shared))
        if len(shared) > MOST_GRIDS:
            by_size = sorted(shared, key=lambda subjects: -len(subjects) * len(models_with(subjects)))
            shared = dict.fromkeys(by_size[:MOST_GRIDS])
    best = max(shared, key=lambda subjects: len(subjects) * len(models_with(subjects)))
    order = dict.fromkeys(subject for _, subject in cells)
    return Grid(models_with(best), tuple(subject for subject in order if subject in best), cells)
