"""Which weights go: the smallest of every set, an exact number of them, ties broken by position."""

import numpy as np
import torch

COMPARED_GROUP = 16
"""Up to this size of a group, comparing all pairs beats a selection for every group (6 times, at 2:4)."""


def smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the ``count`` smallest scores of every row; of equal scores the first go.

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
    if int(chosen.sum()) == count * len(scores):
        return chosen  # no ties at the border, as nearly always
    below, equal = scores < last, scores == last
    room = count - below.sum(1, keepdim=True)
    return below | (equal & (equal.cumsum(1) <= room))


def _kth(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the ``count``-th smallest score of every row, ``[rows, 1]``."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return scores.kthvalue(count, dim=1, keepdim=True).values
    # NumPy selects with vector instructions: four times as fast as torch on a CPU.
    parted = np.partition(scores.numpy(), count - 1, axis=1)
    return torch.from_numpy(parted[:, count - 1 : count].copy())


def smallest_of_group(scores: torch.Tensor, kept: int, group: int) -> torch.Tensor:
    """Return a mask that leaves the ``kept`` largest of every ``group`` consecutive scores of a row (n:m).

    Args:
        scores: ``[rows, n]``, without NaN; ``group`` divides ``n``.
        kept: weights of a group that stay.
        group: size of a group.
    """
    groups = scores.reshape(-1, group)
    pruned = _below_rank(groups, group - kept) if group <= COMPARED_GROUP else smallest(groups, group - kept)
    return pruned.reshape(scores.shape)


def _below_rank(groups: torch.Tensor, count: int) -> torch.Tensor:
    """Return what :func:`smallest` returns, from the rank of every score among its row's few."""
    columns = groups.unbind(1)
    pruned = torch.empty_like(groups, dtype=torch.bool)
    for i, score in enumerate(columns):
        rank = torch.zeros_like(score, dtype=torch.uint8)  # how many of the row go before this one
        for j, other in enumerate(columns):
            if j != i:
                rank += other <= score if j < i else other < score
        pruned[:, i] = rank < count
    return pruned
