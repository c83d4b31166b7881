"""The quantization grid: ``2**bits`` evenly spaced values per group of weights, 0 always among them.

A weight is ``(code − zero_point) · scale`` with ``code`` and ``zero_point`` in ``0 .. 2**bits − 1``. As in GPTQ's ``Quantizer``
(Frantar et al. 2023), the range of a group is widened to include 0. Unlike there, scales are rounded to the dtype
in which they are stored *before* weights are rounded, so that what is evaluated is what a loader computes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

ROW_BLOCK = 1 << 19
"""Weights that are rounded at once: what does not fit into a processor's cache is written and read many times."""


def row_parts(rows: int, inputs: int) -> Iterator[slice]:
    """Yield all rows of a linear in slices of about :data:`ROW_BLOCK` weights."""
    step = max(1, ROW_BLOCK // inputs)
    for start in range(0, rows, step):
        yield slice(start, start + step)


class Grid(NamedTuple):
    """Scales and zero points of groups; both have the groups' shape."""

    scales: torch.Tensor
    """The dtype in which they are stored; finite and positive."""
    zero_point: torch.Tensor
    """uint8: the code of 0."""


def grid_of(groups: torch.Tensor, bits: int, *, symmetric: bool, dtype: torch.dtype) -> Grid:
    """Return the grid from the smallest to the largest weight of each group.

    Args:
        groups: ``[..., group]``, finite; the last dimension is reduced.
        bits: bits of a code, 1 to 8.
        symmetric: the range is made symmetric about 0 and the zero point is the middle code.
        dtype: in which scales are stored.

    Returns:
        Scales and zero points, each ``[...]``.
    """
    low, high = torch.aminmax(groups.float(), dim=-1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    top, limits = 2**bits - 1, torch.finfo(dtype)
    # A group of zeros gets scale 1, since weights are divided by scales.
    exact = torch.where(high > low, (high - low) / top, 1.0)
    scales = exact.clamp(min=smallest_scale(dtype), max=limits.max).to(dtype)
    # Subnormal fp16 has few digits: rounded down, a scale could leave the largest weights more than a step beyond the grid.
    is_short = (exact - scales.float()) * top > scales.float()
    scales = torch.where(is_short, scales + smallest_scale(dtype), scales)
    if symmetric:
        zero_point = torch.full_like(scales, 2 ** (bits - 1), dtype=torch.uint8)
    else:
        zero_point = (-low / scales.float()).round_().clamp_(0, top).to(torch.uint8)
    # Both ends of the grid are finite, also where they lie up to a step beyond the largest weights.
    furthest = torch.maximum(zero_point.float(), top - zero_point.float())
    largest = (limits.max * (1 - limits.eps) / furthest).to(dtype)
    return Grid(torch.minimum(scales, largest), zero_point)


UPPER_LIMIT = 1 - 2.0**-18
"""The upper limit of clipped weights, as a fraction of the lower one.

If they were equal, a group that is clipped at both ends would have its lower end halfway between two codes, and rounding errors
would decide which: another one on a GPU than on a CPU.
"""


def within(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Return ``values`` clipped to ``-limits .. limits · UPPER_LIMIT``; the shapes broadcast."""
    return torch.maximum(torch.minimum(values, limits * UPPER_LIMIT), -limits)


def round_to_codes(
    weights: torch.Tensor, scales: torch.Tensor, zero_point: torch.Tensor, bits: int
) -> torch.Tensor:
    """Return the codes (uint8) of the grid values nearest to ``weights``; the shapes broadcast."""
    codes = (weights.float() / scales.float()).round_().add_(zero_point)
    return codes.clamp_(0, 2**bits - 1).to(torch.uint8)


def dequantize(
    codes: torch.Tensor, scales: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``(codes − zero_point) · scales`` in the dtype of ``scales``.

    The difference of two codes is exact in every dtype used here, so the product is rounded once, whether it is
    computed in this dtype or in fp32.

    Args:
        codes: ``[out, in]``, uint8.
        scales: ``[out, groups]``.
        zero_point: ``[out, groups]``, uint8.
        groups: ``[in]``, the group of every input; None: a group is ``in / groups`` consecutive inputs.
    """
    if groups is not None:
        steps = codes.to(scales.dtype).sub_(zero_point[:, groups].to(scales.dtype))
        return steps.mul_(scales[:, groups])
    steps = codes.reshape(*scales.shape, -1).to(scales.dtype)  # [out, groups, group]
    return steps.sub_(zero_point[..., None].to(scales.dtype)).mul_(scales[..., None]).reshape(codes.shape)


def codes_come_back(bits: int, dtype: torch.dtype) -> bool:
    """Return whether :func:`codes_of` recovers all codes of so many bits from weights in this dtype.

    ``weight / scale`` is off by ``|code − zero_point| · eps / 2`` at most (by nothing if the product is subnormal), which must
    be less than a half. For 1 to 8 bits it is, except for 8 bits in bfloat16.
    """
    return ((1 << bits) - 1) * torch.finfo(dtype).eps < 1


def codes_of(
    weight: torch.Tensor, scales: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the codes from which :func:`dequantize` made ``weight``, if :func:`codes_come_back`: uint8 ``[out, in]``."""
    codes = torch.empty_like(weight, dtype=torch.uint8, memory_format=torch.contiguous_format)
    for part in row_parts(*weight.shape):
        values, steps, zero = weight[part].float(), scales[part], zero_point[part]
        if groups is not None:
            codes[part] = (values / steps[:, groups]).round_().add_(zero[:, groups])
        else:
            grouped = values.reshape(*steps.shape, -1) / steps[..., None]  # [out, groups, group]
            codes[part] = grouped.round_().add_(zero[..., None]).flatten(1)
    return codes


def paired(codes: torch.Tensor) -> torch.Tensor:
    """Return codes of up to four bits ``[rows, columns]``, two per byte ``[rows, ceil(columns / 2)]``, the first in the lower half."""
    pairs = codes[:, 0::2].clone()
    pairs[:, : codes.shape[1] // 2] |= codes[:, 1::2] << 4
    return pairs


def unpaired(pairs: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the codes ``[rows, columns]`` that :func:`paired` packed."""
    return torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)[:, :columns]


def smallest_scale(dtype: torch.dtype) -> float:
    """Return the smallest scale of a grid: subnormal in fp16, where weights may be that small, else normal."""
    limits = torch.finfo(dtype)
    return limits.smallest_normal * (limits.eps if dtype == torch.float16 else 1.0)
