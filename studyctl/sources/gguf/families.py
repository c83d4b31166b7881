"""Families that are read and written: the keys that llama.cpp reads, and where its tensors differ from those of transformers.

What llama.cpp takes for granted of a family (a pattern of windows, a scale of attention) is checked before a model is written: one that
differs would load and compute something else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType

from studyctl.errors import StepError

LOCAL_BASE = 10_000.0
"""Base of the rotations of Gemma 3's windowed layers, in llama.cpp."""
PATTERN = 6
"""Every sixth layer of Gemma 3 has no window, in llama.cpp."""


@dataclass(frozen=True)
class Family:
    """How a family's models differ in files."""

    arch: MODEL_ARCH
    permuted: bool = False
    """Whether rows of q and k are in another order: llama.cpp rotates neighbours, transformers halves."""
    norm_offset: float = 0.0
    """What llama.cpp expects to be added to the weights of norms."""
    activation: str = ""
    """What llama.cpp computes in the MLP; empty: not checked."""
    add: Callable[[GGUFWriter, Any], None] = lambda writer, config: None
    """Adds the keys that only this family has."""
    differs: Callable[[Any], str] = lambda config: ""
    """Returns how a config differs from what llama.cpp takes for granted; empty: not at all."""

    @property
    def name(self) -> str:
        """Return the architecture's name in files."""
        return str(MODEL_ARCH_NAMES[self.arch])


def family_of(config: Any) -> Family:
    """Return the family of a model's config.

    Raises:
        StepError: GGUF export does not know it, or llama.cpp would compute something else.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        families = ", ".join(sorted(FAMILIES))
        raise StepError(
            f"no GGUF is written for models of type `{config.model_type}`", hint=f"there are: {families}"
        )
    difference = family.differs(config) or _rope_difference(config)
    if not difference and family.activation and config.hidden_act != family.activation:
        difference = f"the activation is {config.hidden_act}, not {family.activation}"
    if difference:
        raise StepError(
            f"llama.cpp would compute something else: {difference}", hint="export the folder instead"
        )
    return family


def add_keys(writer: GGUFWriter, family: Family, config: Any) -> None:
    """Write the keys that describe a model."""
    heads = config.num_attention_heads
    head_dim = head_dim_of(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = _rope(config)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type", "default") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    family.add(writer, config)


def head_dim_of(config: Any) -> int:
    """Return the width of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def frequency_factors(config: Any) -> torch.Tensor | None:
    """Return what llama.cpp divides the frequencies of Llama 3.1's rotations by, ``[head_dim / 2]``; None for other models.

    As ``_compute_llama3_parameters`` of transformers: long waves are stretched, short ones kept, and between there is a slope.
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    dim = head_dim_of(config)
    waves = 2 * torch.pi * rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    low, high, length = (
        rope["low_freq_factor"],
        rope["high_freq_factor"],
        rope["original_max_position_embeddings"],
    )
    share = ((length / waves - low) / (high - low)).clamp(0, 1)
    factors: torch.Tensor = 1 / ((1 - share) / rope["factor"] + share)
    return factors.float()


def _rope(config: Any) -> dict[str, Any]:
    """Return the rotations' settings; of a family with two kinds of layers, those of the ones without a window."""
    rope: dict[str, Any] = config.rope_parameters
    whole: dict[str, Any] = rope.get("full_attention", rope)
    return whole


def _rope_difference(config: Any) -> str:
    kind = _rope(config).get("rope_type", "default")
    return (
        "" if kind in ("default", "linear", "llama3") else f"rotations of the type `{kind}` are not written"
    )


def _of_gemma2(writer: GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _gemma2_differs(config: Any) -> str:
    if not config.attn_logit_softcapping or not config.final_logit_softcapping:
        return "the logits of a Gemma 2 are soft-capped"
    windowed = [
        "sliding_attention" if layer % 2 == 0 else "full_attention"
        for layer in range(config.num_hidden_layers)
    ]
    return _windows_differ(config, windowed) or _attention_scale_differs(config)


def _gemma3_differs(config: Any) -> str:
    windowed = [
        "full_attention" if (layer + 1) % PATTERN == 0 else "sliding_attention"
        for layer in range(config.num_hidden_layers)
    ]
    local = config.rope_parameters.get("sliding_attention", {})
    if local.get("rope_theta", LOCAL_BASE) != LOCAL_BASE or local.get("rope_type", "default") != "default":
        return f"the rotations of windowed layers have the base {LOCAL_BASE:g}"
    return _windows_differ(config, windowed) or _attention_scale_differs(config)


def _windows_differ(config: Any, expected: list[str]) -> str:
    if list(config.layer_types) == expected or config.sliding_window >= config.max_position_embeddings:
        return ""
    return "other layers of this family have a window"


def _attention_scale_differs(config: Any) -> str:
    dim = head_dim_of(config)
    if config.query_pre_attn_scalar == dim:
        return ""
    return f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, not the width of a head, {dim}"


def _window(writer: GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(getattr(config, "sliding_window", None) or 0)


def _of_phi3(writer: GGUFWriter, config: Any) -> None:
    _window(writer, config)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)


def _qwen2_differs(config: Any) -> str:
    if getattr(config, "use_sliding_window", False) and "sliding_attention" in (config.layer_types or ()):
        return "no layer of this family has a window"
    return ""


FAMILIES = {
    "llama": Family(MODEL_ARCH.LLAMA, permuted=True, activation="silu"),
    "qwen2": Family(MODEL_ARCH.QWEN2, activation="silu", differs=_qwen2_differs),
    "qwen3": Family(MODEL_ARCH.QWEN3, activation="silu", differs=_qwen2_differs),
    "gemma2": Family(MODEL_ARCH.GEMMA2, norm_offset=1.0, add=_of_gemma2, differs=_gemma2_differs),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, norm_offset=1.0, add=_window, differs=_gemma3_differs),
    "phi3": Family(MODEL_ARCH.PHI3, add=_of_phi3, activation="silu"),
}
"""By transformers' model type."""
