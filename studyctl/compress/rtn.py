"""Round to nearest: every weight goes to the closest value of its group's grid. Needs no data."""

import torch

from studyctl.compress.compressed import CompressedLinear, StageInput
from studyctl.compress.grid import dequantize, grid_of, round_to_codes
from studyctl.compress.settings import RTN, Quantization


def compress_stage(stage: StageInput, settings: RTN) -> list[CompressedLinear]:
    """Round each linear of the stage."""
    return [round_to_nearest(weight, settings, stage.dtype) for weight in stage.weights]


def round_to_nearest(weight: torch.Tensor, settings: Quantization, dtype: torch.dtype) -> CompressedLinear:
    """Return the weight ``[out, in]`` on the grid from the minimum to the maximum of each group, stored in ``dtype``."""
    rows, inputs = weight.shape
    groups = weight.float().reshape(rows, -1, settings.group_size or inputs)  # [out, groups, group]
    scales, zeros = grid_of(groups, settings.bits, symmetric=settings.symmetric, dtype=dtype)
    codes = round_to_codes(groups, scales[..., None], zeros[..., None], settings.bits).reshape(rows, inputs)
    return CompressedLinear(dequantize(codes, scales, zeros), codes, scales, zeros)
