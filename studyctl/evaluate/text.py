"""Perplexity, and the distance to the dense model, of a text in one forward pass.

Definitions, with p the dense model's distribution and q the scored model's, over the same positions:

- nll: ``-log q(token)``, from an fp32 log-softmax; perplexity ``exp(Σ nll / tokens)``; bits per byte ``Σ nll / ln 2 / bytes``.
- kl: ``KL(p || q) = Σ_v p_v (log p_v - log q_v)`` in nats, mean and 95th percentile over tokens.
- top1: share of tokens at which both find the same token likeliest.
- snr: ``10 log10(Σ |d|² / Σ |d - c|²)`` in dB over all tokens, d and c the dense and the scored logits, each minus its mean
  over the vocabulary (what a softmax does not see).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from studyctl.errors import StageError
from studyctl.evaluate.batching import chunk_tokens
from studyctl.evaluate.finished import FinishedSteps, NothingFinished, computed_by
from studyctl.evaluate.head import Decoder, Head, not_finite, open_head
from studyctl.evaluate.reference import DenseReference, ReferenceWriter, fingerprint, keep_reference
from studyctl.evaluate.windows import Windows
from studyctl.reporter import Reporter


@dataclass(frozen=True)
class Fidelity:
    """Distance to the dense model; None where a metric was not asked for."""

    kl_nats: float | None
    kl_p95_nats: float | None
    top1: float | None
    """0 to 1."""
    snr_db: float | None
    """None as well where it is not finite: the logits do not differ at all."""
    tokens: int


@dataclass(frozen=True)
class TextScores:
    """What a text costs a model."""

    window_nll: NDArray[np.float64]
    """``[windows]``: summed over the tokens of each window."""
    nll_nats: float
    """Summed over all scored tokens."""
    tokens: int
    perplexity: float
    bits_per_byte: float
    bytes: int
    fidelity: Fidelity | None


@dataclass
class _Distances:
    """Sums over the tokens of a batch."""

    kl: NDArray[np.float32]
    """``[tokens]``, reserved at once: small pieces between the logits would keep their memory from being used again."""
    agreements: int = 0
    signal: float = 0.0
    noise: float = 0.0
    tokens: int = 0

    def add(self, logits: Tensor, log_q: Tensor, dense: Tensor, metrics: tuple[str, ...]) -> None:
        """Add tokens by their scored and dense logits ``[tokens, vocabulary]``; ``log_q`` is changed."""
        first, self.tokens = self.tokens, self.tokens + len(logits)
        if "top1" in metrics:
            self.agreements += int((logits.argmax(-1) == dense.argmax(-1)).sum())
        if "kl" in metrics:
            log_p = functional.log_softmax(dense, dim=-1)
            ratio = torch.sub(log_p, log_q, out=log_q)
            kl = torch.linalg.vecdot(log_p.exp_(), ratio)
            # KL is never negative; rounding may be.
            self.kl[first : self.tokens] = kl.clamp_(min=0).cpu().numpy()
        if "snr" in metrics:
            self.signal += _energy(dense)
            self.noise += _energy(dense - logits)

    def values(self, metrics: tuple[str, ...]) -> dict[str, Any]:
        """Return the sums as JSON values, from which they come back bit by bit."""
        kl = self.kl[: self.tokens].tolist() if "kl" in metrics else []
        return {
            "kl": kl,
            "agreements": self.agreements,
            "signal": self.signal,
            "noise": self.noise,
            "tokens": self.tokens,
        }


def _fidelity(batches: Sequence[dict[str, Any]], metrics: tuple[str, ...]) -> Fidelity:
    """Return the distances over all batches."""
    agreements, signal, noise, tokens = (
        sum(batch[name] for batch in batches) for name in ("agreements", "signal", "noise", "tokens")
    )
    kl = np.concatenate([batch["kl"] for batch in batches]) if "kl" in metrics else None
    return Fidelity(
        kl_nats=None if kl is None else float(kl.mean()),
        kl_p95_nats=None if kl is None else float(np.quantile(kl, 0.95)),
        top1=agreements / tokens if "top1" in metrics else None,
        snr_db=10 * math.log10(signal / noise) if "snr" in metrics and signal > 0 and noise > 0 else None,
        tokens=tokens,
    )


@torch.no_grad()
def score_text(  # noqa: PLR0913 - a protocol, what it is compared with, and how
    model: Any,
    windows: Windows,
    *,
    reference: DenseReference | None,
    keep: Path | None,
    metrics: tuple[str, ...],
    batch_tokens: int,
    reporter: Reporter,
    finished: FinishedSteps,
) -> TextScores:
    """Score the windows of a text.

    Peak memory beside the model: the hidden states of a batch ``[rows, length, hidden]`` and what one forward pass needs,
    and six fp32 tensors ``[chunk_tokens, vocabulary]``; there are never logits of a whole batch.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        windows: what to score.
        reference: the dense model on the same windows, or None: no fidelity.
        keep: file for this model's hidden states, to be the reference of others.
        metrics: of ``kl``, ``top1``, ``snr``.
        batch_tokens: tokens of a forward pass; at least one window is taken.
        reporter: told after every batch.
        finished: batches that an earlier attempt scored, and where these are kept.

    Raises:
        StageError: logits are not finite, the family is not known, the reference is of other tokens, or the disk is full.
    """
    ids = torch.from_numpy(windows.ids)
    decoder = open_head(model, ids[0])
    dense_head = _dense_head(reference, windows, decoder.head) if reference is not None and metrics else None
    rows = max(1, batch_tokens // ids.shape[1])
    stored = finished.begin(_plan(windows, rows, decoder.head, reference, keep, metrics))
    batches: list[dict[str, Any]] = []
    with _keeping(keep, windows, decoder.head, stored, finished) as writer:
        for step, first in enumerate(range(0, len(ids), rows)):
            last = min(first + rows, len(ids))
            if step not in stored or (writer is not None and step >= writer.intact):
                reporter.check_stop()
                batch = ids[first:last].to(decoder.device)
                hidden = decoder.hidden(batch)[:, :-1]
                dense = None
                if dense_head is not None and reference is not None:
                    dense = reference.rows(first, last).to(decoder.device)
                found = _score_batch(decoder, hidden, batch[:, 1:], dense, dense_head, metrics)
                _check_finite(found["nll"], first)
                if writer is not None:
                    found["states"] = writer.append(hidden)
                finished.add(step, found)
            else:
                found = stored[step]
            batches.append(found)
            reporter.progress(last, len(ids), "window")
    nll = np.concatenate([batch["nll"] for batch in batches])
    return _summary(nll, windows, _fidelity(batches, metrics) if dense_head is not None else None)


def _plan(
    windows: Windows,
    rows: int,
    head: Head,
    reference: DenseReference | None,
    keep: Path | None,
    metrics: tuple[str, ...],
) -> str:
    """Name everything that the batches are computed from beside the weights."""
    dense = (reference.head, reference.checksum) if reference is not None else None
    parts = (fingerprint(windows), rows, str(head.weight.dtype), dense, keep is not None, metrics)
    return f"{computed_by()} {parts}"


def _score_batch(
    decoder: Decoder,
    hidden: Tensor,
    targets: Tensor,
    dense: Tensor | None,
    dense_head: Head | None,
    metrics: tuple[str, ...],
) -> dict[str, Any]:
    """Return the nll of each window of a batch and its distances to dense, as JSON values.

    Args:
        decoder: What computed the hidden states.
        hidden: ``[rows, tokens, hidden]``
        targets: ``[rows, tokens]``: the token after each.
        dense: The dense model's hidden states, or None.
        dense_head: What turns them into logits, or None.
        metrics: Of ``kl``, ``top1``, ``snr``.
    """
    states, tokens = hidden.flatten(0, 1), targets.flatten().long()
    dense_states = None if dense is None else dense.flatten(0, 1)
    distances = _Distances(np.empty(len(tokens), np.float32))
    nll = torch.empty(len(tokens), device=states.device)
    size = chunk_tokens(decoder.head.vocabulary, states.device.type)
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        logits = decoder.head.logits(states[part])
        log_q = functional.log_softmax(logits, dim=-1)
        nll[part] = -log_q.gather(1, tokens[part, None])[:, 0]
        if dense_states is not None and dense_head is not None:
            distances.add(logits, log_q, dense_head.logits(dense_states[part]), metrics)
    sums = nll.view(targets.shape).double().sum(dim=1).cpu().tolist()
    return {"nll": sums, **(distances.values(metrics) if dense_head is not None else {})}


def _energy(logits: Tensor) -> float:
    """Return the summed squares of logits ``[tokens, vocabulary]``, each minus the mean of its token."""
    return float(torch.var(logits, dim=-1, correction=0).double().sum()) * logits.shape[-1]


def _dense_head(reference: DenseReference, windows: Windows, head: Head) -> Head:
    """Return the head for the reference's hidden states: the scored model's own if that is the same."""
    if reference.windows != fingerprint(windows):
        raise StageError(
            f"the dense reference {reference.path} was made with other tokens",
            hint="a model with another tokenizer cannot be compared token by token; otherwise delete this file",
        )
    if reference.head == head.fingerprint():
        return head
    dense = reference.load_head()
    if dense.vocabulary != head.vocabulary:
        raise StageError(
            f"the model has {head.vocabulary} logits a token, its dense model {dense.vocabulary}: they cannot be compared",
            hint="leave out [evaluation.fidelity] for this model",
        )
    device = head.weight.device
    bias = None if dense.bias is None else dense.bias.to(device)
    return Head(dense.weight.to(device), bias, dense.scale, dense.softcap)


def _keeping(
    keep: Path | None, windows: Windows, head: Head, stored: dict[int, Any], finished: FinishedSteps
) -> AbstractContextManager[ReferenceWriter | None]:
    """Return what keeps the hidden states, after those of the batches that are there from an earlier attempt."""
    if keep is None:
        return nullcontext()
    if isinstance(finished, NothingFinished):
        return keep_reference(keep, windows, head)
    earlier = [stored[step] for step in takewhile(stored.__contains__, count())]
    return keep_reference(keep, windows, head, [(len(batch["nll"]), batch["states"]) for batch in earlier])


def _check_finite(nll: list[float], first: int) -> None:
    broken = np.flatnonzero(~np.isfinite(nll))
    if len(broken):
        raise not_finite(f" in window {first + int(broken[0])}")


def _summary(nll: NDArray[np.float64], windows: Windows, fidelity: Fidelity | None) -> TextScores:
    total, tokens, size = float(nll.sum()), windows.scored_tokens, windows.scored_bytes
    mean = total / tokens
    return TextScores(
        window_nll=nll,
        nll_nats=total,
        tokens=tokens,
        perplexity=math.exp(mean) if mean < 700 else math.inf,
        bits_per_byte=total / math.log(2) / size,
        bytes=size,
        fidelity=fidelity,
    )
