"""Random models of real sizes, texts and a task of their vocabulary, and studies of them: nothing is fetched. Imports torch."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from studyctl.backends.tiny_model import write_tokenizer
from tests.run.studies import TASK


class Size(NamedTuple):
    """A llama, and how much text it is calibrated and measured with."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    samples: int
    length: int
    windows: int
    items: int


TENTH = Size(768, 2048, 12, 12, 4, 32_000, 16, 512, 16, 64)
"""0.11 B parameters."""
ONE_AND_A_HALF = Size(1536, 8960, 28, 12, 2, 151_936, 128, 2048, 40, 200)
"""1.5 B parameters, the shape of Qwen2.5-1.5B; 128 × 2048 tokens are the papers' calibration."""
TINY = Size(64, 128, 2, 4, 2, 320, 4, 64, 4, 8)
"""For a rehearsal."""

SPEC = """
[study]
name = "{name}"

[[models]]
id = "{model}"
dtype = "{dtype}"

[calibration]
source = "words"
languages = ["en"]
samples = {size.samples}
sequence_length = {size.length}
{variants}
[text.words]
files = {{ calibration = "{folder}/train.jsonl", perplexity = "{folder}/test.jsonl" }}

[evaluation.perplexity]
source = "words"
languages = ["en"]
sequence_length = {size.length}
windows = {size.windows}

[evaluation.fidelity]

[evaluation.tasks]
names = ["boats"]
include = ["{folder}"]

[execution]
devices = "{device}"
"""
VARIANTS = (
    'method = "magnitude"\nsparsity = 0.5',
    'method = "wanda"\nsparsity = 0.5',
    'method = "wanda"\npattern = "2:4"',
    'method = "sparsegpt"\nsparsity = 0.5',
    'method = "sparsegpt"\npattern = "2:4"',
    'method = "rtn"\nbits = 4\ngroup_size = 64',
    'method = "gptq"\nbits = 4\ngroup_size = 64\nact_order = [false, true]',
    'method = "awq"\nbits = 4\ngroup_size = 64',
    'method = ["sparsegpt", "gptq"]\nsparsity = 0.5\nbits = 4\ngroup_size = 64',
)
"""Every method; both ways of choosing the order of columns; one combination."""
TIMED = (VARIANTS[1], VARIANTS[3], VARIANTS[6].replace("[false, true]", "false"), VARIANTS[7])


def random_llama(size: Size, device: str) -> LlamaForCausalLM:
    """Return a random model in bfloat16, drawn where it is to be: on a GPU that takes a second."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=max(2048, size.length),
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.device(device):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def make_model(folder: Path, size: Size, device: str) -> Path:
    """Save a random model with a tokenizer of meaningless words."""
    logging.disable_progress_bar()
    random_llama(size, device).cpu().save_pretrained(folder)
    write_tokenizer(folder, size.vocabulary)
    return folder


def make_texts(folder: Path, size: Size) -> Path:
    """Write texts to calibrate and to measure with, and a task of four choices, in words of the vocabulary."""
    folder.mkdir(exist_ok=True)
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(3, size.vocabulary)}" for _ in range(count))

    def write(name: str, rows: list[dict[str, object]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name, windows in (("train.jsonl", size.samples), ("test.jsonl", size.windows)):
        write(name, [{"text": words(size.length + 8)} for _ in range(windows + 4)])
    choices = 4
    write(
        "boats.jsonl",
        [
            {"question": words(60), "choices": [words(5) for _ in range(choices)], "answer": item % choices}
            for item in range(size.items)
        ],
    )
    (folder / "boats.yaml").write_text(TASK)
    return folder


def write_study(
    folder: Path,
    name: str,
    model: Path,
    texts: Path,
    size: Size,
    *,
    dtype: str,
    device: str,
    variants: tuple[str, ...],
) -> Path:
    """Write a spec and return its path."""
    spec = folder / f"{name}.toml"
    listed = "".join(f"\n[[compression]]\n{variant}\n" for variant in variants)
    spec.write_text(
        SPEC.format(
            name=name, model=model, folder=texts, size=size, dtype=dtype, device=device, variants=listed
        )
    )
    return spec


def start(spec: Path) -> subprocess.Popen[str]:
    """Begin ``studyctl run``; what it prints is in a file beside the spec."""
    with spec.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "studyctl", "run", str(spec)],
            cwd=spec.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finished(process: subprocess.Popen[str], spec: Path) -> None:
    """Wait for a study.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    if code := process.wait():
        lines = spec.with_suffix(".log").read_text().splitlines()[-20:]
        raise RuntimeError("\n".join([f"studyctl run {spec.name} ended with {code}:", *lines]))
