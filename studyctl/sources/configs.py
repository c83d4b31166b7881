"""What a model's ``config.json`` says, whatever its family calls it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from studyctl.errors import StudyError
from studyctl.sources.safetensors_files import TensorInfo

# fmt: off
CAUSAL_MODEL_TYPES = frozenset({
    "apertus", "arcee", "bloom", "codegen", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4",
    "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj",
    "granite", "helium", "llama", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm",
    "starcoder2", "xglm",
})
"""Decoders whose config may come without ``architectures``."""
ENCODER_MODEL_TYPES = frozenset({
    "albert", "bart", "bert", "big_bird", "blenderbot", "camembert", "convbert", "deberta", "distilbert",
    "electra", "ernie", "marian", "mbart", "megatron-bert", "mt5", "pegasus", "plbart", "roberta", "roformer",
    "t5", "trocr", "umt5", "whisper", "xlm", "xlm-roberta",
})
# fmt: on
"""Families that have a ``...ForCausalLM`` class and are encoders, or need one, all the same."""

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "vocab_size": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim",),
    "max_positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
}
_REQUIRED = ("hidden_size", "layers", "heads", "vocab_size")
_BLOCK_WEIGHT = re.compile(r"(?:.*\.)?(?:layers|h|blocks|block)\.\d+\.(.+)\.weight")
_NO_LINEAR = re.compile(r"norm|embed|rotary|wpe|wte|relative_attention_bias|(^|\.)ln_")
_FLOATS = ("BF16", "F16", "F32", "F64")
_TRANSPOSED = ("gpt2",)
"""Families whose linears are stored ``[in, out]``."""
_OUTPUT_WEIGHTS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a decoder."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    """0 when the config sets no maximum."""


def check_decoder(config: Mapping[str, object], where: str) -> None:
    """Refuse what is no decoder-only language model.

    Raises:
        StudyError: ``where`` is not a decoder.
    """
    kind = str(config.get("model_type", ""))
    named = config.get("architectures") or []
    architectures = [str(name) for name in named] if isinstance(named, list) else []
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    if not architectures:
        causal = kind in CAUSAL_MODEL_TYPES
    if not causal or kind in ENCODER_MODEL_TYPES:
        raise StudyError(
            f"`{where}` is not a decoder: {', '.join(architectures) or kind or 'its config names no architecture'}",
            hint="studyctl compresses decoder-only language models (`...ForCausalLM`)",
        )


def read_sizes(config: Mapping[str, object], where: str) -> Sizes:
    """Return the sizes that a config gives, under any family's names.

    Raises:
        StudyError: the config lacks one that every decoder has.
    """
    found = {key: _first(config, names) for key, names in _NAMES.items()}
    for key in _REQUIRED:
        if not found[key]:
            raise StudyError(f"the config of `{where}` lacks `{_NAMES[key][0]}`")
    hidden, heads = found["hidden_size"], found["heads"]
    kv_heads = 1 if config.get("multi_query") and not config.get("new_decoder_architecture") else heads
    return Sizes(
        hidden_size=hidden,
        intermediate_size=found["intermediate_size"] or 4 * hidden,
        layers=found["layers"],
        heads=heads,
        kv_heads=found["kv_heads"] or kv_heads,
        head_dim=found["head_dim"] or hidden // heads,
        vocab_size=found["vocab_size"],
        max_positions=found["max_positions"],
    )


def _first(config: Mapping[str, object], names: tuple[str, ...]) -> int:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)


def block_linears(tensors: Mapping[str, TensorInfo], model_type: str) -> dict[str, tuple[int, int]]:
    """Return the linears of the decoder blocks, name -> ``(out, in)``, in the order of blocks.

    Embeddings, norms and ``lm_head`` are none of them; packed weights (integers) are not either.
    """
    linears: dict[str, tuple[int, int]] = {}
    for name, info in tensors.items():
        match = _BLOCK_WEIGHT.fullmatch(name)
        if match is None or len(info.shape) != 2 or info.dtype not in _FLOATS or _NO_LINEAR.search(match[1]):
            continue
        out, inputs = info.shape[::-1] if model_type in _TRANSPOSED else info.shape
        linears[name.removesuffix(".weight")] = (out, inputs)
    return dict(sorted(linears.items(), key=lambda item: _by_block(item[0])))


def _by_block(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def has_tied_head(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether the output layer shares the input embedding: then no weight of its own is stored."""
    return not any(name.endswith(_OUTPUT_WEIGHTS) for name in tensors)
