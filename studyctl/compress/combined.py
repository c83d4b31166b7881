"""Prune, then quantize what is left, in one walk with the same statistics for both; pruned weights stay 0."""

from dataclasses import replace
from pkgutil import resolve_name

import torch

from studyctl.compress.quantize import awq, gptq, rtn
from studyctl.compress.weights.compressed import BlockInput, CompressedLinear, LinearGroup, PreparedBlock
from studyctl.contract.methods import AWQ, GPTQ, RTN, PruneThenQuantize, method_of


def prepare_block(block: BlockInput, settings: PruneThenQuantize) -> PreparedBlock:
    """Prune all linears of the block; if AWQ follows, scale what is left."""
    pruning, quantization = settings.pruning, settings.quantization
    target = method_of(pruning).target
    assert target is not None  # a method that prunes has an implementation
    prune = resolve_name(target)
    pruned = tuple(
        replace(
            linears,
            weights=tuple(result.weight for result in prune(linears, pruning)),
            dense=linears.weights,
        )
        for linears in block.linear_groups
    )
    if isinstance(quantization, AWQ):
        return awq.scale_block(replace(block, linear_groups=pruned), quantization)
    return PreparedBlock(pruned, {})


def compress_linears(linears: LinearGroup, settings: PruneThenQuantize) -> list[CompressedLinear]:
    """Quantize linears that :func:`prepare_block` has pruned; every grid includes 0."""
    quantization = settings.quantization
    if isinstance(quantization, AWQ):
        return awq.compress_linears(linears, quantization)
    if isinstance(quantization, GPTQ):
        pruned = torch.cat([weight == 0 for weight in linears.weights])
        return gptq.compress_linears(linears, quantization, frozen=pruned)
    assert isinstance(quantization, RTN)
    return rtn.compress_linears(linears, quantization)
