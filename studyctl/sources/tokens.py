"""Token ids of texts: for perplexity windows, and for calibration."""

import bz2
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studyctl.contract.identity import TextIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.steps import ALL_WINDOWS
from studyctl.errors import StepError
from studyctl.evaluate.text.windows import SEGMENT, TokenizedText, Windows, cut_windows, needed_tokens
from studyctl.files import atomic_path, cache_entry, digest
from studyctl.reporter import Reporter
from studyctl.sources.texts import Documents, read_documents
from studyctl.sources.verified import check_files

_CODE = 3
"""Raised when the same text and tokenizer give something else here."""
FIRST_DOCUMENTS = 64
"""Documents of a hub dataset to begin with; doubled until they have enough tokens, so that all machines use the same number."""
MARGIN = 64
"""Tokens read beyond the needed ones: the text that follows can change the last tokens."""
CHOICE = 4
"""Calibration windows of a hub dataset are drawn from this many times as much text as they need."""
BZIP2_BLOCK = 900_000
"""Bytes that bzip2 compresses together: a longer text is not compressed better."""
PIECE = 200_000
"""Characters of a calibration text that are tokenised at once."""


def tokenizer_key(tokenizer: Any) -> str:
    """Return the hash of everything that determines how a fast tokenizer splits a text.

    It is that of the loaded tokenizer, not of its files: transformers rebuilds parts of some (Qwen2's pre-tokenizer).
    """
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:20]


def calibration_tokens(samples: int, sequence_length: int, languages: int) -> int:
    """Return how many tokens of each language are read from a hub dataset, so that windows can be drawn at random."""
    return CHOICE * -(-samples // languages) * sequence_length


def perplexity_windows(
    text: TextIdentity,
    tokenizer: Any,
    *,
    sequence_length: int,
    count: int,
    bos_id: int | None,
    reporter: Reporter | None = None,
) -> Windows:
    """Return the first ``count`` windows of a text in the order in which they are measured; fewer if it has no more.

    Raises:
        StudyError: the text cannot be read, does not fill a window, or changed since it was planned.
    """
    # A local file is sampled as a whole; a hub dataset may be too long to be read to its end.
    segment = None if text.files else SEGMENT
    needed = 0 if count == ALL_WINDOWS else needed_tokens(count, sequence_length)
    tokens = tokenized_text(text, tokenizer, needed=needed, reporter=reporter)
    return cut_windows(tokens, sequence_length, count, bos_id, segment)


def tokenized_text(
    text: TextIdentity, tokenizer: Any, *, needed: int = 0, reporter: Reporter | None = None
) -> TokenizedText:
    """Return a text's tokens, without special tokens, and keep them in the user's cache.

    A text for perplexity is tokenised as a whole, one for calibration in pieces of whole lines.

    Args:
        text: what :func:`~studyctl.sources.text_files.identify_text` returned, with a key.
        tokenizer: a fast tokenizer of transformers.
        needed: minimum number of tokens to read from a hub dataset, if it has so many; 0: all of it. Local files are read whole.
        reporter: gets a note before long waits.

    Raises:
        StudyError: the text cannot be read.
    """
    if text.key is None:
        raise StepError(f"text `{text.name}` in {text.language} could not be looked up: {text.unknown}")
    tokenizer_hash = tokenizer_key(tokenizer)

    def cached(count: int, read: Callable[[], list[str]]) -> TokenizedText:
        path = cache_entry("tokens", f"{digest([text.key, tokenizer_hash, count, _CODE])}.npz")
        if not path.is_file():
            if reporter is not None:
                reporter.progress(0, 1, "text", note=f"tokenising {text.name} in {text.language}")
            tokens = tokenize(read(), tokenizer, in_pieces=text.purpose == "calibration")
            # A cache that cannot be written costs time only.
            with suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(
                    file,
                    ids=tokens.ids,
                    byte_ends=tokens.byte_ends,
                    character_ends=tokens.character_ends,
                    document_begins=tokens.document_begins,
                    bzip2_bits_per_byte=tokens.bzip2_bits_per_byte,
                )
            return tokens
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return TokenizedText(**arrays | {"bzip2_bits_per_byte": float(arrays["bzip2_bits_per_byte"])})

    if text.files:
        check_files(text.files, str(text))  # even if the tokens are in the cache
        return cached(0, lambda: read_documents(text))
    documents, count = Documents(text), FIRST_DOCUMENTS if needed else 0
    while True:
        tokens = cached(count, partial(documents.first, count))
        if count == 0 or len(tokens.ids) >= needed + MARGIN or documents.complete:
            return replace(tokens, complete=documents.complete)
        count *= 2


def tokenize(documents: list[str], tokenizer: Any, *, in_pieces: bool = False) -> TokenizedText:
    """Return the tokens of documents joined by newlines, without special tokens, and where each ends.

    Args:
        documents: of one text.
        tokenizer: a fast tokenizer of transformers.
        in_pieces: tokenise some lines at a time, since a calibration corpus in one call takes a gigabyte; not for perplexity.
    """
    text = "\n".join(documents)
    ids, ends, before = [], [], 0
    for piece in _pieces(text) if in_pieces else [text]:
        encoded = tokenizer(
            piece,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids.append(np.array(encoded.input_ids, np.int32))
        ends.append(before + np.fromiter((end for _, end in encoded.offset_mapping), np.int64, len(ids[-1])))
        before += len(piece)
    # A token without text of its own has the offsets (0, 0): it ends where the one before it does.
    character_ends = np.maximum.accumulate(np.concatenate(ends))
    sizes = np.fromiter((len(document) + 1 for document in documents), np.int64, len(documents))
    positions = byte_positions(text)
    block = text.encode()[:BZIP2_BLOCK]
    return TokenizedText(
        np.concatenate(ids),
        positions[character_ends],
        character_ends,
        positions[np.cumsum(sizes) - sizes],
        bzip2_bits_per_byte=8 * len(bz2.compress(block)) / max(1, len(block)),
    )


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole lines, of :data:`PIECE` characters or a little more."""
    begin = 0
    while begin < len(text):
        newline = text.find("\n", begin + PIECE)
        end = len(text) if newline < 0 else newline + 1
        yield text[begin:end]
        begin = end


def byte_positions(text: str) -> NDArray[np.int64]:
    """Return the byte in UTF-8 where each character begins, int64 ``[characters + 1]``; the last is the length in bytes."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])


def calibration_ids(
    calibration: CalibrationData, tokenizer: Any, *, seed: int, reporter: Reporter | None = None
) -> np.ndarray:
    """Return calibration windows, int64 ``[samples, tokens]``: sample i is of language i mod the number of languages.

    Windows do not overlap, none is taken twice, and none has special tokens. They are drawn with the seed, for each language
    separately: more samples begin with the same windows.

    Args:
        calibration: as it was planned, with texts.
        tokenizer: a fast tokenizer of transformers.
        seed: of the trial.
        reporter: gets a note before long waits.

    Raises:
        StudyError: a text cannot be read, is too short, or changed since it was planned.
    """
    length, texts = calibration.sequence_length, calibration.texts
    needed = calibration_tokens(calibration.samples, length, len(texts))
    windows = np.empty((calibration.samples, length), np.int64)
    for position, text in enumerate(texts):
        places = range(position, calibration.samples, len(texts))
        ids = tokenized_text(text, tokenizer, needed=needed, reporter=reporter).ids
        available = len(ids) // length
        if available < len(places):
            raise StepError(
                f"not enough calibration text: `{text.name}` has {available} windows of {length} tokens in "
                f"{text.language}, {len(places)} are needed",
                hint="fewer samples, shorter windows, or more text",
            )
        draw = np.random.Generator(np.random.PCG64([seed, *text.language.encode()]))
        chosen = draw.permutation(available)[: len(places)]
        windows[places] = ids[: available * length].reshape(available, length)[chosen]
    return windows
