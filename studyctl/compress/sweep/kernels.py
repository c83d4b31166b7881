"""The column sweeps of :mod:`studyctl.compress.sweep.columns`, and trial roundings, for a CPU, compiled by numba.

The rows of a weight matrix are independent in a sweep. So a tile of rows is swept through all columns of a block
while it stays in the cache, its rows side by side in vector registers. After every :data:`STRIP` columns their errors
are subtracted from later columns all at once, which reads and writes each of those once instead of eight times.
Every operation rounds as it does in the plain sweep (no fused multiply-add), so both give the same bits.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

TILE = 128
"""Rows that are swept together: a tile of 128 columns has 64 KiB."""
STRIP = 8
"""Columns whose errors are passed on together; :func:`_pass_on` is written for this number."""

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])
compiled: Callable[[F], F] = njit(nogil=True, cache=True, error_model="numpy")


@compiled
def _load(weights: Array, tile: Array, first: int, rows: int) -> None:
    for row in range(rows):
        for column in range(weights.shape[1]):
            tile[column, row] = weights[first + row, column]


@compiled
def _store(tile: Array, out: Array, first: int, rows: int) -> None:
    for row in range(rows):
        for column in range(out.shape[1]):
            out[first + row, column] = tile[column, row]


@compiled
def _pass_on_one(tile: Array, root: Array, column: int, end: int) -> None:
    """Subtract the error of one column from the later ones up to ``end``."""
    for later in range(column + 1, end):
        share = root[column, later]
        for row in range(TILE):
            tile[later, row] -= tile[column, row] * share


@compiled
def _pass_on(tile: Array, root: Array, start: int) -> None:
    """Subtract the errors of a strip of eight columns from all columns after it."""
    for later in range(start + STRIP, tile.shape[0]):
        share = root[start : start + STRIP, later]
        a, b, c, d = share[0], share[1], share[2], share[3]
        e, f, g, h = share[4], share[5], share[6], share[7]
        for row in range(TILE):
            tile[later, row] = (
                tile[later, row]
                - tile[start, row] * a
                - tile[start + 1, row] * b
                - tile[start + 2, row] * c
                - tile[start + 3, row] * d
                - tile[start + 4, row] * e
                - tile[start + 5, row] * f
                - tile[start + 6, row] * g
                - tile[start + 7, row] * h
            )


@compiled
def quantize_rows(
    weights: Array,
    root: Array,
    scales: Array,
    zero_point: Array,
    groups: Array,
    top: np.float32,
    frozen: Array,
    codes: Array,
    errors: Array,
    first: int,
    last: int,
) -> None:
    """Quantize rows ``first`` to ``last - 1`` of a block of columns; see ``columns.quantize_block``.

    ``frozen`` has no rows if no weight is fixed to 0; ``weights`` is not changed.
    """
    columns = weights.shape[1]
    tile = np.zeros((columns, TILE), np.float32)
    has_frozen = frozen.shape[0] > 0
    for start in range(first, last, TILE):
        rows = min(TILE, last - start)
        _load(weights, tile, start, rows)
        for strip in range(0, columns, STRIP):
            end = min(strip + STRIP, columns)
            for column in range(strip, end):
                group, pivot = groups[column], root[column, column]
                for row in range(rows):
                    scale, zero = scales[start + row, group], zero_point[start + row, group]
                    value = tile[column, row]
                    code = min(max(np.rint(value / scale) + zero, np.float32(0)), top)
                    if has_frozen and frozen[start + row, column]:
                        code = zero
                    codes[start + row, column] = np.uint8(code)
                    tile[column, row] = (value - (code - zero) * scale) / pivot
                _pass_on_one(tile, root, column, end)
            if end < columns:
                _pass_on(tile, root, strip)
        _store(tile, errors, start, rows)


@compiled
def _choose(tile: Array, root: Array, mask: Array, kept: int, column: int) -> None:
    """Mask all but the ``kept`` largest ``w² / U_jj²`` of a group; of equal ones the first are masked."""
    size = mask.shape[1]
    scores = np.empty(size, np.float32)
    for row in range(mask.shape[0]):
        for index in range(size):
            value, pivot = tile[column + index, row], root[column + index, column + index]
            scores[index] = value * value / (pivot * pivot)
        for index in range(size):
            before = 0
            for other in range(size):
                if scores[other] < scores[index] or (other < index and scores[other] == scores[index]):
                    before += 1
            mask[row, index] = before < size - kept


@compiled
def prune_rows(
    weights: Array,
    root: Array,
    mask: Array,
    kept: int,
    group: int,
    pruned: Array,
    errors: Array,
    first: int,
    last: int,
) -> None:
    """Prune rows ``first`` to ``last - 1`` of a block of columns; see ``columns.prune_block``.

    With ``group`` 0, ``mask`` says what to prune; else it is filled: all but ``kept`` of every ``group`` columns.
    """
    columns = weights.shape[1]
    tile = np.zeros((columns, TILE), np.float32)
    # A group of n:m is chosen when all errors before it have arrived, so it must not reach beyond its strip.
    step = STRIP if group == 0 or STRIP % group == 0 else columns
    for start in range(first, last, TILE):
        rows = min(TILE, last - start)
        _load(weights, tile, start, rows)
        for strip in range(0, columns, step):
            end = min(strip + step, columns)
            for column in range(strip, end):
                if group > 0 and column % group == 0:
                    _choose(tile, root, mask[start : start + rows, column : column + group], kept, column)
                pivot = root[column, column]
                for row in range(rows):
                    value = tile[column, row]
                    gone = mask[start + row, column]
                    pruned[start + row, column] = np.float32(0) if gone else value
                    tile[column, row] = value / pivot if gone else np.float32(0)
                _pass_on_one(tile, root, column, end)
            if end < columns:
                _pass_on(tile, root, strip)
        _store(tile, errors, start, rows)


_jit_minimum: Callable[[F], F] = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
"""If NaN need not be handled, minimum and maximum are computed in vector registers."""


@_jit_minimum
def rounding_changes(
    weights: Array,
    scales: Array,
    kept_range: np.float32,
    upper_limit: np.float32,
    top: np.float32,
    symmetric: bool,
    to_bfloat16: bool,
    smallest: np.float32,
    out: Array,
    first: int,
    last: int,
) -> None:
    """Write the changes of rows ``first`` to ``last - 1``, ``[rows, groups, group]``; see ``trial_rounding.change``."""
    bits = np.empty(1, np.float32)
    size = weights.shape[2]
    values = np.empty(size, np.float32)  # side by side, whatever the layout of `out`: for vector instructions
    for row in range(first, last):
        for group in range(weights.shape[1]):
            low, high = np.float32(0), np.float32(0)
            for column in range(size):
                value = weights[row, group, column] * scales[group, column]
                values[column] = value
                low, high = min(low, value), max(high, value)
            limit = max(-low, high) * kept_range
            upper = limit * upper_limit if kept_range < 1 else limit
            low, high = max(low, -limit), min(high, upper)
            if symmetric:
                high = max(high, -low)
                low = -high
            step = max((high - low) / top, smallest) if high > low else np.float32(1)
            if to_bfloat16:
                bits[0] = step
                word = bits.view(np.uint32)
                word[0] = (
                    word[0] + np.uint32(0x7FFF) + ((word[0] >> np.uint32(16)) & np.uint32(1))
                ) & np.uint32(0xFFFF0000)
                step = bits[0]
            zero = (top + np.float32(1)) / np.float32(2) if symmetric else min(np.rint(-low / step), top)
            for column in range(size):
                value = min(max(values[column], -limit), upper)
                code = min(max(np.rint(value / step) + zero, np.float32(0)), top)
                values[column] = (code - zero) * step / scales[group, column] - weights[row, group, column]
            for column in range(size):
                out[row, group, column] = values[column]
