"""The column sweeps that SparseGPT and GPTQ share: a column is pruned or rounded, and later columns compensate for its error.

``U`` is the root of the inverse Hessian (:mod:`studyctl.compress.sweep.inverse`). A column ``w_i`` that becomes ``q_i`` leaves the
error ``e_i = (w_i − q_i) / U_ii``, and every later column j changes by ``−e_i U_ij``. Within a block of columns this happens column
by column; all columns after the block change at once, by a matrix product.

The ``..._plainly`` functions are the definition, in plain torch. On a CPU compiled kernels do the same arithmetic.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from studyctl.compress.prune.masks import smallest_of_group


def blocks(columns: int, size: int) -> Iterator[slice]:
    """Yield the blocks of a sweep from left to right."""
    for start in range(0, columns, size):
        yield slice(start, min(start + size, columns))


def pass_on(weights: torch.Tensor, errors: torch.Tensor, root: torch.Tensor, block: slice) -> None:
    """Subtract the errors of a block from all columns after it, in place.

    Args:
        weights: ``[out, in]``.
        errors: e, ``[out, block]``.
        root: U, ``[in, in]``.
        block: the columns that were swept.
    """
    if block.stop < weights.shape[1]:
        # In place: a separate product would be as large as the weights, and writing it takes as long as computing it. With up to
        # 192 columns per block the bits were the same as those of the published code's subtraction, where they were compared.
        weights[:, block.stop :].addmm_(errors, root[block, block.stop :], alpha=-1)


def quantize_block(
    weights: torch.Tensor,
    root: torch.Tensor,
    scales: torch.Tensor,
    zero_point: torch.Tensor,
    groups: torch.Tensor,
    top: int,
    frozen: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a block of columns to their grids, one after the other.

    Args:
        weights: ``[out, block]``, fp32; not changed.
        root: the block's part of U, ``[block, block]``.
        scales: ``[out, groups]``, fp32.
        zero_point: ``[out, groups]``, fp32.
        groups: the group of every column, int64 ``[block]``.
        top: the highest code.
        frozen: bool ``[out, block]``: weights that must be 0; None: none.

    Returns:
        Codes (uint8) and errors (fp32), both ``[out, block]``.
    """
    if weights.device.type != "cpu":
        return quantize_block_plainly(weights, root, scales, zero_point, groups, top, frozen)
    from studyctl.compress.sweep import kernels  # numba takes half a second to import

    codes, errors = torch.empty_like(weights, dtype=torch.uint8), torch.empty_like(weights)
    fixed = torch.empty(0, weights.shape[1], dtype=torch.bool) if frozen is None else frozen
    inputs = (*_arrays(weights, root, scales, zero_point, groups), np.float32(top), *_arrays(fixed))
    in_threads(kernels.quantize_rows, len(weights), *inputs, codes.numpy(), errors.numpy())
    return codes, errors


def quantize_block_plainly(
    weights: torch.Tensor,
    root: torch.Tensor,
    scales: torch.Tensor,
    zero_point: torch.Tensor,
    groups: torch.Tensor,
    top: int,
    frozen: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same as :func:`quantize_block`, in plain torch."""
    weights = weights.clone()
    codes = torch.empty_like(weights, dtype=torch.uint8)
    errors = torch.empty_like(weights)
    for column in range(weights.shape[1]):
        scale, zero = scales[:, groups[column]], zero_point[:, groups[column]]
        code = (weights[:, column] / scale).round_().add_(zero).clamp_(0, top)
        if frozen is not None:
            code = torch.where(frozen[:, column], zero, code)
        error = (weights[:, column] - (code - zero) * scale) / root[column, column]
        weights[:, column + 1 :] -= error[:, None] * root[column, column + 1 :]
        codes[:, column], errors[:, column] = code.to(torch.uint8), error
    return codes, errors


def prune_block(
    weights: torch.Tensor, root: torch.Tensor, mask: torch.Tensor | None, group: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune a block of columns, one after the other.

    Args:
        weights: ``[out, block]``, fp32; not changed.
        root: the block's part of U, ``[block, block]``.
        mask: bool ``[out, block]``, the weights to prune; None with a ``group``.
        group: ``(n, m)``: of every m columns the n with the largest ``w² / U_jj²`` are kept, by their values when the sweep
            reaches them.

    Returns:
        The pruned weights and the errors, both ``[out, block]``, fp32.
    """
    if weights.device.type != "cpu":
        return prune_block_plainly(weights, root, mask, group)
    from studyctl.compress.sweep import kernels

    pruned, errors = torch.empty_like(weights), torch.empty_like(weights)
    gone = torch.zeros_like(weights, dtype=torch.bool) if mask is None else mask
    inputs = (*_arrays(weights, root, gone), *(group or (0, 0)))
    in_threads(kernels.prune_rows, len(weights), *inputs, pruned.numpy(), errors.numpy())
    return pruned, errors


def prune_block_plainly(
    weights: torch.Tensor, root: torch.Tensor, mask: torch.Tensor | None, group: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same as :func:`prune_block`, in plain torch."""
    weights = weights.clone()
    errors = torch.zeros_like(weights)
    gone = torch.zeros_like(weights, dtype=torch.bool) if mask is None else mask
    for column in range(weights.shape[1]):
        if group is not None and column % group[1] == 0:
            columns = slice(column, column + group[1])
            scores = weights[:, columns].square() / root.diagonal()[columns].square()
            gone[:, columns] = smallest_of_group(scores, *group)
        error = torch.where(gone[:, column], weights[:, column], 0) / root[column, column]
        weights[:, column + 1 :] -= error[:, None] * root[column, column + 1 :]
        weights[:, column].masked_fill_(gone[:, column], 0)
        errors[:, column] = error
    return weights, errors


def _arrays(*tensors: torch.Tensor) -> list[Any]:
    """Return contiguous arrays of tensors that are only read."""
    return [tensor.contiguous().numpy() for tensor in tensors]


def in_threads(kernel: Callable[..., None], rows: int, *args: Any) -> None:
    """Run a kernel on all rows, in as many threads as torch uses, each with whole tiles of rows."""
    from studyctl.compress.sweep.kernels import TILE

    tiles = -(-rows // TILE)
    share = -(-tiles // min(torch.get_num_threads(), tiles)) * TILE
    spans = [(first, min(first + share, rows)) for first in range(0, rows, share)]
    if len(spans) == 1:
        kernel(*args, *spans[0])
        return
    with ThreadPoolExecutor(len(spans)) as threads:
        list(threads.map(lambda span: kernel(*args, *span), spans))
