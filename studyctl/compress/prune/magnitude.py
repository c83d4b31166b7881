"""Magnitude pruning: prunes the smallest weights of each linear. Needs no data."""

import torch

from studyctl.compress.prune.masks import smallest_of_group, up_to_rank, without
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import Magnitude


def compress_linears(linears: LinearGroup, settings: Magnitude) -> list[CompressedLinear]:
    """Prune each linear."""
    return [CompressedLinear(without(weight, mask(weight, settings))) for weight in linears.weights]


def mask(weight: torch.Tensor, settings: Magnitude) -> torch.Tensor:
    """Return a mask of the weights ``[out, in]`` to prune.

    With a ``sparsity`` s: the smallest of the linear up to the rank ``int(out · in · s)``, and all that tie with it; see
    :func:`~studyctl.compress.prune.masks.up_to_rank`.
    """
    scores = weight.abs().float()
    if settings.group is not None:
        return smallest_of_group(scores, *settings.group)
    return up_to_rank(scores, int(weight.numel() * settings.target_sparsity))
