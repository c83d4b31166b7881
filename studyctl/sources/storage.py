"""How a model's weights are stored: plain, or packed in a format of its own, by its config and by its tensors."""

import re
from collections.abc import Mapping
from typing import Any

from studyctl.contract.identity import PLAIN
from studyctl.sources.safetensors_files import TensorInfo

COMPRESSED_TENSORS = "compressed-tensors"
_PACKED = (
    ("gptq", re.compile(r"\.g_idx$")),
    ("awq", re.compile(r"\.qweight$")),
    ("bitsandbytes", re.compile(r"\.(absmax|nested_absmax|quant_map|SCB|quant_state\..*)$")),
    (COMPRESSED_TENSORS, re.compile(r"\.(weight_packed|weight_shape|bitmask)$")),
    ("fp8", re.compile(r"\.weight_scale_inv$")),
    ("mxfp4", re.compile(r"_blocks$")),
    ("hqq", re.compile(r"\.W_q$")),
    ("quanto", re.compile(r"\.weight\._data$")),
    ("torchao", re.compile(r"\.weight[_:](qdata|tensor_data)")),
)
"""Formats by the name of a tensor that only they have; the first that fits."""
_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32"})
"""Dtypes of packed weights; 64 bits have indices, such as positions."""


def quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config says about quantized weights; empty if they are stored plain."""
    settings = config.get("quantization_config")
    # BitNet's online mode rounds plain weights in every pass.
    return settings if isinstance(settings, dict) and settings.get("quantization_mode") != "online" else {}


def storage_format(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str:
    """Return how weights are stored: ``plain``, or the name of a quantization format.

    Tensors count: a config may have lost its ``quantization_config``, or kept that of a model that was unpacked since.

    Args:
        config: ``config.json``.
        tensors: all of the model; empty if its headers cannot be read.
    """
    settings = quantization(config)
    old_bitsandbytes = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    unnamed = "bitsandbytes" if old_bitsandbytes else "unnamed"
    by_config = str(settings.get("quant_method") or unnamed) if settings else PLAIN
    if not tensors:
        return by_config
    by_tensors = _packed(tensors)
    if by_config == PLAIN or by_tensors == PLAIN:
        return by_tensors
    return by_config


def _packed(tensors: Mapping[str, TensorInfo]) -> str:
    """Return the format of packed weights by names and dtypes.

    Eight-bit floats without scales are plain: transformers converts them like any other floats.
    """
    for format_name, pattern in _PACKED:
        if any(map(pattern.search, tensors)):
            return format_name
    if any(name.endswith(".weight_scale") for name in tensors):
        return "fp8" if any(info.dtype.startswith("F8") for info in tensors.values()) else COMPRESSED_TENSORS
    integers = (
        info.dtype in _INTEGERS and len(info.shape) > 1
        for name, info in tensors.items()
        if not name.endswith("bias")  # a mask of attention in old files of GPT-2
    )
    return "unnamed" if any(integers) else PLAIN
