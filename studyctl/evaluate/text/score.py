"""Perplexity, and the distance to the dense model, of a batch of windows in one forward pass.

Definitions, with p the dense model's distribution and q the scored model's, over the same positions:

- nll: ``-log q(token)``, from an fp32 log-softmax; perplexity ``exp(Σ nll / tokens)``; bits per byte ``Σ nll / ln 2 / bytes``.
- kl: ``KL(p || q) = Σ_v p_v (log p_v - log q_v)`` in nats, mean and 95th percentile over tokens.
- top1: fraction of tokens for which both predict the same most likely token.
- snr: ``10 log10(Σ |d|² / Σ |d - c|²)`` in dB over all tokens, d and c the dense and the scored logits, each minus its mean
  over the vocabulary (which a softmax ignores).

Scores are sums over windows, from which :mod:`studyctl.store.text_totals` computes these figures.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from studyctl.contract import kl_counts
from studyctl.contract.identity import FidelityMetric
from studyctl.contract.limits import chunk_tokens
from studyctl.contract.records import TextBatch, Window
from studyctl.errors import StepError
from studyctl.evaluate.text.head import Head, not_finite, open_head
from studyctl.evaluate.text.reference import DenseReference, check_windows, keep_reference
from studyctl.evaluate.text.windows import Windows
from studyctl.reporter import Reporter


class BatchScores(NamedTuple):
    """Scores of a batch of windows: the nll of its tokens and their distances to the dense model, as sums over each window."""

    windows: list[Window]
    batch: TextBatch


DTYPES = {
    "nll_nats": torch.float32,
    "kl_nats": torch.float32,
    "top1": torch.bool,
    "signal": torch.float64,
    "noise": torch.float64,
}
"""Dtype of each token's value, by the field of a window that is their sum."""
FIELDS: dict[FidelityMetric, tuple[str, ...]] = {
    "kl": ("kl_nats",),
    "top1": ("top1",),
    "snr": ("signal", "noise"),
}
"""Sums that a metric is computed from."""


@torch.no_grad()
def score_windows(  # noqa: PLR0913 - windows, reference, and how to score
    model: Any,
    windows: Windows,
    *,
    language: str,
    reference: DenseReference | None = None,
    keep: Path | None = None,
    metrics: tuple[FidelityMetric, ...] = (),
    batch_tokens: int,
    reporter: Reporter,
    done: Callable[[int], None] | None = None,
) -> BatchScores:
    """Score a batch of windows.

    Peak memory in addition to the model: the hidden states of the windows ``[windows, length, hidden]`` if they are kept or compared,
    what one forward pass needs, and six fp32 tensors ``[chunk_tokens, vocabulary]``; the logits of a whole pass never exist.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        windows: what to score.
        language: of the text, for the records.
        reference: the dense model's hidden states of the same windows; None: no distances are measured.
        keep: file for this model's hidden states, as a reference for others; None: they are not kept.
        metrics: distances to measure.
        batch_tokens: tokens of a forward pass; at least one window.
        reporter: only its ``check_stop`` is used, before every forward pass.
        done: called after every forward pass with the number of scored windows.

    Raises:
        StepError: logits are not finite, the family is unknown, the reference is of other tokens, or the disk is full.
    """
    ids = torch.from_numpy(windows.ids)
    decoder = open_head(model, ids[0])
    dense_head = _dense_head(reference, windows, decoder.head) if reference is not None else None
    rows = max(1, batch_tokens // ids.shape[1])
    names = ["nll_nats", *(field for metric in metrics for field in FIELDS[metric] if reference is not None)]
    # Allocated at once: small tensors among the logits would keep the logits' memory from being reused.
    values = {
        name: torch.empty(len(ids) * windows.scored_tokens, dtype=DTYPES[name], device=decoder.device)
        for name in names
    }
    states: list[Tensor] = []
    for first in range(0, len(ids), rows):
        reporter.check_stop()
        batch = ids[first : first + rows].to(decoder.device)
        hidden = decoder.hidden(batch)[:, :-1]
        dense = None
        if reference is not None and dense_head is not None:
            dense = dense_head, reference.states[first : first + rows].to(decoder.device)
        part = slice(first * windows.scored_tokens, (first + rows) * windows.scored_tokens)
        of_pass = {name: by_token[part] for name, by_token in values.items()}
        _score_pass(decoder.head, hidden, batch[:, 1:], dense, of_pass)
        if keep is not None:
            states.append(hidden.cpu())
        if done is not None:
            done(min(first + rows, len(ids)))
    scores = _records(values, windows, language)
    if keep is not None:
        keep_reference(keep, torch.cat(states), windows, decoder.head)
    return scores


def _score_pass(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    dense: tuple[Head, Tensor] | None,
    values: dict[str, Tensor],
) -> None:
    """Write the values of each token of a forward pass.

    Args:
        head: of the model.
        hidden: ``[rows, tokens, hidden]``.
        targets: ``[rows, tokens]``: the token after each.
        dense: the dense model's head and hidden states, or None.
        values: ``[rows · tokens]`` by name; written.
    """
    states, tokens = hidden.flatten(0, 1), targets.flatten().long()
    size = chunk_tokens(head.vocabulary, states.device.type)
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        logits = head.logits(states[part])
        log_q = functional.log_softmax(logits, dim=-1)
        values["nll_nats"][part] = -log_q.gather(1, tokens[part, None])[:, 0]
        if dense is not None:
            dense_head, dense_states = dense
            of_chunk = {name: by_token[part] for name, by_token in values.items()}
            _compare(logits, log_q, dense_head.logits(dense_states.flatten(0, 1)[part]), of_chunk)


def _compare(logits: Tensor, log_q: Tensor, dense_logits: Tensor, values: dict[str, Tensor]) -> None:
    """Write the distances of some tokens to the dense model.

    A function of its own, so that its tensors are freed before the next logits are computed.

    Args:
        logits: ``[tokens, vocabulary]``.
        log_q: their log-softmax; overwritten.
        dense_logits: ``[tokens, vocabulary]``.
        values: ``[tokens]`` by name; written.
    """
    if "top1" in values:
        values["top1"][:] = logits.argmax(-1) == dense_logits.argmax(-1)
    if "kl_nats" in values:
        log_p = functional.log_softmax(dense_logits, dim=-1)
        ratio = torch.sub(log_p, log_q, out=log_q)
        # KL is never negative, but rounding may make it so.
        values["kl_nats"][:] = torch.linalg.vecdot(log_p.exp_(), ratio).clamp_(min=0)
    if "signal" in values:
        values["signal"][:] = _energy(dense_logits)
        values["noise"][:] = _energy(dense_logits - logits)


def _records(values: dict[str, Tensor], windows: Windows, language: str) -> BatchScores:
    """Return the records of a batch from the values of each token ``[windows · tokens]``.

    Raises:
        StepError: the nll of a window is not finite.
    """
    columns: dict[str, list[Any]] = {
        "window": windows.numbers.tolist(),
        "bytes": windows.bytes.tolist(),
        "characters": windows.characters.tolist(),
        "document": windows.documents.tolist(),
    }
    for name, by_token in values.items():
        by_window = by_token.view(len(windows), -1)
        exact = by_window.double() if by_window.is_floating_point() else by_window
        columns[name] = exact.sum(dim=1).tolist()
    for number, nats in zip(columns["window"], columns["nll_nats"], strict=True):
        if not math.isfinite(nats):
            raise not_finite(f" in window {number}")
    records = [
        Window(language=language, tokens=windows.scored_tokens, **dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]
    batch = TextBatch(
        language=language,
        sequence_length=windows.ids.shape[1],
        bos=windows.bos,
        kl_counts=_counts(values["kl_nats"].cpu().numpy()) if "kl_nats" in values else None,
        bzip2_bits_per_byte=windows.bzip2_bits_per_byte,
    )
    return BatchScores(records, batch)


def _counts(kl: NDArray[np.float32]) -> dict[int, int]:
    """Return how many tokens ``[tokens]`` have a KL in each bin."""
    finite = kl[np.isfinite(kl)].astype(np.float64)
    # Bin 0 is below LOWEST, the last bin has no upper end.
    position = np.log(np.maximum(finite, 1e-300) / kl_counts.LOWEST) / np.log(kl_counts.RATIO)
    bins = np.clip(np.floor(position).astype(np.int64) + 1, 0, kl_counts.BINS)
    numbers, tokens = np.unique(bins, return_counts=True)
    return dict(zip(numbers.tolist(), tokens.tolist(), strict=True))


def _energy(logits: Tensor) -> Tensor:
    """Return the sum of squares of the logits of each token ``[tokens, vocabulary]``, minus their mean."""
    return torch.var(logits, dim=-1, correction=0).double() * logits.shape[-1]


def _dense_head(reference: DenseReference, windows: Windows, head: Head) -> Head:
    """Return the head for the reference's hidden states: the scored model's own if it is the same."""
    check_windows(reference, windows)
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
