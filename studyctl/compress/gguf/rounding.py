"""Rounds matrices to llama.cpp's block types, with GPTQ's error feedback or to nearest.

Blocks are swept whole: those of a super-block one after the other, super-blocks by falling mean of diag H, and within a block the
columns by falling diag H. So no group index is needed, which GGUF has no place for. When the sweep reaches a block, some tens of
scales (and minima) are tried by rounding the block with each (:mod:`studyctl.compress.gguf.kernel`); those of least loss are then
refined by least squares for the levels that they gave. The fp16 numbers that the blocks of a super-block share come from trials of
all its blocks, before the first of them is rounded.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from studyctl.compress.gguf.levels import CODEBOOK, LEVELS, Levels
from studyctl.compress.gguf.packing import Bytes, Floats, Rounded, pack
from studyctl.compress.sweep.columns import pass_on
from studyctl.compress.sweep.inverse import InverseRoot
from studyctl.compress.weights.blocks import Blocks
from studyctl.contract.gguf import BlockType

ROWS = 256
"""Rows that are swept together: always as many, so that the number of threads changes no bit."""
REFITS = 2
"""How often scales are refined by least squares."""
_NO_CODEBOOK = np.empty(0, np.float32)
_MIDDLES = (CODEBOOK[1:] + CODEBOOK[:-1]) / 2

Snap = Callable[[Floats, Floats, bool], tuple[Floats, Floats]]
"""Moves scales and minima ``[rows, candidates]`` to numbers that can be stored; if asked to, to their neighbours as well."""


def sweep_order(diagonal: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Return the order in which columns are swept ``[in]``: super-blocks, blocks within them, columns within these.

    Args:
        diagonal: diag H, ``[in]``.
        kind: of the blocks.
    """
    form = LEVELS[kind]
    by_block = diagonal.reshape(-1, form.blocks, form.inputs)
    columns = torch.arange(diagonal.numel(), device=diagonal.device).reshape(by_block.shape)
    inner = by_block.argsort(dim=2, descending=True, stable=True)
    middle = by_block.mean(2).argsort(dim=1, descending=True, stable=True)
    outer = by_block.mean((1, 2)).argsort(descending=True, stable=True)
    columns = columns.gather(2, inner)
    return columns.gather(1, middle[..., None].expand_as(columns))[outer].flatten()


def round_to_blocks(
    weights: torch.Tensor,
    kind: BlockType,
    inverse: InverseRoot | None = None,
    order: torch.Tensor | None = None,
) -> Blocks:
    """Return a matrix in blocks of a type.

    Args:
        weights: ``[out, in]``.
        kind: of the blocks.
        inverse: of the Hessian of the inputs, in sweep order; None: every weight is rounded to nearest.
        order: the column that is swept at each step, ``[in]``; None: from left to right.
    """
    root = np.empty(0, np.float32) if inverse is None else inverse.root.cpu().contiguous().numpy()
    columns = torch.arange(weights.shape[1]) if order is None else order.cpu()
    dead = None if inverse is None else inverse.dead.cpu()

    def part(first: int) -> Bytes:
        rows = weights[first : first + ROWS].cpu()[:, columns].float()
        if dead is not None:
            rows[:, dead] = 0
        return pack(_Sweep(rows.contiguous().numpy(), root, LEVELS[kind]).run(columns.numpy()), kind)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        data = np.concatenate(list(threads.map(part, range(0, len(weights), ROWS))))
    return Blocks(kind, torch.from_numpy(data).to(weights.device))


class _Sweep:
    """The sweep of one matrix."""

    def __init__(self, weights: Floats, root: Floats, form: Levels) -> None:
        self._weights = weights
        self._root = root
        """U; empty: without feedback."""
        self._form = form
        self._plain_root = np.eye(form.inputs, dtype=np.float32)

    def run(self, order: NDArray[np.int64]) -> Rounded:
        """Round all columns; return the result in the order of the inputs."""
        form, weights = self._form, self._weights
        rows, columns = weights.shape
        levels = np.empty((rows, columns), np.int16)
        scales = np.empty((rows, columns // form.inputs), np.float32)
        minima = np.empty_like(scales)
        shared = [np.empty((rows, columns // form.span), np.float32) for _ in range(2)]
        for start in range(0, columns, form.span):
            snap: Snap = self._to_halves
            if form.blocks > 1:
                pair = self._shared(start)
                snap = self._multiples_of(*pair)
                for numbers, number in zip(shared, pair, strict=True):
                    numbers[:, order[start] // form.span] = number
            for first in range(start, start + form.span, form.inputs):
                block = slice(first, first + form.inputs)
                scale, minimum, chosen, errors = self._best(weights[:, block], self._root_of(block), snap)
                place = order[first] // form.inputs
                scales[:, place], minima[:, place] = scale, minimum
                levels[:, order[block]] = chosen
                if len(self._root):
                    swept, root = torch.from_numpy(weights), torch.from_numpy(self._root)
                    pass_on(swept, torch.from_numpy(errors), root, block)
        return Rounded(levels, scales, minima, *(shared if form.blocks > 1 else ()))

    def _root_of(self, block: slice) -> Floats:
        return np.ascontiguousarray(self._root[block, block]) if len(self._root) else self._plain_root

    def _shared(self, start: int) -> tuple[Floats, Floats]:
        """Return the fp16 numbers ``[rows]`` of which the scales and minima of a super-block are multiples."""
        form = self._form
        blocks = [slice(first, first + form.inputs) for first in range(start, start + form.span, form.inputs)]
        tried = [
            self._best(self._weights[:, block], self._root_of(block), self._as_they_are) for block in blocks
        ]
        scales, minima = (np.stack([one[part] for one in tried], axis=1) for part in range(2))
        if form.has_minimum:
            return _half(np.abs(scales).max(1) / form.scale_high), _half(minima.max(1) / form.scale_high)
        largest = np.abs(scales).argmax(1)[:, None]
        signed = np.take_along_axis(scales, largest, axis=1)[:, 0]
        return _half(signed / form.scale_low), np.zeros(len(scales), np.float32)

    def _best(self, weights: Floats, root: Floats, snap: Snap) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the best scale and minimum ``[rows]`` of a block, with its levels and errors ``[rows, block]``."""
        weights = np.ascontiguousarray(weights)
        scales, minima = snap(*self._candidates(weights), False)
        scale, minimum, levels, errors = self._round(weights, root, scales, minima)
        for _ in range(REFITS):
            fitted = self._least_squares(weights, root, levels)
            near = snap(fitted[0][:, None], fitted[1][:, None], True)
            scales, minima = (
                np.concatenate([one[:, None], more], axis=1)
                for one, more in zip((scale, minimum), near, strict=True)
            )
            scale, minimum, levels, errors = self._round(weights, root, scales, minima)
        return scale, minimum, levels, errors

    def _round(
        self, weights: Floats, root: Floats, scales: Floats, minima: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Round a block with the best of its candidates ``[rows, candidates]``."""
        from studyctl.compress.gguf.kernel import round_rows  # numba takes half a second to import

        form = self._form
        best = np.zeros(len(weights), np.int64)
        levels, errors = np.zeros_like(weights), np.zeros_like(weights)
        round_rows(
            weights,
            root,
            bool(len(self._root)),
            np.ascontiguousarray(scales, dtype=np.float32),
            np.ascontiguousarray(minima, dtype=np.float32),
            np.float32(form.low),
            np.float32(form.high),
            CODEBOOK if form.has_codebook else _NO_CODEBOOK,
            _MIDDLES,
            best,
            levels,
            errors,
        )
        rows = np.arange(len(weights))
        return scales[rows, best], minima[rows, best], levels, errors

    def _candidates(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return scales and minima ``[rows, candidates]`` to try: from the block's extremes, and from a part of them."""
        form = self._form
        if form.has_minimum:
            return _of_ranges(weights, form)
        place = np.abs(weights).argmax(1)[:, None]
        extreme = np.take_along_axis(weights, place, axis=1)
        # The weight of largest magnitude gets the level furthest from 0, or the one at the other end.
        low, high = _factors(form)
        scales = np.concatenate([extreme * low / form.low, extreme * high / form.high], axis=1)
        return scales.astype(np.float32), np.zeros_like(scales, dtype=np.float32)

    def _least_squares(self, weights: Floats, root: Floats, levels: Floats) -> tuple[Floats, Floats]:
        """Return the scale and minimum ``[rows]`` of least loss for given levels: a problem of two unknowns in U⁻ᵀ's metric."""
        inverse = np.linalg.inv(root.astype(np.float64))
        target, slope = (_product(values, inverse) for values in (weights, levels))
        slopes, both = (slope * slope).sum(1) + 1e-30, (target * slope).sum(1)
        if not self._form.has_minimum:
            return (both / slopes).astype(np.float32), np.zeros(len(weights), np.float32)
        offset = -inverse.sum(0)
        offsets, mixed, aside = (offset * offset).sum(), slope @ offset, target @ offset
        determinant = slopes * offsets - mixed * mixed
        is_flat = determinant <= 1e-9 * slopes * offsets  # all levels are the same
        determinant = np.where(is_flat, 1, determinant)
        scale = np.where(is_flat, 0, (both * offsets - aside * mixed) / determinant)
        minimum = np.where(is_flat, 0, (aside * slopes - both * mixed) / determinant)
        return scale.astype(np.float32), minimum.astype(np.float32)

    # -- numbers that can be stored

    def _as_they_are(self, scales: Floats, minima: Floats, near: bool) -> tuple[Floats, Floats]:
        return scales, np.maximum(minima, 0) if self._form.has_minimum else minima

    def _to_halves(self, scales: Floats, minima: Floats, near: bool) -> tuple[Floats, Floats]:
        return _half(scales), _half(minima)

    def _multiples_of(self, shared_scale: Floats, shared_minimum: Floats) -> Snap:
        form = self._form

        def integers(numbers: Floats, unit: Floats) -> Floats:
            unit = unit[:, None]
            multiple = np.rint(np.where(unit == 0, 0, numbers / np.where(unit == 0, 1, unit)))
            return np.clip(multiple, form.scale_low, form.scale_high)

        def snap(scales: Floats, minima: Floats, near: bool) -> tuple[Floats, Floats]:
            multiples, of_minima = integers(scales, shared_scale), integers(minima, shared_minimum)
            if near:
                steps = (-1, 0, 1)
                pairs = [(one, other) for one in steps for other in (steps if form.has_minimum else (0,))]
                multiples, of_minima = (
                    np.clip(
                        np.concatenate([part + pair[index] for pair in pairs], axis=1),
                        form.scale_low,
                        form.scale_high,
                    )
                    for index, part in enumerate((multiples, of_minima))
                )
            return shared_scale[:, None] * multiples, shared_minimum[:, None] * of_minima

        return snap


def _product(values: Floats, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a product in fp64, computed by torch: numpy's threads would wait for work in a loop, and double the time of a sweep."""
    product: NDArray[np.float64] = (torch.from_numpy(values).double() @ torch.from_numpy(matrix)).numpy()
    return product


def _half(numbers: NDArray[Any]) -> Floats:
    return numbers.astype(np.float16).astype(np.float32)


def _factors(form: Levels) -> tuple[Floats, Floats]:
    """Return which parts of a block's largest magnitude are tried, at the lowest and at the highest level.

    Narrower ranges clip that weight and give the others finer steps; the fewer levels, the more that is worth.
    """
    levels = form.high - form.low + 1
    if form.has_codebook or levels == 16:
        low, high = np.linspace(0.76, 1.12, 13), np.linspace(0.76, 1.0, 9)
    elif levels == 8:
        low, high = np.linspace(0.6, 1.2, 13), np.linspace(0.6, 1.1, 11)
    elif levels <= 64:
        low, high = np.linspace(0.86, 1.04, 10), np.linspace(0.86, 1.0, 8)
    else:
        low, high = np.array([1.0, 0.998, 0.995, 0.992, 0.988]), np.empty(0)
    return low.astype(np.float32), high.astype(np.float32)


def _of_ranges(weights: Floats, form: Levels) -> tuple[Floats, Floats]:
    """Return scales and minima of a block's range, shrunk at both ends."""
    parts = {
        3: (1.1, 1, 0.9, 0.8, 0.7, 0.6, 0.5),
        15: (1, 0.95, 0.9, 0.85, 0.8, 0.74, 0.68),
        31: (1.02, 1, 0.97, 0.94, 0.9),
    }[form.high]
    lower, upper = (
        np.array(factors, np.float32) for factors in zip(*[(a, b) for a in parts for b in parts], strict=True)
    )
    low, high = weights.min(1)[:, None], weights.max(1)[:, None]
    if form.blocks > 1:  # integers of 4 or 6 bits without a sign
        low = np.minimum(low, 0)
        high = np.maximum(high, low + 1e-9)
        return ((high * upper - low * lower) / form.high).astype(np.float32), (-low * lower).astype(
            np.float32
        )
    middle, half = (high + low) / 2, np.maximum((high - low) / 2, 5e-10)
    return (half * (lower + upper) / form.high).astype(np.float32), (half * lower - middle).astype(np.float32)
