"""The content of a model's ``config.json``, under the same names for all families."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from studyctl.errors import StudyError, did_you_mean
from studyctl.sources.registry import Registry, installed_registry
from studyctl.sources.safetensors_files import TensorInfo

# fmt: off
CAUSAL_MODEL_TYPES = frozenset({
    "apertus", "arcee", "bloom", "codegen", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4",
    "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj",
    "granite", "helium", "llama", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "opt",
    "persimmon", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm",
    "starcoder2", "xglm",
})
"""Decoders, for configs without ``architectures`` where transformers is not installed."""
ENCODER_MODEL_TYPES = frozenset({
    "albert", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small", "camembert",
    "convbert", "data2vec-text", "deberta", "distilbert", "electra", "ernie", "marian", "mbart", "megatron-bert", "mt5", "mvp",
    "pegasus", "plbart", "prophetnet", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "t5", "trocr",
    "umt5", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
})
# fmt: on
"""Families with a ``...ForCausalLM`` class that nevertheless are, or need, an encoder."""

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "vocab_size": ("vocab_size",),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim",),
    "max_positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
}
_REQUIRED = ("hidden_size", "layers", "heads", "vocab_size")
_IN_BLOCK = re.compile(r"(?:.*\.)?(?:layers|h|blocks|block)\.\d+\.(.+)")
_NO_LINEAR = re.compile(r"norm|embed|rotary|wpe|wte|relative_attention_bias|(^|\.)ln_")
ADAPTER = "adapter_config.json"
"""The file that makes a folder one of peft."""
_CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel|ModelWithLMHead)$")
_EXPERTS = re.compile(r"(.+)\.(?:\w*experts|input_linear|output_linear)\.(\d+\.)?")
_ROUTER = re.compile(r"(?:^|[._])(?:gate|router)\.")
_FLOATS = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")
_TRANSPOSED = {2: ("gpt2", "openai-gpt"), 3: ("aria_text", "gpt_oss", "llama4_text")}
"""Families that store linears ``[in, out]``, or experts ``[experts, in, out]``, by the dimensions of such a tensor."""
_PACKED = ("weight_packed", "weight_scale", "qweight")
"""Parts of packed linears; whatever is stored beside them belongs to the linear."""


def read_config(path: Path, where: str) -> dict[str, Any]:
    """Return the content of a ``config.json``.

    Args:
        path: the file.
        where: names the model in the error.

    Raises:
        StudyError: it is missing, cannot be read, or is no JSON object.
    """
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if (path.parent / ADAPTER).is_file():
            raise StudyError(
                f"`{where}` is an adapter ({ADAPTER}), not a model", hint="merge it into its base model first"
            ) from error
        raise StudyError(f"`{where}` is no model folder: it has no config.json") from error
    except (ValueError, OSError) as error:
        raise StudyError(f"config.json of `{where}` cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise StudyError(f"config.json of `{where}` is no JSON object")
    return config


def check_decoder(config: Mapping[str, object], where: str) -> None:
    """Refuse a model that is not a decoder-only language model, or that the installed transformers cannot load.

    Raises:
        StudyError: ``where`` is not a decoder, runs code of its own, or is of a family that transformers does not have.
    """
    kind = str(config.get("model_type", ""))
    names = config.get("architectures")
    architectures = [str(name) for name in names] if isinstance(names, list) else []
    what = ", ".join(architectures) or kind or "its config names no architecture"
    registry, is_causal = installed_registry(), any(map(_CAUSAL.search, architectures))
    if registry is not None:
        if kind and kind not in registry.words:
            raise _foreign(config, kind, registry, where)
        # transformers goes by the type; other heads than that of a language model have weights of their own.
        is_other = any(re.search("For[A-Z]", name) for name in architectures) and not is_causal
        is_causal = bool(_CAUSAL.search(registry.causal.get(kind, ""))) and not is_other
    elif not architectures:
        is_causal = kind in CAUSAL_MODEL_TYPES
    if not is_causal or kind in ENCODER_MODEL_TYPES:
        raise StudyError(
            f"`{where}` is not a decoder: {what}",
            hint="studyctl compresses decoder-only language models (`...ForCausalLM`)"
            if kind
            else "`model_type` in config.json says what it is",
        )


def _foreign(config: Mapping[str, object], kind: str, registry: Registry, where: str) -> StudyError:
    """Return the error for a family that the installed transformers does not have."""
    if "auto_map" in config:
        return StudyError(
            f"`{where}` runs code of its own (`auto_map` in config.json), which studyctl never does: transformers "
            f"{registry.version} itself has no model type `{kind}`",
            hint="a later version of transformers may have it, or the hub a copy in the form of another family",
        )
    return StudyError(
        f"transformers {registry.version} has no model type `{kind}`, which `{where}` is of",
        hint=did_you_mean(kind, registry.causal) or "a later version of transformers may have it",
    )


def read_sizes(config: Mapping[str, object], where: str) -> dict[str, int]:
    """Return the sizes of a decoder by their names in ``ModelIdentity``.

    Raises:
        StudyError: a size that every decoder has is missing.
    """
    sizes = {}
    for key, names in _NAMES.items():
        values = (config.get(name) for name in names)
        numbers = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
        sizes[key] = next(numbers, 0)
        if key in _REQUIRED and not sizes[key]:
            raise StudyError(f"the config of `{where}` has no `{names[0]}`")
    is_multi_query = config.get("multi_query") and not config.get("new_decoder_architecture")
    heads, hidden = sizes["heads"], sizes["hidden_size"]
    return sizes | {
        "intermediate_size": sizes["intermediate_size"] or 4 * hidden,
        "kv_heads": sizes["kv_heads"] or (1 if is_multi_query else heads),
        "head_dim": sizes["head_dim"] or hidden // heads,
        "max_positions": max(sizes["max_positions"], _stretched(config, sizes["max_positions"])),
    }


def _stretched(config: Mapping[str, object], max_positions: int) -> int:
    """Return the positions that scaled rotary embeddings reach (linear, dynamic, YaRN); 0 if they are not scaled.

    Some configs have the maximum before scaling, others the one after it.
    """
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if not isinstance(scaling, dict) or not isinstance(factor, int | float):
        return 0
    return int(factor * (scaling.get("original_max_position_embeddings") or max_positions))


class BlockMatrices(NamedTuple):
    """What the decoder blocks consist of, besides norms and biases; packed weights (integers) are left out."""

    linears: dict[str, tuple[int, int]]
    """Name -> ``(out, in)``, in the order of blocks. An expert's part of a tensor has its number after the tensor's name."""
    others: dict[str, int]
    """Number of weights of routers, convolutions and all else that is in no linear, by name."""


def block_matrices(tensors: Mapping[str, TensorInfo], model_type: str) -> BlockMatrices:
    """Return the linears of the decoder blocks, and what else has two or more dimensions there."""
    inside = {name: match[1] for name in tensors if (match := _IN_BLOCK.fullmatch(name))}
    mixtures = {match[1] for name in inside if (match := _EXPERTS.match(name))}
    linears: dict[str, tuple[int, int]] = {}
    others: dict[str, int] = {}
    for name, short in inside.items():
        info = tensors[name]
        dimensions = len(info.shape)
        if dimensions < 2 or info.dtype not in _FLOATS or name.endswith("bias"):
            continue
        match = _EXPERTS.match(name)
        is_of_experts = match is not None and (dimensions == 3 or match[2] is not None)
        is_router = not is_of_experts and any(
            _ROUTER.search(short)
            and name.startswith(f"{owner}.")
            and _ROUTER.search(name.removeprefix(owner))
            for owner in mixtures
        )
        out, inputs = info.shape[-2:]
        if model_type in _TRANSPOSED.get(dimensions, ()):
            out, inputs = inputs, out
        if _NO_LINEAR.search(short) or is_router:
            others[name] = math.prod(info.shape)
        elif dimensions == 2 and short.endswith(".weight"):
            linears[name.removesuffix(".weight")] = (out, inputs)
        elif dimensions == 3 and is_of_experts:
            linears |= {f"{name}.{expert}": (out, inputs) for expert in range(info.shape[0])}
        else:
            others[name] = math.prod(info.shape)
    return BlockMatrices(dict(sorted(linears.items(), key=lambda item: _by_block(item[0]))), others)


def has_other_linears(linears: Iterable[str], model_type: str) -> bool:
    """Return whether some of these linears are experts', or no ``torch.nn.Linear`` for another reason."""
    return model_type in _TRANSPOSED[2] or any(_EXPERTS.match(name) for name in linears)


def block_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    """Return the bytes that the files hold for the weights of the decoder blocks: codes, scales, zero points and shapes too."""
    packed = {owner for name in tensors for owner, _, part in [name.rpartition(".")] if part in _PACKED}
    return sum(
        info.bytes
        for name, info in tensors.items()
        if _IN_BLOCK.fullmatch(name)
        and not name.endswith("bias")
        and (len(info.shape) > 1 or name.rpartition(".")[0] in packed)
    )


def _by_block(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
