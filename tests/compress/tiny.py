"""Tiny random models of many families, and a reporter that remembers."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from studyctl.contract.records import Layer, Record

VOCABULARY = 61
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOW: dict[str, Any] = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, **_WINDOW},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, **_WINDOW},
    "gemma3_text": {"head_dim": 8, **_WINDOW},
    "phi3": {"sliding_window": 5},
    "olmo2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"alibi": False, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True},
    "bloom": {"n_layer": 3, "n_head": 4},
}
FAMILIES = list(_OWN)


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Return a random model of a family; the same arguments give the same weights."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**_COMMON, **_OWN[family], **changes})
    attention = "eager" if family in ("gemma2", "bloom") else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():  # also norms: all ones would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


class Listener:
    """A reporter that keeps all records, warnings and progress."""

    def __init__(self) -> None:
        self.records: list[Layer] = []
        self.warnings: list[str] = []
        self.done: list[tuple[float, float, str]] = []
        self.stop_after: int | None = None

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.done.append((done, total, unit))

    def record(self, record: Record) -> None:
        assert isinstance(record, Layer)
        self.records.append(record)

    def warning(self, message: str, **fields: object) -> None:
        self.warnings.append(message)

    def check_stop(self) -> None:
        if self.stop_after is not None and len(self.done) >= self.stop_after:
            raise KeyboardInterrupt
