"""Round to nearest: every weight goes to the closest value of its group's grid. Needs no data."""

import torch

from studyctl.compress.quantize.grid import codes_come_back, dequantize, grid_of, round_to_codes, within
from studyctl.compress.weights.compressed import CompressedLinear, StageInput
from studyctl.contract.limits import row_parts
from studyctl.contract.methods import RTN, Quantization


def compress_stage(stage: StageInput, settings: RTN) -> list[CompressedLinear]:
    """Round each linear of the stage."""
    return [round_to_nearest(weight, settings, stage.dtype) for weight in stage.weights]


def round_to_nearest(
    weight: torch.Tensor, settings: Quantization, dtype: torch.dtype, limits: torch.Tensor | None = None
) -> CompressedLinear:
    """Return the weight on the grid from the minimum to the maximum of each group.

    Args:
        weight: ``[out, in]``.
        settings: of the grid.
        dtype: in which the result and its scales are stored.
        limits: the largest magnitude that each group may have, fp32 ``[out, groups]``: what is beyond is cut off first.
    """
    rows, inputs = weight.shape
    size = settings.group_size or inputs
    result = weight.new_empty(rows, inputs, dtype=dtype)
    codes = None if codes_come_back(settings.bits, dtype) else torch.empty_like(result, dtype=torch.uint8)
    scales = weight.new_empty(rows, inputs // size, dtype=dtype)
    zeros = torch.empty_like(scales, dtype=torch.uint8)
    for part in row_parts(rows, inputs):
        groups = weight[part].float().reshape(-1, inputs // size, size)
        if limits is not None:
            groups = within(groups, limits[part, :, None])
        scales[part], zeros[part] = grid_of(groups, settings.bits, symmetric=settings.symmetric, dtype=dtype)
        by_group = scales[part, :, None], zeros[part, :, None]
        rounded = round_to_codes(groups, *by_group, settings.bits).flatten(1)
        result[part] = dequantize(rounded, scales[part], zeros[part])
        if codes is not None:
            codes[part] = rounded
    return CompressedLinear(result, codes, scales, zeros)
