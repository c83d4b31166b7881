"""Rounds a block of columns with every candidate of its scale and keeps the best, for a CPU, compiled by numba.

A row's block is rounded column by column, each column's error passed on to the later ones of the block as in GPTQ, so that a
candidate's loss is what the layer's output really loses by it. A candidate that exceeds the best so far is given up.
"""

from typing import Any

import numpy as np

from studyctl.compress.sweep.kernels import Array, compiled


@compiled
def _nearest(value: Any, low: Any, high: Any, codebook: Array, middles: Array) -> Any:
    """Return the level nearest to a value; ``middles`` lie between those of a codebook, which is empty for integers."""
    if len(codebook) == 0:
        return min(max(np.rint(value), low), high)
    place = 8 if value > middles[7] else 0
    if value > middles[place + 3]:
        place += 4
    if value > middles[place + 1]:
        place += 2
    if value > middles[place]:
        place += 1
    return codebook[place]


@compiled
def _loss(
    values: Array,
    root: Array,
    feedback: bool,
    scale: Any,
    minimum: Any,
    low: Any,
    high: Any,
    codebook: Array,
    middles: Array,
    most: Any,
    levels: Array,
    errors: Array,
) -> Any:
    """Round a row's block ``values`` (changed) with one scale; return the loss, or ``most`` once it is that much."""
    inverse = np.float32(0) if scale == 0 else np.float32(1) / scale
    loss = np.float32(0)
    for column in range(len(values)):
        value = values[column]
        level = _nearest((value + minimum) * inverse, low, high, codebook, middles)
        error = (value - (scale * level - minimum)) / root[column, column]
        loss += error * error
        if loss >= most:
            return most
        levels[column], errors[column] = level, error
        if feedback:
            for later in range(column + 1, len(values)):
                values[later] -= error * root[column, later]
    return loss


@compiled
def round_rows(
    weights: Array,
    root: Array,
    feedback: bool,
    scales: Array,
    minima: Array,
    low: np.float32,
    high: np.float32,
    codebook: Array,
    middles: Array,
    best: Array,
    levels: Array,
    errors: Array,
) -> None:
    """Round every row with the best of its candidates.

    Args:
        weights: ``[rows, block]``.
        root: the block's part of U, ``[block, block]``.
        feedback: whether errors are passed on within the block.
        scales: ``[rows, candidates]``.
        minima: ``[rows, candidates]``.
        low: the smallest level.
        high: the largest.
        codebook: all levels, or empty if they are the integers between.
        middles: between neighbours of the codebook.
        best: gets the number of each row's candidate.
        levels: ``[rows, block]``; written.
        errors: e of :mod:`studyctl.compress.sweep.columns`, ``[rows, block]``; written.
    """
    size = weights.shape[1]
    values, chosen, shares = np.empty((3, size), np.float32)
    for row in range(len(weights)):
        smallest = np.float32(np.inf)
        for candidate in range(scales.shape[1]):
            values[:] = weights[row]
            loss = _loss(
                values, root, feedback, scales[row, candidate], minima[row, candidate], low, high, codebook, middles,
                smallest, chosen, shares,
            )  # fmt: skip
            if loss < smallest:
                smallest, best[row] = loss, candidate
                levels[row], errors[row] = chosen, shares
