"""Prompts as prefix trees: the common beginning of several prompts is read once.

Prompts in sorted order are a depth-first walk of the tree of all their tokens: each branches off the one before it where the two
begin to differ. In that order the tokens below a token are those that follow it, up to its ``end``; so token i attends to
token j exactly if ``j <= i < end[j]``, and its position is its depth. No other structure is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens that a model reads for one request, and those whose probability is scored."""

    tokens: tuple[int, ...]
    """Context and continuation without its last token; at least one token."""
    targets: tuple[int, ...]
    """The continuation: each of the last ``len(targets)`` tokens predicts one of them."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Prompts that share their beginning, with each shared token once."""

    tokens: Ids
    """``[size]``, depth first."""
    depths: Ids
    """``[size]``: position of a token in the prompts that it belongs to."""
    ends: Ids
    """``[size]``: index after the last token below it."""
    prompts: tuple[int, ...]
    """Numbers of its prompts."""
    scored: tuple[Ids, ...]
    """Of each prompt: indices of the tokens that predict its targets."""

    @property
    def size(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Return whether nothing branches: every token attends to all before it."""
        return bool((self.ends == self.size).all())


def build_trees(prompts: Sequence[Prompt], limit: int, token_work: float) -> list[Tree]:
    """Return the trees of prompts, the largest first; a pure function of its arguments.

    A prompt joins the tree of the prompts before it in sorted order if reading its beginning again would cost more than
    a larger tree does in attention, which computes all pairs of a tree's tokens and masks most of them.

    Args:
        prompts: in any order.
        limit: maximum tokens of a tree; only a single prompt may have more.
        token_work: cost of a token outside of attention, in units of a pair of tokens in attention.
    """
    trees: list[Tree] = []
    run: list[int] = []
    shared: list[int] = []  # tokens that each of the run shares with the one before
    size = 0
    before = np.empty(0, np.int64)
    for number in sorted(range(len(prompts)), key=lambda number: prompts[number].tokens):
        tokens = np.asarray(prompts[number].tokens)
        length = min(len(before), len(tokens))
        different = np.flatnonzero(before[:length] != tokens[:length])
        common = int(different[0]) if len(different) else length
        new = len(tokens) - common
        extra = 2 * size * new + new**2 - len(tokens) ** 2
        if run and (size + new > limit or common * token_work < extra):
            trees.append(_tree(prompts, run, shared))
            run, shared, size, common = [], [], 0, 0
        run.append(number)
        shared.append(common)
        size += len(tokens) - common
        before = tokens
    if run:
        trees.append(_tree(prompts, run, shared))
    return sorted(trees, key=lambda tree: (-tree.size, tree.prompts))


def _tree(prompts: Sequence[Prompt], run: list[int], shared: list[int]) -> Tree:
    longest = max(len(prompts[number].tokens) for number in run)
    size = sum(len(prompts[number].tokens) - common for number, common in zip(run, shared, strict=True))
    tokens, depths, ends = (np.empty(size, np.int64) for _ in range(3))
    path = np.empty(longest, np.int64)  # index of the token at each depth of this prompt
    scored = []
    start = depth = 0
    for number, common in zip(run, shared, strict=True):
        prompt = prompts[number]
        ends[path[common:depth]] = start
        depth = len(prompt.tokens)
        stop = start + depth - common
        tokens[start:stop] = prompt.tokens[common:]
        depths[start:stop] = np.arange(common, depth)
        path[common:depth] = np.arange(start, stop)
        scored.append(path[depth - len(prompt.targets) : depth].copy())
        start = stop
    ends[path[:depth]] = size
    return Tree(tokens, depths, ends, tuple(run), tuple(scored))
