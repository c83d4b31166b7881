"""Linears on a grid as GGUF's blocks: the same codes, and scales in fp16.

A block is 32 consecutive inputs of a row. Without a minimum a weight is ``d · (q − middle)``, with one ``d · q + m``; d and m are
fp16, and ``m = −d · zero_point``. Layouts: ``block_q4_0`` and its like in ggml's ``ggml-common.h``. The low halves of codes are stored
two a byte, the first 16 inputs in the lower half; fifth bits come together, four bytes a block.
"""

from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from studyctl.compress.weights.compressed import CompressedLinear

BLOCK = 32


class Blocks(NamedTuple):
    """A linear in blocks."""

    kind: GGMLQuantizationType
    data: NDArray[np.uint8]
    """``[out, bytes]``."""
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
    if inputs % BLOCK or (inputs // linear.scales.shape[1]) % BLOCK:
        return f"{linear.scales.shape[1]} groups of {inputs} inputs are no whole blocks of {BLOCK}"
    if bits > 5 and not _is_symmetric(linear, bits):
        return f"no block holds {bits} bits with zero points (use symmetric, or at most 5 bits)"
    return ""


def _is_symmetric(linear: CompressedLinear, bits: int) -> bool:
    assert linear.zero_point is not None
    return bool((linear.zero_point == 2 ** (bits - 1)).all())


def to_blocks(linear: CompressedLinear, bits: int) -> Blocks:
    """Return a linear in blocks; :func:`misfit` says whether there are any for it.

    Args:
        linear: with codes ``[out, in]``, scales and zero points ``[out, groups]``.
        bits: of its codes.
    """
    assert linear.scales is not None
    assert linear.zero_point is not None
    codes, middle = linear.all_codes().cpu(), 2 ** (bits - 1)
    rows, inputs = codes.shape
    repeats = inputs // BLOCK // linear.scales.shape[1]
    exact = linear.scales.float().cpu().repeat_interleave(repeats, 1)
    scales = exact.half()
    inexact, numbers = int((scales.float() != exact).sum()), scales.numel()
    blocked = codes.reshape(rows, -1, BLOCK)
    if _is_symmetric(linear, bits):
        if bits > 5:
            signed = (blocked.int() - middle).to(torch.int8).view(torch.uint8)
            return Blocks(GGMLQuantizationType.Q8_0, _joined([scales], signed), inexact, numbers)
        width, kind = (4, GGMLQuantizationType.Q4_0) if bits <= 4 else (5, GGMLQuantizationType.Q5_0)
        data = _joined([scales], *_split(blocked + (2 ** (width - 1) - middle), width))
        return Blocks(kind, data, inexact, numbers)
    exact = -scales.float() * linear.zero_point.float().cpu().repeat_interleave(repeats, 1)
    minima = exact.half()
    inexact += int((minima.float() != exact).sum())
    width, kind = (4, GGMLQuantizationType.Q4_1) if bits <= 4 else (5, GGMLQuantizationType.Q5_1)
    return Blocks(kind, _joined([scales, minima], *_split(blocked, width)), inexact, 2 * numbers)


def _split(codes: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
    """Return codes ``[rows, blocks, 32]`` as bytes: fifth bits ``[…, 4]`` if there are any, and low halves ``[…, 16]``."""
    low = codes & 15
    halves = low[..., : BLOCK // 2] | (low[..., BLOCK // 2 :] << 4)
    if width == 4:
        return (halves,)
    fifth = np.packbits((codes >> 4).numpy(), axis=-1, bitorder="little")
    return torch.from_numpy(fifth), halves


def _joined(numbers: list[torch.Tensor], *parts: torch.Tensor) -> NDArray[np.uint8]:
    """Return rows of bytes: of each block its fp16 numbers, each ``[rows, blocks]``, and then its bytes, each ``[rows, blocks, n]``."""
    rows, blocks = numbers[0].shape
    heads = [number.contiguous().view(torch.uint8).reshape(rows, blocks, 2) for number in numbers]
    joined: NDArray[np.uint8] = torch.cat([*heads, *parts], -1).reshape(rows, -1).numpy()
    return joined
