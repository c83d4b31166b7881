"""Log-likelihoods of continuations from as few tokens as possible: prompts in trees, and logits only where they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from studyctl.contract.limits import chunk_tokens, device_kind
from studyctl.errors import StepError
from studyctl.evaluate.memory import is_out_of_memory
from studyctl.evaluate.tasks.attention import Layout, UnsupportedAttentionError, tree_attention
from studyctl.evaluate.tasks.packing import Chunk, pack
from studyctl.evaluate.tasks.trees import Prompt, build_trees
from studyctl.evaluate.text.head import Decoder, Head, open_head

Answer = tuple[float, bool]
"""Log-likelihood of a continuation in nats, and whether each of its tokens is the most likely one."""

TOKEN_WORK = 3
"""Cost of a token outside of attention, in units of a pair of tokens in attention, divided by the hidden size: 24 · hidden²
operations against 4 · hidden, and attention reaches about half of the rate of matrix products."""
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
LOCAL_ATTENTION = ("sliding_window", "attention_chunk_size")
PROBED_PROMPTS = (4, 16)
"""How many prompts a probe takes, the shortest; more, once, where a few differ by chance."""
PROBED_WORK = 1e9
"""``token_work`` of probes, so high that prompts which share only their first token share a tree."""
NOISE_FACTOR = 2
"""Allowed difference between a prompt in a tree and alone, as a multiple of that between one in a padded batch and alone."""
NEGLIGIBLE = 4
"""A difference per token, in units of the dtype's relative precision, that is smaller than the rounding of a logit."""
SHORTEST_PROBE = 4
"""Tokens that a probe has at least, so that it can branch."""
_PROBED: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Length of the longest probe that each model answered right."""


@dataclass(frozen=True)
class PackedScorer:
    """Scores prompts with one model."""

    model: Any
    decoder: Decoder

    @torch.no_grad()
    def score(self, chunk: Chunk) -> list[Answer]:
        """Return the answers to the prompts of a chunk, in its order."""
        head, device = self.decoder.head, self.decoder.device
        layout = Layout(chunk, device, head.weight.dtype)
        ids, positions = (torch.from_numpy(array).to(device)[None] for array in (chunk.ids, chunk.positions))
        with tree_attention(self.model, layout):
            output = self.decoder.module(input_ids=ids, position_ids=positions, use_cache=False)
        rows, place = np.unique(chunk.rows, return_inverse=True)
        states = output.last_hidden_state[0, torch.from_numpy(rows).to(device)]
        nats, likeliest = _target_nats(head, states, place, chunk.targets)
        totals = np.bincount(chunk.owners, weights=nats, minlength=len(chunk.prompts))
        misses = np.bincount(chunk.owners, weights=~likeliest, minlength=len(chunk.prompts))
        return [(float(total), not missed) for total, missed in zip(totals, misses, strict=True)]

    def chunks(self, prompts: Sequence[Prompt], budget: int, token_work: float | None = None) -> list[Chunk]:
        """Return the chunks of these prompts, each of about ``budget`` tokens; the largest trees come first."""
        work = token_work or float(TOKEN_WORK * self.decoder.head.weight.shape[1])
        kind = device_kind(self.decoder.device.type)
        return pack(prompts, build_trees(prompts, budget, work), budget, kind)


def _target_nats(head: Head, states: Tensor, place: np.ndarray, targets: np.ndarray) -> tuple[Any, Any]:
    """Return the log-probability of each target, and whether it is the most likely token.

    Args:
        head: of the model.
        states: ``[rows, hidden]``.
        place: ``[targets]``: the row of ``states`` that predicts each target, in ascending order.
        targets: ``[targets]``
    """
    nats, likeliest = [], []
    size = chunk_tokens(head.vocabulary, states.device.type)
    tokens = torch.from_numpy(targets).to(states.device)
    row = torch.from_numpy(place).to(states.device)
    for first in range(0, len(states), size):
        logits = head.logits(states[first : first + size])
        begin, end = np.searchsorted(place, (first, first + size))
        local = row[begin:end] - first
        log_p = logits[local, tokens[begin:end]] - torch.logsumexp(logits, dim=-1)[local]
        nats.append(log_p.double())
        likeliest.append(logits.argmax(dim=-1)[local] == tokens[begin:end])
    return torch.cat(nats).cpu().numpy(), torch.cat(likeliest).cpu().numpy()


def open_packed(model: Any, prompts: Sequence[Prompt]) -> PackedScorer | str:
    """Return a scorer of prompts in trees, or the reason why this model cannot read them in trees.

    The model is probed with some of the prompts. What it answers in a tree must not depend on the other branches, and must be as
    near to what it answers to the prompt alone as a padded batch is. If some layers do not attend to all of a prompt, which only long
    prompts show, it is probed again whenever prompts are longer. A model that failed is probed each time, since its weights may have
    changed.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    # Other kinds of layers pass a state from token to token along the row.
    if others := kinds - ATTENTION_LAYERS:
        return f"it has layers of another kind: {', '.join(sorted(others))}"
    if getattr(model, "_is_stateful", False):
        return "its layers keep a state along the row"
    local = bool(kinds - {"full_attention"}) or any(getattr(config, name, None) for name in LOCAL_ATTENTION)
    longest = max(prompts, key=lambda prompt: len(prompt.tokens))
    try:
        scorer = PackedScorer(model, open_head(model, torch.tensor(longest.tokens)))
        if model not in _PROBED or (local and len(longest.tokens) > _PROBED[model]):
            shortest = sorted(dict.fromkeys(prompts), key=lambda prompt: len(prompt.tokens))
            for count in PROBED_PROMPTS:
                probes = [shortest[:count]]
                if local and longest not in probes[0]:
                    probes.append([shortest[0], longest])
                if not (reason := next(filter(None, (_fault(scorer, probe) for probe in probes)), "")):
                    break
            else:
                return reason
            _PROBED[model] = len(longest.tokens)
    except (
        UnsupportedAttentionError,
        StepError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        if is_out_of_memory(error):
            raise
        return str(error)
    return scorer


def _fault(scorer: PackedScorer, prompts: Sequence[Prompt]) -> str:
    """Return what is wrong with the answers to prompts in trees; empty if nothing is."""
    prompts = [
        replace(one, tokens=tuple(islice(cycle(one.tokens), max(SHORTEST_PROBE, len(one.tokens)))))
        for one in prompts
    ]
    alone = np.array([_plain(scorer, [prompt])[0] for prompt in prompts])
    if not np.isfinite(alone).all():
        return ""  # broken weights: scoring reports them
    count, vocabulary = len(prompts), scorer.decoder.head.vocabulary
    # Each has a branch before it, with the tokens of another prompt.
    others = [*prompts[1:], prompts[0]]
    every = [*prompts, *(_branch(*pair, vocabulary) for pair in zip(prompts, others, strict=True))]
    (chunk,) = scorer.chunks(every, 2 * sum(len(prompt.tokens) for prompt in every), PROBED_WORK)
    packed = _answers(scorer, chunk)[:count]
    changed = _answers(scorer, _with_other_branches(chunk, count, vocabulary))[:count]
    dependent = np.abs(changed - packed).max()
    noise = np.abs(_plain(scorer, every)[:count] - alone).max()
    targets = np.array([len(prompt.targets) for prompt in prompts])
    precision = max(torch.finfo(scorer.decoder.head.weight.dtype).eps, 2**-15)
    bound = np.maximum(NOISE_FACTOR * noise, NEGLIGIBLE * precision * targets)
    # Experts get other tokens in other batches, so that sums are rounded otherwise.
    is_exact = scorer.decoder.head.weight.dtype == torch.float32 and not _has_experts(scorer.model)
    if not dependent <= (0 if is_exact else bound.max()):
        return f"an answer changes by {dependent:.2g} nats with the tokens of another branch"
    difference = np.abs(packed - alone)
    if not (difference <= bound).all():
        return f"an answer differs by {difference.max():.2g} nats between a prompt alone and in a tree, by {noise:.2g} between alone and a padded batch"
    return ""


def _has_experts(model: Any) -> bool:
    return any(name.endswith("experts") for name, _ in model.named_modules())


def _branch(prompt: Prompt, other: Prompt, vocabulary: int) -> Prompt:
    """Return a prompt that goes on with the tokens of another one after its first half.

    The token where they part is the smaller one, for branches are read in the order of their tokens, and only what is read before
    can be seen by mistake.
    """
    half = len(prompt.tokens) // 2
    tail = islice(cycle(other.tokens), len(prompt.tokens) - half - 1)
    return Prompt((*prompt.tokens[:half], (prompt.tokens[half] - 1) % vocabulary, *tail), (0,))


def _answers(scorer: PackedScorer, chunk: Chunk) -> np.ndarray:
    """Return the log-likelihoods of a chunk's prompts, by their numbers."""
    nats = np.empty(len(chunk.prompts))
    nats[chunk.prompts] = [answer for answer, _ in scorer.score(chunk)]
    return nats


def _with_other_branches(chunk: Chunk, prompts: int, vocabulary: int) -> Chunk:
    """Return a chunk in which every token has changed that is in none of the first so many prompts."""
    kept = np.zeros(len(chunk.ids), bool)
    starts = np.repeat(
        [group.start + tree * group.width for group in chunk.groups for tree in range(group.trees)],
        [group.width for group in chunk.groups for _ in range(group.trees)],
    )
    index = np.arange(len(chunk.ids))
    for row, owner in zip(chunk.rows, chunk.owners, strict=True):
        if chunk.prompts[owner] < prompts:
            kept |= (starts == starts[row]) & (index <= row) & (row < starts + chunk.ends)
    return replace(chunk, ids=np.where(kept, chunk.ids, (chunk.ids + 1) % vocabulary))


@torch.no_grad()
def _plain(scorer: PackedScorer, prompts: Sequence[Prompt]) -> np.ndarray:
    """Return the log-likelihoods of prompts by an ordinary forward pass, padded on the right."""
    width = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.tensor([(*prompt.tokens, *[0] * (width - len(prompt.tokens))) for prompt in prompts])
    hidden = scorer.decoder.hidden(ids.to(scorer.decoder.device))
    nats = []
    for states, prompt in zip(hidden, prompts, strict=True):
        count, end = len(prompt.targets), len(prompt.tokens)
        of_targets, _ = _target_nats(
            scorer.decoder.head, states[end - count : end], np.arange(count), np.asarray(prompt.targets)
        )
        nats.append(of_targets.sum())
    return np.array(nats)
