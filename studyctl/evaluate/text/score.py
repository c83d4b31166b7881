"""Perplexity, and the distance to the dense model, of a batch of windows in one forward pass.

Definitions, with p the dense model's distribution and q the scored model's, over the same positions:

- nll: ``-log q(token)``, from an fp32 log-softmax; perplexity ``exp(Σ nll / tokens)``; bits per byte ``Σ nll / ln 2 / bytes``.
- kl: ``KL(p || q) = Σ_v p_v (log p_v - log q_v)`` in nats, mean and 95th percentile over tokens.
- top1: share of tokens at which both find the same token likeliest.
- snr: ``10 log10(Σ |d|² / Σ |d - c|²)`` in dB over all tokens, d and c the dense and the scored logits, each minus its mean
  over the vocabulary (what a softmax does not see).

What is returned are sums by window, of which :mod:`studyctl.store.text_totals` makes these figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from studyctl.contract import kl_counts
from studyctl.contract.identity import FidelityMetric
from studyctl.contract.limits import chunk_tokens
from studyctl.errors import StepError
from studyctl.evaluate.text.head import Decoder, Head, not_finite, open_head
from studyctl.evaluate.text.reference import DenseReference, fingerprint, keep_reference
from studyctl.evaluate.text.windows import Windows
from studyctl.reporter import Reporter


@dataclass(frozen=True)
class BatchScores:
    """What a batch of windows costs a model, and how far it is from the dense one: sums over the tokens of each window."""

    nll_nats: NDArray[np.float64]
    """``[windows]``"""
    kl_nats: NDArray[np.float64] | None = None
    """``[windows]``; None where it was not asked for, as the following ones."""
    top1: NDArray[np.int64] | None = None
    """``[windows]``: tokens at which both find the same token likeliest."""
    signal: NDArray[np.float64] | None = None
    """``[windows]``: Σ |d|²."""
    noise: NDArray[np.float64] | None = None
    """``[windows]``: Σ |d - c|²."""
    kl_counts: dict[int, int] | None = None
    """Tokens by bin of their KL (:mod:`studyctl.contract.kl_counts`)."""


class _Distances:
    """Distances of some tokens, ``[tokens]`` each; what is not asked for is empty.

    Reserved at once: small pieces between the logits would keep their memory from being used again.
    """

    def __init__(self, metrics: tuple[FidelityMetric, ...], tokens: int, device: torch.device) -> None:
        self.metrics = metrics
        self.added = 0
        kl, top1, snr = (tokens if name in metrics else 0 for name in ("kl", "top1", "snr"))
        self.kl = torch.empty(kl, device=device)
        self.same = torch.empty(top1, dtype=torch.bool, device=device)
        self.signal = torch.empty(snr, dtype=torch.float64, device=device)
        self.noise = torch.empty(snr, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, log_q: Tensor, dense: Tensor) -> None:
        """Add tokens by their scored and dense logits ``[tokens, vocabulary]``; ``log_q`` is changed."""
        part = slice(self.added, self.added + len(logits))
        self.added = part.stop
        if "top1" in self.metrics:
            self.same[part] = logits.argmax(-1) == dense.argmax(-1)
        if "kl" in self.metrics:
            log_p = functional.log_softmax(dense, dim=-1)
            ratio = torch.sub(log_p, log_q, out=log_q)
            # KL is never negative; rounding may be.
            self.kl[part] = torch.linalg.vecdot(log_p.exp_(), ratio).clamp_(min=0)
        if "snr" in self.metrics:
            self.signal[part] = _energy(dense)
            self.noise[part] = _energy(dense - logits)


@torch.no_grad()
def score_windows(  # noqa: PLR0913 - windows, what they are compared with, and how
    model: Any,
    windows: Windows,
    *,
    reference: DenseReference | None = None,
    keep: Path | None = None,
    metrics: tuple[FidelityMetric, ...] = (),
    batch_tokens: int,
    reporter: Reporter,
    done: Callable[[int], None] | None = None,
) -> BatchScores:
    """Score a batch of windows.

    Peak memory beside the model: the hidden states of the windows ``[windows, length, hidden]`` where they are kept or compared,
    what one forward pass needs, and six fp32 tensors ``[chunk_tokens, vocabulary]``; there are never logits of a whole pass.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        windows: what to score.
        reference: the dense model on the same windows, or None: no distances.
        keep: file for this model's hidden states, to be the reference of others.
        metrics: distances to measure.
        batch_tokens: tokens of a forward pass; at least one window is taken.
        reporter: asked before every forward pass whether to stop.
        done: called after every forward pass with the windows that are scored.

    Raises:
        StepError: logits are not finite, the family is not known, the reference is of other tokens, or the disk is full.
    """
    ids = torch.from_numpy(windows.ids)
    decoder = open_head(model, ids[0])
    dense_head = _dense_head(reference, windows, decoder.head) if reference is not None and metrics else None
    rows = max(1, batch_tokens // ids.shape[1])
    nll: list[Tensor] = []
    kept: list[Tensor] = []
    tokens = len(ids) * windows.scored_tokens
    distances = _Distances(metrics if dense_head is not None else (), tokens, decoder.head.weight.device)
    for first in range(0, len(ids), rows):
        reporter.check_stop()
        batch = ids[first : first + rows].to(decoder.device)
        hidden = decoder.hidden(batch)[:, :-1]
        dense = reference.states[first : first + rows].to(decoder.device) if reference is not None else None
        nll.append(_score_pass(decoder, hidden, batch[:, 1:], dense, dense_head, distances))
        if keep is not None:
            kept.append(hidden.cpu())
        if done is not None:
            done(min(first + rows, len(ids)))
    scores = _summed(torch.cat(nll), distances, windows)
    broken = np.flatnonzero(~np.isfinite(scores.nll_nats))
    if len(broken):
        raise not_finite(f" in window {windows.numbers[broken[0]]}")
    if keep is not None:
        keep_reference(keep, torch.cat(kept), windows, decoder.head)
    return scores


def _score_pass(
    decoder: Decoder,
    hidden: Tensor,
    targets: Tensor,
    dense: Tensor | None,
    dense_head: Head | None,
    distances: _Distances,
) -> Tensor:
    """Return the nll of each token of a forward pass ``[tokens]``, and add their distances to dense.

    Args:
        decoder: What computed the hidden states.
        hidden: ``[rows, tokens, hidden]``
        targets: ``[rows, tokens]``: the token after each.
        dense: The dense model's hidden states, or None.
        dense_head: What turns them into logits, or None.
        distances: Are added to.
    """
    states, tokens = hidden.flatten(0, 1), targets.flatten().long()
    dense_states = None if dense is None else dense.flatten(0, 1)
    # Reserved at once: small pieces between the logits would keep their memory from being used again.
    nll = torch.empty(len(tokens), device=states.device)
    size = chunk_tokens(decoder.head.vocabulary, states.device.type)
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        logits = decoder.head.logits(states[part])
        log_q = functional.log_softmax(logits, dim=-1)
        nll[part] = -log_q.gather(1, tokens[part, None])[:, 0]
        if dense_states is not None and dense_head is not None:
            distances.add(logits, log_q, dense_head.logits(dense_states[part]))
    return nll


def _summed(nll: Tensor, distances: _Distances, windows: Windows) -> BatchScores:
    """Return the sums of each window, of values of each token."""

    def sums(values: Tensor) -> NDArray[Any] | None:
        if not len(values):
            return None
        by_window = values.view(len(windows), -1)
        exact = by_window.double() if by_window.is_floating_point() else by_window
        summed: NDArray[Any] = exact.sum(dim=1).cpu().numpy()
        return summed

    total = sums(nll)
    assert total is not None
    return BatchScores(
        nll_nats=total,
        kl_nats=sums(distances.kl),
        top1=sums(distances.same),
        signal=sums(distances.signal),
        noise=sums(distances.noise),
        kl_counts=_counts(distances.kl.cpu().numpy()) if len(distances.kl) else None,
    )


def _counts(kl: NDArray[np.float32]) -> dict[int, int]:
    """Return how many tokens ``[tokens]`` have a KL in each bin."""
    finite = kl[np.isfinite(kl)].astype(np.float64)
    # Bin 0 is below LOWEST, the last one has no end.
    place = np.log(np.maximum(finite, 1e-300) / kl_counts.LOWEST) / np.log(kl_counts.RATIO)
    bins = np.clip(np.floor(place).astype(np.int64) + 1, 0, kl_counts.BINS)
    numbers, tokens = np.unique(bins, return_counts=True)
    return dict(zip(numbers.tolist(), tokens.tolist(), strict=True))


def _energy(logits: Tensor) -> Tensor:
    """Return the sum of squares of the logits of each token ``[tokens, vocabulary]``, minus their mean."""
    return torch.var(logits, dim=-1, correction=0).double() * logits.shape[-1]


def _dense_head(reference: DenseReference, windows: Windows, head: Head) -> Head:
    """Return the head for the reference's hidden states: the scored model's own if that is the same."""
    if reference.windows != fingerprint(windows):
        raise StepError(
            f"the dense reference {reference.path} was made with other tokens",
            hint="a model with another tokenizer cannot be compared token by token; otherwise delete this file",
        )
    if reference.head == head.fingerprint():
        return head
    dense = reference.load_head()
    if dense.vocabulary != head.vocabulary:
        raise StepError(
            f"the model has {head.vocabulary} logits a token, its dense model {dense.vocabulary}: they cannot be compared",
            hint="leave out [evaluation.fidelity] for this model",
        )
    device = head.weight.device
    bias = None if dense.bias is None else dense.bias.to(device)
    return Head(dense.weight.to(device), bias, dense.scale, dense.softcap)
