"""Log-likelihoods of continuations from as few tokens as possible: prompts in trees, and logits only where they are needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
PROBED_TOKENS = 24
PROBED_TARGETS = 4
PROBED_WORK = 1e9
"""``token_work`` of probes, so high that prompts which share only their first token share a tree."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Allowed difference, in nats per token, between a prompt in a tree and alone: the order of sums differs."""
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

    The model is probed: its answers to prompts in a tree must be the same as to each prompt alone. If some layers do not attend
    to all of a prompt, which only long prompts show, it is probed again whenever prompts are longer. A model that failed is probed
    each time, since its weights may have changed.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    # Other kinds of layers pass a state from token to token along the row.
    if others := kinds - ATTENTION_LAYERS:
        return f"it has layers of another kind: {', '.join(sorted(others))}"
    if getattr(model, "_is_stateful", False):
        return "its layers keep a state along the row"
    local = bool(kinds - {"full_attention"}) or any(getattr(config, name, None) for name in LOCAL_ATTENTION)
    longest = max((prompt.tokens for prompt in prompts), key=len)
    try:
        scorer = PackedScorer(model, open_head(model, torch.tensor(longest)))
        if model not in _PROBED or (local and len(longest) > _PROBED[model]):
            probes = _probes(longest, scorer.decoder.head.vocabulary)
            if reason := _difference(scorer, [*probes, *([_probe(longest)] if local else [])]):
                return reason
            _PROBED[model] = len(longest)
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


def _probes(tokens: tuple[int, ...], vocabulary: int) -> list[Prompt]:
    """Return prompts made of these tokens: two that share their first half, and one that shares nothing with them."""
    base = (tokens * PROBED_TOKENS)[:PROBED_TOKENS]
    half = PROBED_TOKENS // 2
    branch = base[:half] + tuple((token + 1) % vocabulary for token in base[half:])
    return [_probe(base), _probe(branch), _probe(tuple((token + 2) % vocabulary for token in base[1:]))]


def _probe(tokens: tuple[int, ...]) -> Prompt:
    """Return a prompt with arbitrary targets after its last tokens."""
    return Prompt(tokens, tokens[-PROBED_TARGETS:])


def _difference(scorer: PackedScorer, prompts: Sequence[Prompt]) -> str:
    """Return how the answers to prompts in trees differ from those to each alone; empty if they do not."""
    budget = 2 * sum(len(prompt.tokens) for prompt in prompts)
    (chunk,) = scorer.chunks(prompts, budget, PROBED_WORK)
    together = dict(zip(chunk.prompts.tolist(), scorer.score(chunk), strict=True))
    bound = TOLERANCE[scorer.decoder.head.weight.dtype]
    for number, prompt in enumerate(prompts):
        alone = _alone(scorer, prompt)
        if not math.isfinite(alone):
            continue  # broken weights: scoring reports them
        difference = abs(together[number][0] - alone)
        if not difference <= bound * len(prompt.targets):
            return f"an answer differs by {difference:.2g} nats between a prompt alone and in a tree"
    return ""


@torch.no_grad()
def _alone(scorer: PackedScorer, prompt: Prompt) -> float:
    """Return the log-likelihood of a prompt's targets by an ordinary forward pass."""
    hidden = scorer.decoder.hidden(torch.tensor(prompt.tokens, device=scorer.decoder.device)[None])[0]
    count = len(prompt.targets)
    nats, _ = _target_nats(scorer.decoder.head, hidden[-count:], np.arange(count), np.asarray(prompt.targets))
    return float(nats.sum())
