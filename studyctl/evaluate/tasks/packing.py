"""Trees next to each other in one row of tokens, for one forward pass.

The row has little or no padding: trees of (nearly) the same size are neighbours and form a group, for all of which attention
is computed at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studyctl.evaluate.tasks.trees import Ids, Prompt, Tree

PADDING = {"cpu": 0.0, "cuda": 0.1}
"""Fraction of a group that may be padding: on a GPU a few large products are faster than many small ones."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring trees of one width."""

    start: int
    """First token in the row."""
    trees: int
    width: int
    """Tokens of each tree, padding included."""
    is_chain: bool
    """Whether none of the trees branches."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one forward pass, and where the answers are read from it."""

    ids: Ids
    """``[tokens]``"""
    positions: Ids
    """``[tokens]``: depth of each in its tree."""
    ends: Ids
    """``[tokens]``: index in its tree after the last token below it."""
    groups: tuple[Group, ...]
    prompts: Ids
    """``[prompts]``: their numbers."""
    rows: Ids
    """``[targets]``: index of the token that predicts each target, in ascending order."""
    targets: Ids
    """``[targets]``: the tokens to predict."""
    owners: Ids
    """``[targets]``: index in ``prompts`` of each target's prompt."""


def pack(prompts: Sequence[Prompt], trees: Sequence[Tree], budget: int, device: str) -> list[Chunk]:
    """Put trees into chunks of about the same size; a pure function of its arguments.

    Args:
        prompts: those of the trees.
        trees: the largest first.
        budget: tokens of a forward pass; at least one tree.
        device: ``cpu`` or ``cuda``.
    """
    tokens = sum(tree.size for tree in trees)
    fair = -(-tokens // max(1, -(-tokens // budget)))
    padding = PADDING[device]
    chunks: list[Chunk] = []
    row: list[tuple[Tree, int]] = []  # with the width of its group
    filled = width = 0
    for tree in trees:
        if not (1 - padding) * width <= tree.size <= width:
            width = tree.size
        if row and (filled + width > budget or filled >= fair):
            chunks.append(_chunk(prompts, row))
            row, filled, width = [], 0, tree.size
        row.append((tree, width))
        filled += width
    return [*chunks, _chunk(prompts, row)] if row else chunks


def _chunk(prompts: Sequence[Prompt], trees: list[tuple[Tree, int]]) -> Chunk:
    """Return the chunk of trees, each given with the width of its group."""
    total = sum(width for _, width in trees)
    ids, positions = np.zeros(total, np.int64), np.zeros(total, np.int64)
    ends = np.concatenate([np.arange(1, width + 1) for _, width in trees])  # padding attends to itself
    groups: list[Group] = []
    rows, targets, owners = [], [], []
    numbers: list[int] = []
    start = 0
    for tree, width in trees:
        stop = start + tree.size
        ids[start:stop], positions[start:stop], ends[start:stop] = tree.tokens, tree.depths, tree.ends
        chain = tree.is_chain and tree.size == width
        if groups and groups[-1].width == width:
            last = groups.pop()
            groups.append(Group(last.start, last.trees + 1, width, last.is_chain and chain))
        else:
            groups.append(Group(start, 1, width, chain))
        for number, scored in zip(tree.prompts, tree.scored, strict=True):
            rows.append(start + scored)
            targets.append(np.asarray(prompts[number].targets, np.int64))
            owners.append(np.full(len(scored), len(numbers)))
            numbers.append(number)
        start += width
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return Chunk(
        ids,
        positions,
        ends,
        tuple(groups),
        np.asarray(numbers),
        row[order],
        np.concatenate(targets)[order],
        np.concatenate(owners)[order],
    )
