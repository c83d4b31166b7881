"""GPTQ: rounds column by column and compensates in later columns (Frantar et al. 2023).

All linears of a linear group share one factorisation and one sweep. Grids follow the published code: that of a group is made
from the weights as they are when the sweep enters the block of columns in which the group begins; with
``static_groups`` from the weights before the sweep. With ``act_order`` columns are swept in order of falling H_jj, and
groups consist of neighbours in that order, unless they are static.
"""

import torch

from studyctl.compress.quantize.grid import Grid, dequantize, grid_of
from studyctl.compress.quantize.target import towards_dense
from studyctl.compress.sweep.columns import blocks, pass_on, quantize_block
from studyctl.compress.sweep.inverse import InverseRoot, damped_inverse
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup, stacked
from studyctl.contract.methods import GPTQ


def compress_linears(
    linears: LinearGroup, settings: GPTQ, frozen: torch.Tensor | None = None
) -> list[CompressedLinear]:
    """Quantize linears.

    Args:
        linears: with their Hessian.
        settings: of the method.
        frozen: bool ``[out of all linears, in]``: weights that must be 0; None: none.
    """
    order = None
    if settings.act_order:
        order = linears.hessian.diagonal().argsort(descending=True, stable=True)
    inverse = damped_inverse(linears, settings.damping, order)
    weights = towards_dense(stacked(linears.weights), linears, inverse, order, settings.target)
    codes, grid, groups = quantize(weights, inverse, settings, linears.dtype, order, frozen)
    rows = [len(weight) for weight in linears.weights]
    parts = zip(*(torch.split(part, rows) for part in (codes, *grid)), strict=True)
    return [
        CompressedLinear(dequantize(codes, scales, zero_point, groups), codes, scales, zero_point, groups)
        for codes, scales, zero_point in parts
    ]


def quantize(
    weights: torch.Tensor,
    inverse: InverseRoot,
    settings: GPTQ,
    dtype: torch.dtype,
    order: torch.Tensor | None = None,
    frozen: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Grid, torch.Tensor | None]:
    """Quantize stacked weights.

    Args:
        weights: ``[out, in]``, fp32; changed.
        inverse: of the Hessian of their inputs, in sweep order.
        settings: of the method.
        dtype: in which scales are stored.
        order: the column that is swept at each step, ``[in]``; None: from left to right.
        frozen: bool ``[out, in]``: weights that must be 0; None: none.

    Returns:
        Codes ``[out, in]``, the grids ``[out, groups]``, and the group of every input, ``[in]``, if groups are not
        consecutive inputs.
    """
    columns, top = weights.shape[1], 2**settings.bits - 1
    size = settings.group_size or columns
    column_group = torch.arange(columns, device=weights.device) // size  # of every step of the sweep
    scales = weights.new_empty(len(weights), -(-columns // size))
    zero_point = torch.empty_like(scales)
    is_static = settings.static_groups or size == columns

    def set_grids(first: int, values: torch.Tensor) -> None:
        grids = grid_of(
            values.reshape(len(values), -1, size), settings.bits, symmetric=settings.symmetric, dtype=dtype
        )
        last = first + grids.scales.shape[1]
        scales[:, first:last], zero_point[:, first:last] = grids.scales, grids.zero_point

    # Weights of dead inputs do not widen a grid.
    weights[:, inverse.dead if order is None else inverse.dead[order.argsort()]] = 0
    if is_static:
        set_grids(0, weights)
    if order is not None:
        weights = weights[:, order]
        frozen = None if frozen is None else frozen[:, order]
        column_group = order // size if is_static else column_group
    codes = torch.empty_like(weights, dtype=torch.uint8)
    for block in blocks(columns, settings.block_size):
        first = -(-block.start // size)
        last = -(-block.stop // size)
        if not is_static and last > first:  # groups that begin in this block
            set_grids(first, weights[:, first * size : last * size])
        fixed = None if frozen is None else frozen[:, block]
        part = quantize_block(
            weights[:, block], inverse.root[block, block], scales, zero_point, column_group[block], top, fixed
        )
        codes[:, block] = part[0]
        pass_on(weights, part[1], inverse.root, block)
    groups = None
    if order is not None:
        codes = codes[:, order.argsort()]
        if not is_static:
            groups = column_group[order.argsort()].to(torch.int32)
    return codes, Grid(scales.to(dtype), zero_point.to(torch.uint8)), groups
