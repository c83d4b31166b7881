"""The study of the overhead: a random llama that is large enough for a minute of real work. Imports torch."""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from tests.run.studies import SENTENCES, TASK, make_model, text

LINES = 600
"""Of each language and purpose."""
ITEMS = 300
SPEC = """
[study]
name = "work"

[[models]]
id = "./large"
dtype = "float32"

[calibration]
source = "mine"
samples = {samples}
sequence_length = {length}

[[compression]]
method = "wanda"
sparsity = 0.5

[[compression]]
method = "rtn"
bits = 4
group_size = 32

[text.mine]
files = {{ calibration = "text/{{language}}/train.jsonl", perplexity = "text/{{language}}/test.jsonl" }}

[evaluation.perplexity]
source = "mine"
languages = {languages}
sequence_length = {length}
windows = {windows}

[evaluation.fidelity]

[evaluation.tasks]
names = ["boats"]
include = ["tasks"]

[execution]
devices = "cpu"
"""


def make_study(folder: Path, *, layers: int, samples: int, windows: int, length: int) -> Path:
    """Write model, texts, task and spec under ``folder``, and return the spec.

    Args:
        folder: where.
        layers: decoder blocks of 1.8 M parameters.
        samples: calibration windows.
        windows: windows of each of three languages.
        length: tokens of a window.
    """
    logging.disable_progress_bar()
    model = make_model(folder / "large")  # for its tokenizer; the model is replaced
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    for language in SENTENCES:
        for purpose in ("train", "test"):
            _write_lines(
                folder / "text" / language / f"{purpose}.jsonl",
                [{"text": line} for line in text(language, LINES)],
            )
    choices = ["at sea", "in the harbour"]
    _write_lines(
        folder / "tasks" / "boats.jsonl",
        [{"question": f"where is boat {i}", "choices": choices, "answer": i % 2} for i in range(ITEMS)],
    )
    (folder / "tasks" / "boats.yaml").write_text(TASK)
    spec = folder / "work.toml"
    spec.write_text(SPEC.format(samples=samples, windows=windows, length=length, languages=list(SENTENCES)))
    return spec


def _write_lines(path: Path, values: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
