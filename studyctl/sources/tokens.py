"""Token ids of texts: for perplexity windows, and for calibration."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
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
from studyctl.files import atomic_path, cache_folder, digest
from studyctl.reporter import Reporter, SilentReporter
from studyctl.sources.texts import Documents, read_documents
from studyctl.sources.verified import check_files

_CODE = 2
"""Rises when the same text and tokenizer give other tokens here."""
FIRST_DOCUMENTS = 64
"""Of a hub dataset; doubled until the tokens are enough, so that the number is the same on every machine."""
MARGIN = 64
"""Tokens beyond the needed ones: what follows a text can change the tokens at its very end."""
CHOICE = 4
"""Calibration windows of a hub dataset are drawn from this many times as much text."""
PIECE = 200_000
"""Characters of a calibration text that are tokenised at once."""


def tokenizer_key(tokenizer: Any) -> str:
    """Return the hash of all that decides how a fast tokenizer splits a text.

    Of the tokenizer at work, not of its files: transformers rebuilds parts of some (Qwen2's pre-tokenizer).
    """
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:20]


def calibration_tokens(samples: int, sequence_length: int, languages: int) -> int:
    """Return how many tokens of each language a hub dataset must give, so that windows can be drawn at random."""
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
    """Return the first ``count`` windows of a text, or all that it has, in the order in which they are measured.

    Raises:
        StudyError: the text cannot be read, does not fill a window, or changed since it was planned.
    """
    # Of a local file they are a sample of all of it; a dataset of the hub may be too long to be read to its end.
    segment = None if text.file is not None else SEGMENT
    needed = 0 if count == ALL_WINDOWS else needed_tokens(count, sequence_length)
    tokens = tokenized_text(text, tokenizer, needed=needed, reporter=reporter)
    return cut_windows(tokens, sequence_length, count, bos_id, segment)


def tokenized_text(
    text: TextIdentity, tokenizer: Any, *, needed: int = 0, reporter: Reporter | None = None
) -> TokenizedText:
    """Return a text's tokens, without special tokens; kept in the user's cache.

    A text for perplexity is tokenised as one text, one for calibration in pieces of whole lines.

    Args:
        text: what :func:`~studyctl.sources.text_files.identify_text` returned, with a key.
        tokenizer: a fast tokenizer of transformers.
        needed: tokens that a hub dataset must give at least, if it has them; 0: all of it. Local files are taken whole.
        reporter: hears of long waits.

    Raises:
        StudyError: the text cannot be read.
    """
    if text.key is None:
        raise StepError(f"text `{text.name}` in {text.language} could not be looked up: {text.unknown}")
    reporter = reporter or SilentReporter()
    own = tokenizer_key(tokenizer)
    if text.file is not None:
        # The cache may hold the tokens already; that the file changed since it was looked at is told all the same.
        check_files([text.file], str(text))
        return _cached(text, tokenizer, own, 0, lambda: read_documents(text), reporter)
    documents, count = Documents(text), FIRST_DOCUMENTS if needed else 0
    while True:
        tokens = _cached(text, tokenizer, own, count, partial(documents.first, count), reporter)
        if count == 0 or len(tokens.ids) >= needed + MARGIN or documents.complete:
            return replace(tokens, complete=documents.complete)
        count *= 2


def _cached(
    text: TextIdentity,
    tokenizer: Any,
    own: str,
    count: int,
    read: Callable[[], list[str]],
    reporter: Reporter,
) -> TokenizedText:
    path = cache_folder() / "tokens" / f"{digest([text.key, own, count, _CODE])}.npz"
    if not path.is_file():
        reporter.progress(0, 1, "text", note=f"tokenising {text.name} in {text.language}")
        tokens = _tokenize_documents(read(), tokenizer, in_pieces=text.purpose == "calibration")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                ids=tokens.ids,
                byte_ends=tokens.byte_ends,
                character_ends=tokens.character_ends,
                document_begins=tokens.document_begins,
            )
    with np.load(path, allow_pickle=False) as stored:
        return TokenizedText(**stored)


def _tokenize_documents(documents: list[str], tokenizer: Any, *, in_pieces: bool) -> TokenizedText:
    """Return the tokens of documents joined by newlines.

    A perplexity is of one text. Calibration only needs tokens, and a corpus in one call takes a gigabyte: it comes in pieces.
    """
    whole = "\n".join(documents)
    sizes = np.fromiter((len(document) + 1 for document in documents), np.int64, len(documents))
    begins = np.cumsum(sizes) - sizes
    tokens = _joined([tokenize(piece, tokenizer) for piece in (_pieces(whole) if in_pieces else [whole])])
    return replace(tokens, document_begins=byte_positions(whole)[begins])


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole lines, of :data:`PIECE` characters or a little more."""
    begin = 0
    while begin < len(text):
        newline = text.find("\n", begin + PIECE)
        end = len(text) if newline < 0 else newline + 1
        yield text[begin:end]
        begin = end


def _joined(pieces: Sequence[TokenizedText]) -> TokenizedText:
    return TokenizedText(
        np.concatenate([piece.ids for piece in pieces]),
        _one_after_the_other([piece.byte_ends for piece in pieces]),
        _one_after_the_other([piece.character_ends for piece in pieces]),
        np.zeros(1, np.int64),
    )


def _one_after_the_other(ends: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the ends of tokens of pieces as ends in the text that the pieces make."""
    offsets = np.cumsum([0] + [int(piece[-1]) if len(piece) else 0 for piece in ends])
    return np.concatenate([piece + offset for piece, offset in zip(ends, offsets[:-1], strict=True)])


def tokenize(text: str, tokenizer: Any) -> TokenizedText:
    """Return the tokens of one document, without special tokens, and where each ends in it."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = np.array(encoded.input_ids, np.int32)
    # A token without text of its own has the offsets (0, 0): it ends where the one before it does.
    ends = np.maximum.accumulate(np.fromiter((end for _, end in encoded.offset_mapping), np.int64, len(ids)))
    return TokenizedText(ids, byte_positions(text)[ends], ends, np.zeros(1, np.int64))


def byte_positions(text: str) -> NDArray[np.int64]:
    """Return where each character begins in UTF-8, int64 ``[characters + 1]``; the last is the length in bytes."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])


def calibration_ids(
    calibration: CalibrationData, tokenizer: Any, *, seed: int, reporter: Reporter | None = None
) -> np.ndarray:
    """Return calibration windows, int64 ``[samples, tokens]``: sample i is of language i mod the number of languages.

    Windows do not overlap, none is taken twice, and none has special tokens. They are drawn by the seed, for each
    language by itself: more samples begin with the same windows, and another language leaves a language's own as they were.

    Args:
        calibration: what the plan found, with texts.
        tokenizer: a fast tokenizer of transformers.
        seed: of the trial.
        reporter: hears of long waits.

    Raises:
        StudyError: a text cannot be read, is too short, or changed since it was planned.
    """
    length, texts = calibration.sequence_length, calibration.texts
    needed = calibration_tokens(calibration.samples, length, len(texts))
    windows = np.empty((calibration.samples, length), np.int64)
    for position, text in enumerate(texts):
        places = range(position, calibration.samples, len(texts))
        ids = tokenized_text(text, tokenizer, needed=needed, reporter=reporter).ids
        there = len(ids) // length
        if there < len(places):
            raise StepError(
                f"not enough calibration text: `{text.name}` has {there} windows of {length} tokens in "
                f"{text.language}, {len(places)} are wanted",
                hint="fewer samples, shorter windows, or more text",
            )
        draw = np.random.Generator(np.random.PCG64([seed, *text.language.encode()]))
        chosen = draw.permutation(there)[: len(places)]
        windows[places] = ids[: there * length].reshape(there, length)[chosen]
    return windows
