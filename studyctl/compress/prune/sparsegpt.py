"""SparseGPT: prunes column by column and compensates in the columns that follow (Frantar & Alistarh 2023).

Weights go where that costs least, ``w² / [H⁻¹]²_jj`` (the optimal brain surgeon's error), chosen in every block of columns
from what the columns before have made of them. All linears of a linear group share one factorisation and one sweep.
"""

import torch

from studyctl.compress.prune.masks import up_to_rank
from studyctl.compress.sweep.columns import blocks, pass_on, prune_block
from studyctl.compress.sweep.inverse import damped_inverse
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup, stacked
from studyctl.contract.methods import SparseGPT


def compress_linears(linears: LinearGroup, settings: SparseGPT) -> list[CompressedLinear]:
    """Prune linears.

    Of each linear's part of a block of columns those weights go that have the smallest error, see
    :func:`~studyctl.compress.prune.masks.up_to_rank` with the rank ``int(size · sparsity)``.
    """
    inverse = damped_inverse(linears, settings.damping)
    root, rows = inverse.root, [len(weight) for weight in linears.weights]
    weights = stacked(linears.weights)
    weights[:, inverse.dead] = 0
    size = settings.block_size
    if settings.group is not None:  # no group of n:m lies across the border of two blocks
        size = max(settings.group[1], size - size % settings.group[1])
    for block in blocks(weights.shape[1], size):
        part, pivots = weights[:, block], root.diagonal()[block]
        mask = None if settings.group else _mask(part, pivots, settings.target_sparsity, rows)
        weights[:, block], errors = prune_block(part, root[block, block], mask, settings.group)
        pass_on(weights, errors, root, block)
    return [CompressedLinear(part.to(linears.dtype)) for part in torch.split(weights, rows)]


def _mask(weights: torch.Tensor, pivots: torch.Tensor, sparsity: float, rows: list[int]) -> torch.Tensor:
    """Return which weights ``[out, block]`` go, chosen for each linear by itself."""
    parts = torch.split(weights.square() / pivots.square(), rows)
    return torch.cat([up_to_rank(part, int(part.numel() * sparsity)) for part in parts])
