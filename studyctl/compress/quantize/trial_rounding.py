"""How much weights would change if they were rounded; AWQ's searches compute that many times.

:func:`change_plainly` is the definition, in plain torch. On a CPU a compiled kernel does the same arithmetic, group by
group, without a dozen passes over memory.
"""

import numpy as np
import torch

from studyctl.compress.quantize.grid import UPPER_LIMIT, grid_of, smallest_scale, within
from studyctl.compress.sweep.columns import in_threads
from studyctl.contract.methods import Quantization


def change(
    groups: torch.Tensor,
    settings: Quantization,
    dtype: torch.dtype,
    *,
    scales: torch.Tensor | None = None,
    kept_range: float = 1.0,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``Q(W · s) / s − W`` with every group of ``W · s`` clipped at a fraction of its largest magnitude.

    Args:
        groups: W, ``[rows, groups, group]``, fp32.
        settings: of the grid Q.
        dtype: in which the grid's scales are stored.
        scales: s, ``[in]``; None: 1.
        kept_range: the fraction; 1: no clipping.
        out: where to put the result, of the same shape.
    """
    out = torch.empty_like(groups) if out is None else out
    if groups.device.type != "cpu" or dtype == torch.float16:  # the kernel rounds to fp32 and bf16 only
        return out.copy_(change_plainly(groups, settings, dtype, scales=scales, kept_range=kept_range))
    from studyctl.compress.sweep import kernels

    factors = torch.ones(groups[0].shape) if scales is None else scales.reshape(groups[0].shape)
    in_threads(
        kernels.rounding_changes,
        len(groups),
        groups.numpy(),
        factors.contiguous().numpy(),
        np.float32(kept_range),
        np.float32(UPPER_LIMIT),
        np.float32(2**settings.bits - 1),
        settings.symmetric,
        dtype == torch.bfloat16,
        np.float32(smallest_scale(dtype)),
        out.numpy(),
    )
    return out


def change_plainly(
    groups: torch.Tensor,
    settings: Quantization,
    dtype: torch.dtype,
    *,
    scales: torch.Tensor | None = None,
    kept_range: float = 1.0,
) -> torch.Tensor:
    """Do the same as :func:`change`, in plain torch."""
    values = groups if scales is None else groups * scales.reshape(groups[0].shape)
    if kept_range < 1:
        limits = values.abs().amax(-1, keepdim=True) * kept_range
        values = within(values, limits)
    grid = grid_of(values, settings.bits, symmetric=settings.symmetric, dtype=dtype)
    steps, zero_point = grid.scales.float()[..., None], grid.zero_point.float()[..., None]
    codes = (values / steps).round_().add_(zero_point).clamp_(0, 2**settings.bits - 1)
    rounded = codes.sub_(zero_point).mul_(steps)
    return (rounded if scales is None else rounded / scales.reshape(groups[0].shape)) - groups
