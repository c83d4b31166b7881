"""SparseGPT: prunes column by column and compensates in later columns (Frantar & Alistarh 2023).

The weights with the smallest ``w² / U_jj²`` (the optimal brain surgeon's error) are pruned, chosen in every block of columns after
the columns before it have changed them. All linears of a linear group share one factorisation and one sweep.
"""

import torch

from studyctl.compress.prune.masks import up_to_rank
from studyctl.compress.sweep.columns import blocks, pass_on, prune_block
from studyctl.compress.sweep.inverse import damped_inverse
from studyctl.compress.walk.statistics import is_finite
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup, stacked
from studyctl.contract.methods import SparseGPT


def compress_linears(linears: LinearGroup, settings: SparseGPT) -> list[CompressedLinear]:
    """Prune linears.

    In every block of columns, each linear loses the weights with the smallest error up to the rank ``int(size · sparsity)``:
    see :func:`~studyctl.compress.prune.masks.up_to_rank`.
    """
    inverse = damped_inverse(linears, settings.damping)
    root, rows = inverse.root, [len(weight) for weight in linears.weights]
    weights = stacked(linears.weights)
    weights[:, inverse.dead] = 0
    size = settings.block_size
    if settings.group is not None:  # no group of n:m lies across two blocks
        size = max(settings.group[1], size - size % settings.group[1])
    for block in blocks(weights.shape[1], size):
        part, pivots = weights[:, block], root.diagonal()[block]
        mask = None if settings.group else _mask(part, pivots, settings.target_sparsity, rows)
        weights[:, block], errors = prune_block(part, root[block, block], mask, settings.group)
        pass_on(weights, errors, root, block)
    if is_finite(weights):  # what is not finite must stay so: the walker refuses it
        largest = torch.finfo(linears.dtype).max
        weights.clamp_(-largest, largest)  # made up for others, a large weight may leave fp16
    return [CompressedLinear(part.to(linears.dtype)) for part in torch.split(weights, rows)]


def _mask(weights: torch.Tensor, pivots: torch.Tensor, sparsity: float, rows: list[int]) -> torch.Tensor:
    """Return a mask of the weights ``[out, block]`` to prune, chosen for each linear separately."""
    parts = torch.split(weights.square() / pivots.square(), rows)
    return torch.cat([up_to_rank(part, int(part.numel() * sparsity)) for part in parts])
