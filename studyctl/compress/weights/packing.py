"""Quantized linears in the layout ``pack-quantized`` of the package compressed-tensors, which transformers and vLLM load.

A weight there is ``(q − zero) · scale`` with q and zero in ``−2**(bits−1) .. 2**(bits−1) − 1``, stored unsigned, several in
an int32: the same grid as in :mod:`studyctl.compress.quantize.grid`, shifted by ``2**(bits−1)``. Codes are stored in 4 or 8 bits,
the widths that vLLM has kernels for; narrower codes keep their values, scales and zero points, so the weights are the same bit
for bit. The layout is that of compressed-tensors 0.17.1, which most other versions can read (see docs/export.md).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from studyctl.compress.quantize.grid import paired
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.methods import Quantization

FORMAT = "pack-quantized"
VERSION = "0.17.1"
"""Of compressed-tensors, whose layout this is."""
WIDTHS = (4, 8)


@dataclass(frozen=True)
class Packing:
    """How all linears of a model are packed."""

    bits: int
    """4 or 8; not fewer than the codes have."""
    group_size: int
    """Inputs that share a scale, consecutive unless ``indexed``; 0: one scale per output channel."""
    symmetric: bool
    """Whether every zero point is the middle code, and none is stored."""
    indexed: bool
    """Whether every linear has a ``weight_g_idx``: the groups are not consecutive inputs."""


def choose_packing(compressed: Compressed) -> tuple[Packing | None, str]:
    """Return how the linears can be packed, or None and why not; the reason is empty if the weights lie on no grid."""
    settings, linears = compressed.settings, compressed.linears
    if not isinstance(settings, Quantization):
        return None, ""
    if any(linear.scales is None for linear in linears.values()):
        return None, "another package quantized it, and gave its weights without their codes"
    for name, linear in linears.items():
        if reason := _misfit(linear, settings.group_size):
            return None, f"the format cannot hold {name}: {reason}"
    bits = next(width for width in WIDTHS if width >= settings.bits)
    middle = 2 ** (settings.bits - 1)
    symmetric = settings.symmetric and all(
        bool((_part(linear.zero_point) == middle).all()) for linear in linears.values()
    )
    # One scale a row leaves nothing to order.
    indexed = settings.group_size > 0 and any(linear.groups is not None for linear in linears.values())
    return Packing(bits, settings.group_size, symmetric, indexed), ""


def _misfit(linear: CompressedLinear, group_size: int) -> str:
    """Return why the format cannot hold this linear, if so: loaders assume that all groups have ``in / groups`` columns."""
    inputs, groups = linear.weight.shape[1], _part(linear.scales).shape[1]
    if groups * (group_size or inputs) != inputs:
        return f"{groups} groups of {group_size or inputs} inputs are not the {inputs} inputs"
    if linear.groups is not None:
        sizes = torch.bincount(linear.groups.long(), minlength=groups)
        if bool((sizes != inputs // groups).any()):
            return "groups differ in size"
    return ""


def packed_tensors(linear: CompressedLinear, packing: Packing) -> dict[str, torch.Tensor]:
    """Return the tensors that are stored in place of ``weight``, by the last part of their names.

    ``weight_packed`` int32 ``[out, in / per]`` with ``per = 32 / bits``, ``weight_scale`` ``[out, groups]``,
    ``weight_shape`` int64 ``[2]``; asymmetric: ``weight_zero_point`` int32 ``[out / per, groups]``; with groups that are
    not consecutive: ``weight_g_idx`` int32 ``[in]``.
    """
    codes, scales, zero_point = linear.all_codes(), _part(linear.scales), _part(linear.zero_point)
    inputs = codes.shape[1]
    if packing.symmetric:
        # A zero point that is not stored is the middle of the packed width, not of the codes' own.
        codes = codes + (2 ** (packing.bits - 1) - zero_point[0, 0])
    tensors = {
        "weight_packed": _packed(codes, packing.bits),
        # linears of a group may share memory
        "weight_scale": scales.clone(memory_format=torch.contiguous_format),
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if not packing.symmetric:
        tensors["weight_zero_point"] = _packed(zero_point.T, packing.bits).T.contiguous()
    if packing.indexed:
        consecutive = torch.arange(inputs, device=codes.device) // (inputs // scales.shape[1])
        groups = consecutive if linear.groups is None else linear.groups
        tensors["weight_g_idx"] = groups.to(torch.int32, copy=True)
    return tensors


def _packed(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 values ``[rows, columns]`` along rows into int32, the first value in the lowest bits, padded with 0."""
    if missing := -values.shape[1] % (32 // bits):
        values = functional.pad(values, (0, missing))
    if bits == 4:
        values = paired(values)
    # The first of the four bytes of an int32 is the lowest. Flattened, since a single row may have a stride that no view accepts.
    return values.flatten().view(torch.int32).reshape(len(values), -1)


def quantization_config(packing: Packing, packed: Collection[str], model: nn.Module) -> dict[str, Any]:
    """Return the section ``quantization_config`` of ``config.json``.

    Only keys of the format's first version are written: older loaders refuse keys that they do not know.

    Args:
        packing: how linears are packed.
        packed: full names of the packed linears.
        model: its other linears, such as ``lm_head``, are listed as not packed.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    weights = {
        "num_bits": packing.bits,
        "type": "int",
        "symmetric": packing.symmetric,
        "strategy": "group" if packing.group_size else "channel",
        "group_size": packing.group_size or None,
        "dynamic": False,
        "actorder": "group" if packing.indexed else None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [name for name in linears if name not in packed],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "version": VERSION,
    }


def _part(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None  # a linear on a grid has scales and zero points
    return tensor
