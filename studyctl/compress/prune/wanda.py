"""Wanda: prunes by weight times activation, row by row (Sun et al. 2024, "A Simple and Effective Pruning Approach")."""

import torch

from studyctl.compress.prune.masks import smallest, smallest_of_group, without
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import Wanda


def compress_linears(linears: LinearGroup, settings: Wanda) -> list[CompressedLinear]:
    """Prune each linear."""
    assert linears.statistics is not None
    assert linears.statistics.norm is not None
    norm = linears.statistics.norm
    return [CompressedLinear(without(weight, mask(weight, norm, settings))) for weight in linears.weights]


def mask(weight: torch.Tensor, norm: torch.Tensor, settings: Wanda) -> torch.Tensor:
    """Return a mask of the weights to prune: the smallest S_ij = |W_ij| · ‖x_j‖₂ of each output row (equation 1).

    Args:
        weight: W, ``[out, in]``.
        norm: ‖x_j‖₂, ``[in]``, fp32.
        settings: ``sparsity`` s: the ``int(in · s)`` smallest of a row; ``pattern`` n:m: all but the n largest of every m.
    """
    scores = weight.abs().float() * norm
    if settings.group is not None:
        return smallest_of_group(scores, *settings.group)
    return smallest(scores, int(weight.shape[1] * settings.target_sparsity))
