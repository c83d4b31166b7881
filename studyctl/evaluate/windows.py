"""Which tokens of a text are scored: non-overlapping windows of one length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studyctl.errors import StageError


@dataclass(frozen=True)
class TokenizedText:
    """A text as token ids, without special tokens."""

    ids: NDArray[np.int32]
    """``[tokens]``"""
    byte_ends: NDArray[np.int64]
    """``[tokens]``: UTF-8 bytes of the text up to the end of each token."""


@dataclass(frozen=True)
class Windows:
    """What a model is shown. The first token of each window is context only: it is not scored."""

    ids: NDArray[np.int32]
    """``[windows, length]``, a BOS included."""
    bytes: int
    """UTF-8 bytes of the text that the windows cover, the unscored first tokens of windows without BOS included."""
    bos: bool
    """Whether every window begins with a BOS token, which is no token of the text."""

    @property
    def scored_tokens(self) -> int:
        """Return how many tokens are predicted."""
        return int(self.ids.shape[0] * (self.ids.shape[1] - 1))

    @property
    def scored_bytes(self) -> int:
        """Return the bytes that the scored tokens stand for: those of the covered text × scored tokens / its tokens.

        Every token is charged the mean size, because the pieces of a character that is split over several tokens have
        no size of their own.
        """
        text_tokens = self.ids.size - (len(self.ids) if self.bos else 0)
        return round(self.bytes * self.scored_tokens / text_tokens)


def cut_windows(text: TokenizedText, sequence_length: int, count: int, bos_id: int | None) -> Windows:
    """Cut the beginning of a text into windows; what is left over is dropped.

    Args:
        text: the whole text.
        sequence_length: tokens of a window, at least 2. With a BOS, one of them is the BOS.
        count: how many windows to take, fewer if the text has no more; 0 takes all.
        bos_id: token to put before each window, or None.

    Raises:
        StageError: the text does not fill one window.
    """
    text_length = sequence_length - (bos_id is not None)
    available = len(text.ids) // text_length
    if available < 1:
        raise StageError(
            f"the text has {len(text.ids)} tokens, fewer than the {text_length} of one window",
            hint="lower `sequence_length` or add text",
        )
    windows = min(available, count) if count else available
    covered = windows * text_length
    ids = text.ids[:covered].reshape(windows, text_length).astype(np.int32)
    if bos_id is not None:
        ids = np.concatenate([np.full((windows, 1), bos_id, np.int32), ids], axis=1)
    return Windows(ids=ids, bytes=int(text.byte_ends[covered - 1]), bos=bos_id is not None)
