"""Small tokenizers, trained on the spot."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "the cat sat on the mat, and the other cat sat on the other mat. " * 3


def byte_level(*, adds_bos: bool = False, bos: str | None = "<s>", normalizer: Any = None) -> Any:
    """A byte-level BPE tokenizer of 300 entries; ``<s>`` is 0."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT], trainer)
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token="</s>")


def metaspace() -> Any:
    """A character tokenizer in the manner of SentencePiece, which puts ▁ before the text and for spaces."""
    characters = sorted(set(TEXT) | {"▁", "é", "漢"})
    inner = Tokenizer(models.BPE({character: number for number, character in enumerate(characters)}, []))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def saved(tokenizer: Any, folder: Path) -> Path:
    """Save a tokenizer and return its folder."""
    tokenizer.save_pretrained(folder)
    return folder
