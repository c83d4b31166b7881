"""Magnitude pruning: the smallest weights of each linear go. Needs no data."""

import torch

from studyctl.compress.compressed import CompressedLinear, StageInput
from studyctl.compress.masks import smallest, smallest_of_group
from studyctl.compress.settings import Magnitude


def compress_stage(stage: StageInput, settings: Magnitude) -> list[CompressedLinear]:
    """Prune each linear of the stage."""
    return [CompressedLinear(weight.masked_fill(mask(weight, settings), 0)) for weight in stage.weights]


def mask(weight: torch.Tensor, settings: Magnitude) -> torch.Tensor:
    """Return which weights ``[out, in]`` go.

    With a ``sparsity`` s these are the ``int(out · in · s)`` smallest of the linear. Wanda's code zeroes all weights up to
    a threshold; here ties at the threshold are broken by position, so that equal weights do not all go.
    """
    scores = weight.abs().float()
    if settings.group is not None:
        return smallest_of_group(scores, *settings.group)
    count = int(weight.numel() * settings.target_sparsity)
    return smallest(scores.reshape(1, -1), count).reshape(weight.shape)
