"""A study so small that it runs in seconds: a random model of 60,000 parameters, two languages, one task."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SENTENCES = {
    "en": "the small boat left the harbour at dawn and came back with more fish than anyone had seen",
    "de": "das kleine Boot verliess den Hafen am Morgen und kam mit mehr Fisch zurueck als man je sah",
    "sw": "mashua ndogo iliondoka bandarini alfajiri na ikarudi na samaki wengi kuliko mtu yeyote alivyoona",
}


SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
"""Of a tiny model's config, whatever its family."""


def text(language: str, lines: int) -> list[str]:
    """Return lines that are all different."""
    words = SENTENCES[language].split()
    return [" ".join(words[(i * 7 + j * (i % 3 + 1)) % len(words)] for j in range(12)) for i in range(lines)]


def make_model(folder: Path, seed: int = 0) -> Path:
    """Save a tiny random llama with a tokenizer trained on the sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([line for language in SENTENCES for line in text(language, 20)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=128
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def make_sources(folder: Path) -> None:
    """Write texts, a task and a model."""
    for language in SENTENCES:
        for purpose, lines in (("train", 60), ("test", 30)):
            path = folder / "text" / language / f"{purpose}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({"text": line}) + "\n" for line in text(language, lines)))
    tasks = folder / "tasks"
    tasks.mkdir()
    items = [
        {"question": f"where is boat {i}", "choices": ["at sea", "in the harbour"], "answer": i % 2}
        for i in range(12)
    ]
    (tasks / "boats.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tasks / "boats.yaml").write_text(TASK)
    make_model(folder / "tiny")


TASK = """
task: boats
dataset_path: json
dataset_kwargs:
  data_files:
    test: boats.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
SPEC = """
[study]
name = "small"

[[models]]
id = "./tiny"
dtype = "float32"

[calibration]
source = "mine"
languages = ["en"]
samples = 4
sequence_length = 32

[[compression]]
method = "wanda"
sparsity = 0.5

[[compression]]
method = "rtn"
bits = 4
group_size = 16

[text.mine]
files = {{ calibration = "text/{{language}}/train.jsonl", perplexity = "text/{{language}}/test.jsonl" }}

[evaluation.perplexity]
source = "mine"
languages = {languages}
sequence_length = 32
windows = 4

[evaluation.fidelity]

[evaluation.tasks]
names = ["boats"]
include = ["tasks"]

[execution]
devices = "cpu"
{execution}
"""


def write_spec(folder: Path, *, execution: str = "", change: tuple[str, str] = ("", "")) -> Path:
    """Write the spec, with one text replaced by another."""
    path = folder / "small.toml"
    path.write_text(SPEC.format(languages='["en", "de"]', execution=execution).replace(*change))
    return path
