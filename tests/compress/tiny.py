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
_MIXTURE: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 8,
}
_MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _MIXTURE,
    "gpt_oss": _MIXTURE | {"sliding_window": 5},
    "llama4_text": _MIXTURE | {"interleave_moe_layer_step": 1, "intermediate_size_mlp": 48},
    "qwen2_moe": _MIXTURE | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 48},
    "granitemoe": _MIXTURE,
}
MIXTURES = list(_MIXTURES)
"""Mixtures of experts, whose matrices are parts of parameters; gpt_oss and llama4_text store them ``[experts, in, out]``."""
_OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "mamba": {"num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "hybrid_layer_ids": [1, 3],
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
    },
}


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Return a random model of a family; the same arguments give the same weights."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**_COMMON, **(_OWN | _MIXTURES | _OTHERS)[family], **changes})
    attention = "eager" if family in ("gemma2", "bloom", "gpt_oss", "mamba") else "sdpa"
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
