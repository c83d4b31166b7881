"""Tiny random models of several families, and a tokenizer, built without any file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from studyctl.contract.records import Record

SIZES = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, final_logit_softcapping=3.0, sliding_window=16)
    ),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny models slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Return a maker of models: ``tiny(family, seed, dtype)``."""

    def make(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        torch.manual_seed(seed)
        return FAMILIES[family]().to(dtype).eval()

    return make


@pytest.fixture
def table_model() -> Callable[..., Any]:
    """Return a maker of models whose logits after a token are that token's row of a table."""

    def make(table: Sequence[Sequence[float]]) -> Any:
        rows = torch.tensor(table)
        head = torch.nn.Linear(rows.shape[1], rows.shape[1], bias=False)
        head.weight.data = torch.eye(rows.shape[1])

        class Model:
            config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

            def get_output_embeddings(self) -> torch.nn.Module:
                return head

            def get_decoder(self) -> Any:
                return lambda input_ids, use_cache: SimpleNamespace(last_hidden_state=rows[input_ids])

            def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
                return SimpleNamespace(logits=head(rows[input_ids]))

        return Model()

    return make


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte, ``<s>`` and ``</s>``; it adds none of the two by itself."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@dataclass
class Recorder:
    """A reporter that remembers, and stops after some batches if it is told to."""

    stop_after: int | None = None
    progressed: list[tuple[float, float, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.progressed.append((done, total, unit))

    def record(self, record: Record) -> None:
        raise AssertionError("scores are returned, not recorded")

    def warning(self, message: str, **fields: object) -> None:
        self.warnings.append(message)

    def check_stop(self) -> None:
        if self.stop_after is not None and len(self.progressed) >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
