"""Folders of models, made by hand: most need no torch."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studyctl.sources import hub

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def tensors(layers: int = 2) -> dict[str, np.ndarray]:
    """Weights named and shaped as a llama's."""
    shapes = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)}
    for layer in range(layers):
        for name, shape in {
            "self_attn.q_proj": (8, 8),
            "self_attn.k_proj": (4, 8),
            "self_attn.v_proj": (4, 8),
            "self_attn.o_proj": (8, 8),
            "mlp.gate_proj": (16, 8),
            "mlp.up_proj": (16, 8),
            "mlp.down_proj": (8, 16),
            "input_layernorm": (8,),
            "post_attention_layernorm": (8,),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model folder."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    save_file(tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _no_earlier_answers() -> None:
    hub.forget()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"
