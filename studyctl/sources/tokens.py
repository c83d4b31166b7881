"""Token ids of texts: for perplexity windows, and for calibration."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from studyctl.errors import StageError
from studyctl.evaluate.windows import TokenizedText
from studyctl.files import atomic_path, cache_folder, digest
from studyctl.reporter import Reporter, SilentReporter
from studyctl.sources.identity import TextIdentity
from studyctl.sources.texts import Documents, read_text
from studyctl.spec.models import Calibration, Perplexity

_CODE = 1
"""Rises when the same text and tokenizer give other tokens here."""
FIRST_DOCUMENTS = 64
"""Of a hub dataset; doubled until the tokens are enough, so that the number is the same on every machine."""
MARGIN = 64
"""Tokens beyond the needed ones: what follows a text can change the tokens at its very end."""
CHOICE = 4
"""Calibration windows of a hub dataset are drawn from this many times as much text."""
PIECE = 200_000
"""Characters of a calibration text that are tokenised at once."""
_TOKEN = np.dtype([("id", "<i4"), ("end", "<i8")])


def tokenizer_key(tokenizer: Any) -> str:
    """Return the hash of all that decides how a fast tokenizer splits a text.

    Of the tokenizer at work, not of its files: transformers rebuilds parts of some (Qwen2's pre-tokenizer).
    """
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:20]


def perplexity_tokens(perplexity: Perplexity) -> int:
    """Return how many tokens of each language the windows need; 0: all there are."""
    return perplexity.windows * perplexity.sequence_length


def calibration_tokens(calibration: Calibration) -> int:
    """Return how many tokens of each language a hub dataset must give, so that windows can be drawn at random."""
    share = -(-calibration.samples // len(calibration.languages))
    return CHOICE * share * calibration.sequence_length


def tokenized_text(
    text: TextIdentity, tokenizer: Any, *, needed: int = 0, reporter: Reporter | None = None
) -> TokenizedText:
    """Return a text's tokens, without special tokens; kept in the user's cache.

    A text for perplexity is tokenised as one text, one for calibration in pieces of whole lines.

    Args:
        text: what :func:`~studyctl.sources.identity.identify_text` returned, with a key.
        tokenizer: a fast tokenizer of transformers.
        needed: tokens that a hub dataset must give at least, if it has them; 0: all of it. Local files are taken whole.
        reporter: hears of long waits.

    Raises:
        StudyError: the text cannot be read.
    """
    if text.key is None:
        raise StageError(f"text `{text.name}` in {text.language} could not be looked up: {text.unknown}")
    reporter = reporter or SilentReporter()
    own = tokenizer_key(tokenizer)
    if text.dataset is None:
        return _cached(text, tokenizer, own, None, 0, reporter)
    documents, count = Documents(text), FIRST_DOCUMENTS if needed else 0
    while True:
        tokens = _cached(text, tokenizer, own, documents, count, reporter)
        if count == 0 or len(tokens.ids) >= needed + MARGIN or documents.complete:
            return tokens
        count *= 2


def _cached(
    text: TextIdentity, tokenizer: Any, own: str, documents: Documents | None, count: int, reporter: Reporter
) -> TokenizedText:
    path = cache_folder() / "tokens" / f"{digest([text.key, own, count, _CODE])}.npy"
    if not path.is_file():
        reporter.progress(0, 1, "text", note=f"tokenising {text.name} in {text.language}")
        whole = read_text(text) if documents is None else "\n".join(documents.first(count))
        # A perplexity is of one text; calibration only needs tokens, and a corpus in one call takes a gigabyte.
        pieces = _pieces(whole) if text.purpose == "calibration" else [whole]
        tokens = _joined([tokenize(piece, tokenizer) for piece in pieces])
        stored = np.empty(len(tokens.ids), _TOKEN)
        stored["id"], stored["end"] = tokens.ids, tokens.byte_ends
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, stored)
    stored = np.load(path, allow_pickle=False)
    return TokenizedText(np.ascontiguousarray(stored["id"]), np.ascontiguousarray(stored["end"]))


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole lines, of :data:`PIECE` characters or a little more."""
    begin = 0
    while begin < len(text):
        newline = text.find("\n", begin + PIECE)
        end = len(text) if newline < 0 else newline + 1
        yield text[begin:end]
        begin = end


def _joined(pieces: Sequence[TokenizedText]) -> TokenizedText:
    offsets = np.cumsum([0] + [int(piece.byte_ends[-1]) if len(piece.ids) else 0 for piece in pieces])
    ends = [piece.byte_ends + offset for piece, offset in zip(pieces, offsets[:-1], strict=True)]
    return TokenizedText(np.concatenate([piece.ids for piece in pieces]), np.concatenate(ends))


def tokenize(text: str, tokenizer: Any) -> TokenizedText:
    """Return the tokens of one text, without special tokens, and where each ends in its UTF-8 bytes."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = np.array(encoded.input_ids, np.int32)
    ends = np.fromiter((end for _, end in encoded.offset_mapping), np.int64, len(ids))
    # A token without text of its own has the offsets (0, 0): it ends where the one before it does.
    return TokenizedText(ids, byte_positions(text)[np.maximum.accumulate(ends)] if len(ids) else ends)


def byte_positions(text: str) -> np.ndarray:
    """Return where each character begins in UTF-8, int64 ``[characters + 1]``; the last is the length in bytes."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(widths)])


def calibration_ids(
    calibration: Calibration,
    texts: Sequence[TextIdentity],
    tokenizer: Any,
    *,
    seed: int,
    reporter: Reporter | None = None,
) -> np.ndarray:
    """Return calibration windows, int64 ``[samples, tokens]``: sample i is of language i mod the number of languages.

    Windows do not overlap, none is taken twice, and none has special tokens. They are drawn by the seed, for each
    language by itself: more samples begin with the same windows, and another language leaves a language's own as they were.

    Args:
        calibration: the setting.
        texts: of its languages, in their order.
        tokenizer: a fast tokenizer of transformers.
        seed: of the trial.
        reporter: hears of long waits.

    Raises:
        StudyError: a text cannot be read, or is too short.
    """
    length, needed = calibration.sequence_length, calibration_tokens(calibration)
    windows = np.empty((calibration.samples, length), np.int64)
    for position, text in enumerate(texts):
        places = range(position, calibration.samples, len(texts))
        ids = tokenized_text(text, tokenizer, needed=needed, reporter=reporter).ids
        there = len(ids) // length
        if there < len(places):
            raise StageError(
                f"not enough calibration text: `{text.name}` has {there} windows of {length} tokens in "
                f"{text.language}, {len(places)} are wanted",
                hint="fewer samples, shorter windows, or more text",
            )
        draw = np.random.Generator(np.random.PCG64([seed, *text.language.encode()]))
        chosen = draw.permutation(there)[: len(places)]
        windows[places] = ids[: there * length].reshape(there, length)[chosen]
    return windows
