"""The figures of a language from its windows: perplexity, bits per byte, and the distances to the dense model.

Sums are exact before they are rounded (``math.fsum``), so that figures do not depend on the order of batches.
Definitions: :mod:`studyctl.evaluate.text.score`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from studyctl.contract import kl_counts
from studyctl.contract.records import AnyRecord, BlockDistance, FidelityTotals, TextBatch, TextTotals, Window

P95 = 0.95
MOST_NATS = 700.0
"""``exp`` of more is not finite (as in :mod:`studyctl.findings.estimates`, which needs scipy)."""


def totals_of(records: Iterable[AnyRecord]) -> Iterator[TextTotals | FidelityTotals]:
    """Yield the figures of a language from the records of its batches; nothing for journals from before 0.2, which hold totals."""
    records = list(records)
    windows = [record for record in records if isinstance(record, Window)]
    batches = [record for record in records if isinstance(record, TextBatch)]
    if not windows or not batches:
        return
    yield text_totals(windows, batches[-1])
    if (distance := fidelity_totals(windows, batches)) is not None:
        yield distance


def text_totals(windows: Sequence[Window], batch: TextBatch) -> TextTotals:
    """Return the perplexity of a language.

    Args:
        windows: its windows; at least one.
        batch: their last batch, for what all have in common; of a text without a known end it has seen the most.
    """
    nll = _total(window.nll_nats for window in windows)
    tokens = sum(window.tokens for window in windows)
    size, characters = (
        _whole(getattr(window, name) for window in windows) for name in ("bytes", "characters")
    )
    mean = None if nll is None else nll / tokens
    return TextTotals(
        language=batch.language,
        perplexity=math.exp(mean) if mean is not None and mean < MOST_NATS else None,
        bits_per_byte=nll / math.log(2) / size if nll is not None and size else None,
        bits_per_character=nll / math.log(2) / characters if nll is not None and characters else None,
        nll_nats=nll,
        tokens=tokens,
        bytes=size,
        characters=characters,
        sequence_length=batch.sequence_length,
        bos=batch.bos,
        windows=len(windows),
        bzip2_bits_per_byte=batch.bzip2_bits_per_byte,
    )


def fidelity_totals(windows: Sequence[Window], batches: Sequence[TextBatch]) -> FidelityTotals | None:
    """Return the distance to the dense model in a language; None if it was not measured.

    Args:
        windows: its windows; at least one.
        batches: their batches.
    """
    kl = _total(window.kl_nats for window in windows)
    signal = _total(window.signal for window in windows)
    noise = _total(window.noise for window in windows)
    agreed = [window.top1 for window in windows if window.top1 is not None]
    counts = [batch.kl_counts for batch in batches if batch.kl_counts is not None]
    if not counts and signal is None and not agreed:
        return None
    tokens = sum(window.tokens for window in windows)
    return FidelityTotals(
        language=batches[0].language,
        kl_nats=None if kl is None else kl / tokens,
        kl_p95_nats=kl_counts.quantile(kl_counts.added(counts), P95) if kl is not None else None,
        top1=sum(agreed) / tokens if len(agreed) == len(windows) else None,
        snr_db=_decibels(signal, noise),
        tokens=tokens,
    )


def block_figures(block: BlockDistance) -> dict[str, float | None]:
    """Return the signal-to-noise ratio and the relative error of the hidden state after a block; None where there are none.

    Definitions: :mod:`studyctl.evaluate.text.activations`.
    """
    return {
        "snr_db": _decibels(block.signal, block.noise),
        "relative_error": math.sqrt(block.noise / block.signal) if block.signal else None,
    }


def _decibels(signal: float | None, noise: float | None) -> float | None:
    """Return a ratio of energies in dB; None if one of them is None or 0."""
    return 10 * math.log10(signal / noise) if signal and noise else None


def _whole(values: Iterable[int | None]) -> int | None:
    """Return the sum; None if a value is missing."""
    numbers = list(values)
    return None if None in numbers else sum(filter(None, numbers))


def _total(values: Iterable[float | None]) -> float | None:
    """Return the sum; None if one of the values is None, or the sum is not finite."""
    numbers: list[float] = []
    for value in values:
        if value is None:
            return None
        numbers.append(value)
    total = math.fsum(numbers)
    return total if math.isfinite(total) else None
