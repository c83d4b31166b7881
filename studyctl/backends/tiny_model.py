"""Runs inside a backend's environment: writes a tiny random model, a tokenizer and calibration ids, to check the package with.

``python -I tiny_model.py <folder>``; ``task.json`` gets the entries of a task that describe them.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 256
WINDOWS, TOKENS = 4, 64


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer with so many meaningless words: some packages need one to start."""
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w2"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w2", pad_token="w1"
    ).save_pretrained(folder)


def main(folder: Path) -> None:
    """Write the model, calibration ids, and a file with their paths and the model's nll."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder, VOCABULARY)
    ids = torch.randint(3, VOCABULARY, (WINDOWS, TOKENS), generator=torch.Generator().manual_seed(0))
    numpy.save(folder / "ids.npy", ids.numpy().astype("int32"))
    with torch.no_grad():
        logits = model(ids[:1]).logits[0, :-1].float()
        nll = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
    dense = {"windows": ids[:1].tolist(), "nll_nats": nll, "tolerance_nats": 1e-3}
    task = {"model": str(folder), "ids": str(folder / "ids.npy"), "dense": dense}
    (folder / "task.json").write_text(json.dumps(task), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
