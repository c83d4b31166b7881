"""Prune, then quantize what is left, in one walk: both see the statistics of the same inputs; pruned weights stay 0."""

from dataclasses import replace

import torch

from studyctl.compress.prune import magnitude, sparsegpt, wanda
from studyctl.compress.quantize import awq, gptq
from studyctl.compress.quantize.rtn import round_to_nearest
from studyctl.compress.weights.compressed import BlockInput, CompressedLinear, PreparedBlock, StageInput
from studyctl.contract.methods import AWQ, GPTQ, Magnitude, PruneThenQuantize, SparseGPT, Wanda


def prepare_block(block: BlockInput, settings: PruneThenQuantize) -> PreparedBlock:
    """Prune every stage of the block, and scale what is left where AWQ is what follows."""
    block = replace(block, stages=tuple(_pruned(stage, settings) for stage in block.stages))
    quantization = settings.quantization
    if isinstance(quantization, AWQ):
        return awq.scale_block(block, quantization)
    return PreparedBlock(block.stages, {})


def compress_stage(stage: StageInput, settings: PruneThenQuantize) -> list[CompressedLinear]:
    """Quantize the linears of a stage that :func:`prepare_block` has pruned; every grid has a 0 for pruned weights."""
    quantization = settings.quantization
    if isinstance(quantization, AWQ):
        return awq.compress_stage(stage, quantization)
    if isinstance(quantization, GPTQ):
        pruned = torch.cat([weight == 0 for weight in stage.weights])
        return gptq.quantize_stage(stage, quantization, frozen=pruned)
    return [round_to_nearest(weight, quantization, stage.dtype) for weight in stage.weights]


def _pruned(stage: StageInput, settings: PruneThenQuantize) -> StageInput:
    pruning = settings.pruning
    if isinstance(pruning, SparseGPT):
        results = sparsegpt.compress_stage(stage, pruning)
    elif isinstance(pruning, Wanda):
        results = wanda.compress_stage(stage, pruning)
    else:
        assert isinstance(pruning, Magnitude)
        results = magnitude.compress_stage(stage, pruning)
    return replace(stage, weights=tuple(result.weight for result in results), dense=stage.weights)
