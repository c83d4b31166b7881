"""Linears on a grid of evenly spaced values as GGUF's blocks: the same codes, and scales in fp16.

A block is 32 consecutive inputs of a row. Without a minimum a weight is ``d · (q − middle)``, with one ``d · q + m``; d and m are
fp16, and ``m = −d · zero_point``.
"""

from typing import NamedTuple

import numpy as np
import torch

from studyctl.compress.gguf.packing import Rounded, pack
from studyctl.compress.weights.blocks import Blocks
from studyctl.compress.weights.compressed import CompressedLinear
from studyctl.contract.gguf import SMALLEST_BLOCK, BlockType


class Packed(NamedTuple):
    """A linear in blocks, and what of its grid fp16 does not hold."""

    blocks: Blocks
    inexact: int
    """Scales and minima that fp16 rounds; 0: the weights are the same bit for bit, once rounded to the model's dtype."""
    numbers: int
    """Scales and minima."""


def misfit(linear: CompressedLinear, bits: int) -> str:
    """Return why GGUF has no block for a linear on a grid of so many bits; empty if it has."""
    assert linear.scales is not None
    inputs = linear.weight.shape[1]
    if linear.groups is not None:
        return "its groups follow the order of activations, and a block's inputs are consecutive (use static_groups)"
    if inputs % SMALLEST_BLOCK or (inputs // linear.scales.shape[1]) % SMALLEST_BLOCK:
        return f"{linear.scales.shape[1]} groups of {inputs} inputs are no whole blocks of {SMALLEST_BLOCK}"
    if bits > 5 and not _is_symmetric(linear, bits):
        return f"no block holds {bits} bits with zero points (use symmetric, or at most 5 bits)"
    return ""


def _is_symmetric(linear: CompressedLinear, bits: int) -> bool:
    assert linear.zero_point is not None
    return bool((linear.zero_point == 2 ** (bits - 1)).all())


def to_blocks(linear: CompressedLinear, bits: int) -> Packed:
    """Return a linear in blocks; :func:`misfit` says whether there are any for it.

    Args:
        linear: with codes ``[out, in]``, scales and zero points ``[out, groups]``.
        bits: of its codes.
    """
    assert linear.scales is not None
    assert linear.zero_point is not None
    codes = linear.all_codes().cpu().numpy().astype(np.int16)
    repeats = codes.shape[1] // SMALLEST_BLOCK // linear.scales.shape[1]
    scales = linear.scales.float().cpu().repeat_interleave(repeats, 1)
    zero_point = linear.zero_point.float().cpu().repeat_interleave(repeats, 1)
    inexact, numbers = _changed_by_half(scales), scales.numel()
    minima = scales.half().float() * zero_point
    kind = kind_of(linear, bits)
    if kind in _SYMMETRIC:
        codes -= 2 ** (bits - 1)
        minima = torch.zeros_like(scales)
    else:
        inexact, numbers = inexact + _changed_by_half(minima), 2 * numbers
    data = pack(Rounded(codes, scales.numpy(), minima.numpy()), kind)
    return Packed(Blocks(kind, torch.from_numpy(data)), inexact, numbers)


def kind_of(linear: CompressedLinear, bits: int) -> BlockType:
    """Return the type of the blocks that hold a linear on a grid."""
    if _is_symmetric(linear, bits):
        return BlockType.Q4_0 if bits <= 4 else BlockType.Q5_0 if bits == 5 else BlockType.Q8_0
    return BlockType.Q4_1 if bits <= 4 else BlockType.Q5_1


_SYMMETRIC = (BlockType.Q4_0, BlockType.Q5_0, BlockType.Q8_0)


def _changed_by_half(numbers: torch.Tensor) -> int:
    return int((numbers.half().float() != numbers).sum())
