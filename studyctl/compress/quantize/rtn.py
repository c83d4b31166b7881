"""Round to nearest: every weight becomes the closest value of its group's grid. Needs no data."""

import torch

from studyctl.compress.quantize.grid import (
    codes_come_back,
    dequantize,
    grid_of,
    round_to_codes,
    row_parts,
    within,
)
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import RTN, Quantization


def compress_linears(linears: LinearGroup, settings: RTN) -> list[CompressedLinear]:
    """Round each linear."""
    return [round_to_nearest(weight, settings, linears.dtype) for weight in linears.weights]


def round_to_nearest(
    weight: torch.Tensor, settings: Quantization, dtype: torch.dtype, limits: torch.Tensor | None = None
) -> CompressedLinear:
    """Return the weight rounded to the grid from the minimum to the maximum of each group.

    Args:
        weight: ``[out, in]``.
        settings: of the grid.
        dtype: in which the result and its scales are stored.
        limits: the largest |w| of each group, fp32 ``[out, groups]``: weights are clipped to it first; None: no clipping.
    """
    rows, inputs = weight.shape
    size = settings.group_size or inputs
    result = weight.new_empty(rows, inputs, dtype=dtype)
    codes = None if codes_come_back(settings.bits, dtype) else torch.empty_like(result, dtype=torch.uint8)
    scales = weight.new_empty(rows, inputs // size, dtype=dtype)
    zero_point = torch.empty_like(scales, dtype=torch.uint8)
    for part in row_parts(rows, inputs):
        groups = weight[part].float().reshape(-1, inputs // size, size)
        if limits is not None:
            groups = within(groups, limits[part, :, None])
        scales[part], zero_point[part] = grid_of(
            groups, settings.bits, symmetric=settings.symmetric, dtype=dtype
        )
        by_group = scales[part, :, None], zero_point[part, :, None]
        rounded = round_to_codes(groups, *by_group, settings.bits).flatten(1)
        result[part] = dequantize(rounded, scales[part], zero_point[part])
        if codes is not None:
            codes[part] = rounded
    return CompressedLinear(result, codes, scales, zero_point)
