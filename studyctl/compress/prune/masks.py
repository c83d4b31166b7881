"""Masks of the weights to prune: those with the smallest scores, ties broken by position."""

import numpy as np
import torch

COMPARED_GROUP = 16
"""Up to this size of a group, comparing all pairs is faster than a selection in every group (6 times, at 2:4)."""
TIED = 0.005
"""Fraction of all scores that ties with the last pruned one may add to the number asked for."""


def up_to_rank(scores: torch.Tensor, rank: int) -> torch.Tensor:
    """Return a mask of all scores up to the one of this rank (0 is the smallest), as in SparseGPT's and Wanda's code.

    So one more than ``rank`` is pruned, and all that tie with it: in 16-bit weights many do. If ties would be more than
    :data:`TIED` of all (weights that were quantized before), exactly ``rank`` are pruned, by position; with rank 0 none.

    Args:
        scores: any shape, without NaN.
        rank: 0 to the number of scores, exclusive.
    """
    if rank == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    chosen = scores <= _kth(scores.reshape(1, -1), rank + 1)[0, 0]
    if int(torch.count_nonzero(chosen)) - rank <= max(1, TIED * scores.numel()):
        return chosen
    return smallest(scores.reshape(1, -1), rank).reshape(scores.shape)


def smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the ``count`` smallest scores of every row; of equal scores the first are taken.

    Args:
        scores: ``[rows, n]``, without NaN.
        count: 0 to n.

    Returns:
        bool ``[rows, n]`` with exactly ``count`` True in every row: what a stable sort would choose.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    last = _kth(scores, count)
    chosen = scores <= last
    if int(torch.count_nonzero(chosen)) == count * len(scores):
        return chosen  # no ties at the threshold, as in nearly all cases
    # Only rows with ties are ranked: often one of thousands, and ranking takes several times as long as a mask.
    on_cpu = chosen.device.type == "cpu"  # NumPy counts bytes ten times as fast as torch
    counts = torch.from_numpy(np.count_nonzero(chosen.numpy(), axis=1)) if on_cpu else chosen.sum(1)
    tied = counts != count
    scores, last = scores[tied], last[tied]
    below, equal = scores < last, scores == last
    needed = count - below.sum(1, keepdim=True)
    chosen[tied] = below | (equal & (equal.cumsum(1, dtype=torch.int32) <= needed))
    return chosen


def without(weight: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """Return the weight with 0 where ``pruned`` is True; the weight must be finite.

    By a product: a masked fill branches at every weight, which no processor can predict, and takes four times as long.
    """
    return (weight * ~pruned).add_(0.0)  # adding 0 turns -0 into 0


def zeros(weight: torch.Tensor) -> int:
    """Return how many weights are exactly 0."""
    return weight.numel() - int(torch.count_nonzero(weight))


def _kth(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count``-th smallest score of every row, ``[rows, 1]``."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return scores.kthvalue(count, dim=1, keepdim=True).values
    # NumPy selects with vector instructions: four times as fast as torch on a CPU.
    parted = np.partition(scores.numpy(), count - 1, axis=1)
    return torch.from_numpy(parted[:, count - 1 : count].copy())


def smallest_of_group(scores: torch.Tensor, kept: int, group: int) -> torch.Tensor:
    """Return a mask of all but the ``kept`` largest of every ``group`` consecutive scores of a row (n:m: ``kept`` of ``group``).

    Args:
        scores: ``[rows, columns]``, without NaN; ``group`` divides ``columns``.
        kept: n, scores of a group that are not in the mask.
        group: m, size of a group.
    """
    groups = scores.reshape(-1, group)
    if group > COMPARED_GROUP:
        return smallest(groups, group - kept).reshape(scores.shape)
    columns = groups.unbind(1)
    pruned = torch.empty_like(groups, dtype=torch.bool)
    for i, score in enumerate(columns):
        rank = torch.zeros_like(score, dtype=torch.uint8)  # how many of the group come before this one
        for j, other in enumerate(columns):
            if j != i:
                rank += other <= score if j < i else other < score
        pruned[:, i] = rank < group - kept
    return pruned.reshape(scores.shape)
