"""The methods that round to llama.cpp's blocks: to nearest, with GPTQ's error feedback, and by llama.cpp itself."""

import torch

from studyctl.compress.gguf.rounding import round_to_blocks, sweep_order
from studyctl.compress.quantize.target import towards_dense
from studyctl.compress.sweep.inverse import InverseRoot, damped_inverse
from studyctl.compress.weights.blocks import Blocks
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import Gguf, GPTQOnGguf, RTNOnGguf
from studyctl.llama import quantize_rows


def round_to_nearest(linears: LinearGroup, settings: RTNOnGguf) -> list[CompressedLinear]:
    """Round each linear."""
    pairs = zip(linears.weights, linears.kinds, strict=True)
    return [_linear(round_to_blocks(weight, kind), linears) for weight, kind in pairs]


def round_with_feedback(linears: LinearGroup, settings: GPTQOnGguf) -> list[CompressedLinear]:
    """Round linears column by column; a group without statistics, such as an embedding that is no head, to nearest.

    Linears of types with the same order of columns share one factorisation.
    """
    swept: dict[tuple[int, ...], tuple[InverseRoot, torch.Tensor]] = {}
    results = []
    for weight, kind in zip(linears.weights, linears.kinds, strict=True):
        inverse, order, values = None, None, weight
        if linears.statistics is not None:
            order = sweep_order(linears.hessian.diagonal(), kind)
            key = tuple(order.tolist())
            if key not in swept:
                swept[key] = damped_inverse(linears, settings.damping, order), order
            inverse, order = swept[key]
            if linears.statistics.shift is not None:
                values = towards_dense(weight.float(), linears, inverse, order, settings.target)
        results.append(_linear(round_to_blocks(values, kind, inverse, order), linears))
    return results


def quantize_by_llama(linears: LinearGroup, settings: Gguf) -> list[CompressedLinear]:
    """Let llama.cpp quantize each linear, weighted by the mean squares of its inputs where they were measured.

    Raises:
        StepError: llama.cpp's library is not here.
    """
    squares = None
    if linears.statistics is not None:
        assert linears.statistics.norm is not None
        squares = linears.statistics.norm.square().cpu().numpy()
    results = []
    for weight, kind in zip(linears.weights, linears.kinds, strict=True):
        data = quantize_rows(kind, weight.float().cpu().contiguous().numpy(), squares)
        results.append(_linear(Blocks(kind, torch.from_numpy(data).to(weight.device)), linears))
    return results


def _linear(blocks: Blocks, linears: LinearGroup) -> CompressedLinear:
    return CompressedLinear(blocks.values(linears.dtype), blocks=blocks)
