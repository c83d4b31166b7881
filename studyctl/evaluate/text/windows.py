"""Which tokens of a text are scored: non-overlapping windows of one length, in a random but fixed order."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from studyctl.errors import StepError

SEGMENT = 256
"""If the end of a text is unknown, so many windows at a time are shuffled among themselves."""
_SEED = 0


@dataclass(frozen=True)
class TokenizedText:
    """A text as token ids, without special tokens."""

    ids: NDArray[np.int32]
    """``[tokens]``."""
    byte_ends: NDArray[np.int64]
    """``[tokens]``: UTF-8 bytes of the text up to the end of each token."""
    character_ends: NDArray[np.int64]
    """``[tokens]``: characters up to the end of each token."""
    document_begins: NDArray[np.int64]
    """``[documents]``: UTF-8 bytes of the text before each document."""
    complete: bool = True
    """Whether this is the whole text, not only its beginning."""
    bzip2_bits_per_byte: float = math.nan
    """What bzip2 needs for the text."""


@dataclass(frozen=True)
class Windows:
    """Windows of token ids. The first token of each is context only: it is not scored.

    ``bytes`` and ``characters`` are those of the scored tokens. A token that is a part of a character ends where the character does.
    """

    ids: NDArray[np.int32]
    """``[windows, length]``, a BOS included."""
    numbers: NDArray[np.int64]
    """``[windows]``: position of each in the text, from 0."""
    bytes: NDArray[np.int64]
    """``[windows]``: UTF-8 bytes."""
    characters: NDArray[np.int64]
    """``[windows]``."""
    documents: NDArray[np.int64]
    """``[windows]``: the document in which each begins, from 0."""
    bos: bool
    """Whether every window begins with a BOS token, which is not part of the text."""
    available: int | None = None
    """Windows of the whole text; None: its end is unknown."""
    bzip2_bits_per_byte: float = math.nan
    """As in :class:`TokenizedText`."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scored_tokens(self) -> int:
        """Return how many tokens of a window are scored."""
        return int(self.ids.shape[1] - 1)

    def slice(self, first: int, last: int) -> "Windows":
        """Return windows ``first`` to ``last - 1``, in the order in which they are measured."""
        part = slice(first, last)
        return replace(
            self,
            ids=self.ids[part],
            numbers=self.numbers[part],
            bytes=self.bytes[part],
            characters=self.characters[part],
            documents=self.documents[part],
        )


def cut_windows(
    text: TokenizedText, sequence_length: int, count: int, bos_id: int | None, segment: int | None = None
) -> Windows:
    """Cut a text into windows, drop the tokens left over at its end, and return the first ``count`` in a random but fixed order.

    A larger ``count`` begins with the same windows.

    Args:
        text: the text, or as much of its beginning as :func:`needed_tokens` says.
        sequence_length: tokens of a window, at least 2. With a BOS, one of them is the BOS.
        count: how many windows to return; fewer if the text has no more.
        bos_id: token to put before each window, or None.
        segment: so many windows at a time are shuffled among themselves, so that a dataset need not be read to its end; None:
            all windows are shuffled, and so any number of them is a sample of the whole text.

    Raises:
        StepError: the text does not fill one window.
    """
    text_length = sequence_length - (bos_id is not None)
    available = len(text.ids) // text_length
    if available < 1:
        raise StepError(
            f"the text has {len(text.ids)} tokens, fewer than the {text_length} of one window",
            hint="lower `sequence_length` or add text",
        )
    numbers = window_order(available, segment or available)[:count]
    ids = text.ids[: available * text_length].reshape(available, text_length)[numbers].astype(np.int32)
    if bos_id is not None:
        ids = np.concatenate([np.full((len(numbers), 1), bos_id, np.int32), ids], axis=1)
    # The token before the first one that is scored (-1: none), and the last one.
    before = numbers * text_length + (bos_id is None) - 1
    last = (numbers + 1) * text_length - 1
    begins = np.where(numbers > 0, text.byte_ends[numbers * text_length - 1], 0)
    return Windows(
        ids=ids,
        numbers=numbers,
        bytes=text.byte_ends[last] - np.where(before >= 0, text.byte_ends[before], 0),
        characters=text.character_ends[last] - np.where(before >= 0, text.character_ends[before], 0),
        documents=np.searchsorted(text.document_begins, begins, side="right") - 1,
        bos=bos_id is not None,
        available=available if text.complete else None,
        bzip2_bits_per_byte=text.bzip2_bits_per_byte,
    )


def window_order(count: int, segment: int) -> NDArray[np.int64]:
    """Return the numbers of ``count`` windows in the order in which they are measured: a permutation of each segment.

    numpy promises that ``RandomState`` gives the same numbers in every version (NEP 19).
    """
    parts = []
    for begin in range(0, count, segment):
        size = min(segment, count - begin)
        parts.append(begin + np.random.RandomState(_SEED).permutation(size))
    return np.concatenate(parts).astype(np.int64)


def needed_tokens(windows: int, sequence_length: int) -> int:
    """Return how many tokens of a dataset whose end is unknown are needed for so many windows: whole segments."""
    return -(-windows // SEGMENT) * SEGMENT * sequence_length
