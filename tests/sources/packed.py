"""Published checkpoints of tiny models: packed by compressed-tensors itself, or by hand; and unpacked by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 16


FP8 = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
"""A scheme of compressed-tensors: eight-bit floats and a scale an output channel."""


def int_weights(
    bits: int, *, symmetric: bool = True, activations: bool = False, act_order: bool = False
) -> dict[str, Any]:
    """Return a scheme of compressed-tensors: groups of 16 below 8 bits, a scale an output channel at 8."""
    strategy = {"strategy": "group", "group_size": GROUP} if bits < 8 else {"strategy": "channel"}
    scheme: dict[str, Any] = {"weights": {"num_bits": bits, "symmetric": symmetric, **strategy}}
    if act_order:
        scheme["weights"]["actorder"] = "group"
    if activations:
        scheme["input_activations"] = {"num_bits": 8, "strategy": "token", "dynamic": True}
    return scheme


def pack(source: Path, target: Path, schemes: dict[str, dict[str, Any]], dtype: torch.dtype) -> Path:
    """Quantize a model folder round to nearest and save it as compressed-tensors does.

    Args:
        source: a plain model folder.
        target: made; gets the tokenizer as well.
        schemes: by target, such as ``Linear`` or ``re:.*mlp[.].*_proj``.
        dtype: of scales, norms and embeddings.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
    )
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    groups = {name: {"targets": [name], **scheme} for name, scheme in schemes.items()}
    config = QuantizationConfig(config_groups=groups, ignore=["lm_head"], quantization_status="frozen")
    apply_quantization_config(model, config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and hasattr(module, "quantization_scheme"):
            _choose_scales(module)
            module.quantization_status = QuantizationStatus.FROZEN  # type: ignore[assignment]
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(target)
    compressor.update_config(target)
    return target


def _choose_scales(linear: Any) -> None:
    arguments, weight = linear.quantization_scheme.weights, linear.weight.data.float()
    if arguments.type == "float":
        linear.weight_scale.data.copy_(
            weight.abs().amax(-1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
        )
        return
    if arguments.actorder:
        groups = torch.arange(weight.shape[1]) // arguments.group_size
        mixed = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0))
        linear.weight_g_idx.data.copy_(groups[mixed])
        weight = weight[:, torch.argsort(groups[mixed], stable=True)]
    grouped = weight.view(len(weight), -1, arguments.group_size or weight.shape[1])
    top = 2**arguments.num_bits - 1
    if arguments.symmetric:
        linear.weight_scale.data.copy_(grouped.abs().amax(-1) / (top / 2))
        return
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    linear.weight_scale.data.copy_((high - low) / top)
    zeros = (-low / linear.weight_scale.float()).round().clamp(0, top) - 2 ** (arguments.num_bits - 1)
    linear.weight_zero_point.data.copy_(zeros)


def unpacked(folder: Path, bits: dict[str, int]) -> dict[str, Tensor]:
    """Return the weights that a packed folder stands for, float32, by the format's definition and nothing else.

    Args:
        folder: what :func:`pack` made.
        bits: of a linear, by a part of its name.
    """
    stored = load_file(folder / "model.safetensors")
    weights = {}
    for name, packed in stored.items():
        if not name.endswith("_packed"):
            continue
        linear = name.removesuffix(".weight_packed")
        width = next(bits[part] for part in bits if part in linear)
        shape = stored[f"{linear}.weight_shape"].tolist()
        codes = _fields(packed, width)[:, : shape[1]]
        scales = stored[f"{linear}.weight_scale"].float()
        zeros = torch.full(scales.shape, 2 ** (width - 1))
        if f"{linear}.weight_zero_point" in stored:
            zeros = _fields(stored[f"{linear}.weight_zero_point"].T, width).T[: len(scales)]
        consecutive = torch.arange(shape[1]) // (shape[1] // scales.shape[1])
        groups = stored.get(f"{linear}.weight_g_idx", consecutive).long()
        weights[f"{linear}.weight"] = (codes - zeros[:, groups]) * scales[:, groups]
    return weights


def _fields(words: Tensor, width: int) -> Tensor:
    """Return the fields ``[rows, words · fields]`` of 32-bit words, lowest bits first."""
    shifts = torch.arange(0, 32 - width + 1, width)
    return ((words.long()[..., None] >> shifts) & (2**width - 1)).flatten(-2)


def pack_by_hand(source: Path, target: Path, method: str) -> dict[str, Tensor]:
    """Write a 4-bit folder in the format of AutoGPTQ or AutoAWQ, and return the weights ``[out, in]`` that it stands for."""
    shutil.copytree(source, target)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor.half()
            continue
        linear = name.removesuffix(".weight")
        grouped = tensor.view(len(tensor), -1, GROUP)
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((high - low) / 15).half()
        zeros = (-low / scales.float()).round().clamp(1, 15)
        codes = (grouped / scales.float()[..., None] + zeros[..., None]).round().clamp(0, 15)
        weights[name] = ((codes - zeros[..., None]) * scales.float()[..., None]).half().view_as(tensor)
        codes = codes.view_as(tensor).T
        if method == "gptq":  # zeros are stored less one
            packed = {"qweight": _words(codes.T, range(8)).T, "qzeros": _words(zeros.T - 1, range(8))}
            packed["g_idx"] = (torch.arange(len(codes)) // GROUP).int()
        else:
            order = (0, 2, 4, 6, 1, 3, 5, 7)
            packed = {"qweight": _words(codes, order), "qzeros": _words(zeros.T, order)}
        packed["scales"] = scales.T
        tensors |= {f"{linear}.{part}": value.contiguous() for part, value in packed.items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    own = (
        {"checkpoint_format": "gptq", "desc_act": False, "sym": False}
        if method == "gptq"
        else {"version": "gemm"}
    )
    about = {"quant_method": method, "bits": 4, "group_size": GROUP, **own}
    change_config(target, dtype="float16", quantization_config=about)
    return weights


def _words(codes: Tensor, order: Any) -> Tensor:
    """Return 32-bit words ``[rows, columns / 8]`` of 4-bit codes ``[rows, columns]``."""
    eight = codes.long().reshape(len(codes), -1, 8)
    words = sum(eight[..., place] << (4 * position) for position, place in enumerate(order))
    assert isinstance(words, Tensor)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def change_config(folder: Path, **keys: Any) -> None:
    """Set keys of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
