"""The tokenizer's keys of a GGUF file: copied from a GGUF that the model came from, or made from the model's files.

Byte-level BPE is known by the structure of its pre-tokenizer, which llama.cpp has under a name each: one that is not listed here is
refused, since another would split texts elsewhere.
"""

import json
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter, TokenType

from studyctl.errors import StepError
from studyctl.sources.gguf.header import read_tokenizer

_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_BYTES_ALONE = ("ByteLevel", False)
_BYTES_AND_WORDS = ("ByteLevel", True)
_PRE_TOKENIZERS = {
    (_BYTES_AND_WORDS,): "gpt-2",
    (("Digits", True), _BYTES_AND_WORDS): "smollm",
    (("Split", _QWEN2), _BYTES_ALONE): "qwen2",
    (("Split", _LLAMA3), _BYTES_ALONE): "llama-bpe",
}
"""llama.cpp's names, by the steps of a pre-tokenizer and what they do."""
_ADDED_SCORE = -1000.0
"""Score of added tokens among SentencePiece's, which no merge makes."""


def copy_keys(writer: GGUFWriter, source: Path) -> None:
    """Copy the tokenizer of another GGUF file."""
    for key in read_tokenizer(source):
        inner = None if key.inner is None else GGUFValueType(key.inner)
        writer.add_key_value(key.name, key.value, GGUFValueType(key.kind), sub_type=inner)


def add_keys(writer: GGUFWriter, tokenizer: Any, folder: Path, rows: int) -> None:
    """Write the keys of a tokenizer.

    Args:
        writer: of the file.
        tokenizer: a fast tokenizer of transformers.
        folder: the model's, which may have SentencePiece's ``tokenizer.model``.
        rows: of the embedding; ids that no token has are written as unused.

    Raises:
        StepError: llama.cpp has no name for how it splits texts, or its pieces are not there.
    """
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    model = about["model"]
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        pre = pre_tokenizer_of(about)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        _add_tokens(writer, tokenizer, rows)
        writer.add_token_merges(
            [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        )
    else:
        _add_pieces(writer, tokenizer, folder / "tokenizer.model", rows, _adds_space(about))
    for name, number in (
        ("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id), ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):  # fmt: skip
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_of(about: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a ``tokenizer.json`` splits texts before merges.

    Raises:
        StepError: it has none that is known here.
    """
    whole = about["pre_tokenizer"] or {}
    steps = tuple(_what(step) for step in whole.get("pretokenizers", [whole]))
    if (name := _PRE_TOKENIZERS.get(steps)) is None:
        raise StepError(
            f"the tokenizer splits texts in a way that no GGUF name is known for: {json.dumps(whole)[:300]}",
            hint="export the folder; llama.cpp's own converter may know the model",
        )
    return name


def _what(step: dict[str, Any]) -> tuple[str, Any]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(splits)}:
            return "ByteLevel", splits
        case {"type": "Digits", "individual_digits": bool(single)}:
            return "Digits", single
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return "Split", pattern
    return str(step.get("type")), None


def _add_tokens(writer: GGUFWriter, tokenizer: Any, rows: int) -> None:
    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(rows):
        text = texts.get(number)
        tokens.append(f"[PAD{number}]" if text is None else text)
        kinds.append(TokenType.UNUSED if text is None else _kind(added.get(number)))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)


def _kind(added: Any) -> TokenType:
    if added is None:
        return TokenType.NORMAL
    return TokenType.CONTROL if added.special else TokenType.USER_DEFINED


def _adds_space(about: dict[str, Any]) -> bool:
    """Return whether a space is put before the first word."""
    normalizer = about["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    before = about["pre_tokenizer"] or {}
    return any(step.get("type") == "Prepend" for step in steps) or (
        before.get("type") == "Metaspace" and before.get("prepend_scheme") != "never"
    )


def _add_pieces(writer: GGUFWriter, tokenizer: Any, file: Path, rows: int, adds_space: bool) -> None:
    """Write SentencePiece's pieces, whose scores only its own file has."""
    if not file.is_file():
        raise StepError(
            "the tokenizer is SentencePiece's, and its file `tokenizer.model` is not among the model's files",
            hint="its scores are nowhere else; add the file to the model's folder",
        )
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(file))
    added = tokenizer.added_tokens_decoder
    tokens, scores, kinds = [], [], []
    for number in range(rows):
        if number < pieces.get_piece_size():
            tokens.append(pieces.id_to_piece(number))
            scores.append(pieces.get_score(number))
            kinds.append(_kind_of_piece(pieces, number, added.get(number)))
        else:
            token = added.get(number)
            tokens.append(f"[PAD{number}]" if token is None else token.content)
            scores.append(_ADDED_SCORE)
            kinds.append(TokenType.UNUSED if token is None else _kind(token))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(adds_space)


def _kind_of_piece(pieces: Any, number: int, added: Any) -> TokenType:
    for kind, is_kind in (
        (TokenType.UNKNOWN, pieces.is_unknown),
        (TokenType.CONTROL, pieces.is_control),
        (TokenType.UNUSED, pieces.is_unused),
        (TokenType.BYTE, pieces.is_byte),
    ):
        if is_kind(number):
            return kind
    return _kind(added)
