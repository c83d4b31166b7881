"""SparseGPT: prunes column by column and compensates in the columns that follow (Frantar & Alistarh 2023).

Weights go where that costs least, ``w² / [H⁻¹]²_jj`` (the optimal brain surgeon's error), chosen in every block of columns
from what the columns before have made of them. All linears of a stage share one factorisation and one sweep.
"""

import torch

from studyctl.compress.prune.masks import up_to_rank
from studyctl.compress.sweep.columns import blocks, pass_on, prune_block
from studyctl.compress.sweep.inverse import InverseRoot, stage_inverse
from studyctl.compress.weights.compressed import CompressedLinear, StageInput, stacked
from studyctl.contract.methods import SparseGPT


def compress_stage(stage: StageInput, settings: SparseGPT) -> list[CompressedLinear]:
    """Prune the linears of the stage."""
    inverse = stage_inverse(stage, settings.damping)
    rows = [len(weight) for weight in stage.weights]
    weights = stacked(stage.weights)
    prune(weights, inverse, settings, rows)
    return [CompressedLinear(part.to(stage.dtype)) for part in torch.split(weights, rows)]


def prune(weights: torch.Tensor, inverse: InverseRoot, settings: SparseGPT, rows: list[int]) -> None:
    """Prune stacked weights in place.

    Of each linear's part of a block of columns those weights go that have the smallest error, see
    :func:`~studyctl.compress.prune.masks.up_to_rank` with the rank ``int(size · sparsity)``.

    Args:
        weights: ``[out, in]``, fp32.
        inverse: of the Hessian of their inputs.
        settings: of the method.
        rows: how many rows each linear has.
    """
    weights[:, inverse.dead] = 0
    root = inverse.root
    for block in blocks(weights.shape[1], _block_size(settings)):
        part, pivots = weights[:, block], root.diagonal()[block]
        mask = None if settings.group else _mask(part, pivots, settings.target_sparsity, rows)
        pruned, errors = prune_block(part, root[block, block], mask, settings.group)
        weights[:, block] = pruned
        pass_on(weights, errors, root, block)


def _mask(weights: torch.Tensor, pivots: torch.Tensor, sparsity: float, rows: list[int]) -> torch.Tensor:
    """Return which weights ``[out, block]`` go, chosen for each linear by itself."""
    parts = torch.split(weights.square() / pivots.square(), rows)
    return torch.cat([up_to_rank(part, int(part.numel() * sparsity)) for part in parts])


def _block_size(settings: SparseGPT) -> int:
    """Return the columns of a block: as asked for, but never with a group of n:m across its border."""
    if settings.group is None:
        return settings.block_size
    size = settings.group[1]
    return max(size, settings.block_size - settings.block_size % size)
