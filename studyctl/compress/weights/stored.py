"""Compressed weights on disk, and the hash that identifies them.

A linear on a grid is stored as codes, scales and zero points; ``grid.dequantize``, which made the evaluated weight, restores it.
A linear in llama.cpp's blocks is stored as these, any other as its weight; of a pruned one, which weights are not zero (a bit each)
and their values. So what is applied is bit for bit what was saved. Codes of up to four bits are stored two per byte. The files are a
cache, not an export.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from studyctl.compress.quantize.grid import codes_come_back, dequantize, paired, unpaired
from studyctl.compress.walk.architectures import Linear, block_linears, block_parameters
from studyctl.compress.walk.vocabulary import vocabulary_matrices
from studyctl.compress.weights.blocks import Blocks
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.gguf import BlockType
from studyctl.contract.methods import MethodSettings, Quantization, settings_of
from studyctl.errors import StepError
from studyctl.files import atomic_path

FORMAT = "studyctl-weights-4"
PARAMETER = "parameter:"
"""Prefix of the name of a parameter that is not the weight of a linear."""
PAIRS = "code_pairs"
"""The part of a linear that holds its codes two per byte (:func:`~studyctl.compress.quantize.grid.paired`)."""
BLOCKS = "blocks"
"""The part of a linear that holds llama.cpp's blocks, whose types are in the metadata."""
BITMAP = "bitmap"
"""The part of a linear that says which of its weights are not zero, eight per byte."""
_PER_ELEMENT = {"weight": 1, "codes": 1, PAIRS: 2, BITMAP: 8}
"""How many weights of a row an element of a part describes."""
_INTEGERS = {2: torch.int16, 4: torch.int32}
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def save(path: Path, compressed: Compressed, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the compressed linears to a safetensors file, with further metadata; a crash leaves no partial file.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    kinds: dict[str, BlockType] = {}
    for name, linear in compressed.linears.items():
        if linear.blocks is not None:
            tensors[f"{name}.{BLOCKS}"] = linear.blocks.data
            kinds[name] = linear.blocks.kind
            continue
        if linear.scales is None or linear.zero_point is None:
            tensors |= {f"{name}.{part}": value for part, value in _parts_of(linear.weight).items()}
            continue
        assert isinstance(compressed.settings, Quantization)  # only that makes grids
        codes = linear.all_codes()
        parts = {PAIRS: paired(codes)} if compressed.settings.bits <= 4 else {"codes": codes}
        parts |= {"scales": linear.scales, "zeros": linear.zero_point}
        if linear.groups is not None:  # shared by the linears of a group, which the format does not allow
            parts["groups"] = linear.groups.clone()
        tensors |= {f"{name}.{part}": value for part, value in parts.items()}
    tensors |= {f"{PARAMETER}{name}": value for name, value in compressed.parameters.items()}
    about = {
        **more,
        "format": FORMAT,
        "settings": compressed.settings.model_dump_json(),
        "kinds": json.dumps(kinds),
        "bits_per_weight": repr(compressed.bits_per_weight),
        "sparsity": repr(compressed.sparsity),
        "weights_hash": _hash(_changed(compressed.linears, compressed.parameters)),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def _parts_of(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a weight, or if that is smaller the values that are not zero and a bitmap ``[out, ceil(in / 8)]`` of their places."""
    weight = weight.detach().cpu().contiguous()
    kept = weight.view(_INTEGERS[weight.element_size()]) != 0  # -0.0 is a value like any other
    values = weight[kept]
    bitmap = torch.from_numpy(np.packbits(kept.numpy(), axis=1))
    if values.nbytes + bitmap.nbytes >= weight.nbytes:
        return {"weight": weight}
    return {"values": values, BITMAP: bitmap}


@torch.no_grad()
def apply(model: nn.Module, path: Path) -> Compressed:
    """Put saved linears into the model, in place, and return what was saved.

    Raises:
        StepError: the file is missing, incomplete or of another model, and the model has not changed; or its content is
            not what was saved, and the model has to be loaded again.
    """
    linears: dict[str, Any] = block_linears(model) | vocabulary_matrices(model)
    others = block_parameters(model)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            stored: dict[str, set[str]] = defaultdict(set)  # parts of each linear
            absorbed: list[str] = []
            for key in list(file.keys()):
                if key.startswith(PARAMETER):
                    absorbed.append(key.removeprefix(PARAMETER))
                else:
                    name, _, part = key.rpartition(".")
                    stored[name].add(part)
            _check_fit(path, file, about, stored, linears)
            if unknown := sorted(set(absorbed) - set(others)):
                raise _unusable(path, f"this model has no parameter `{unknown[0]}`")
            settings = settings_of(json.loads(about["settings"]))
            assert isinstance(settings, MethodSettings)
            kinds = json.loads(about.get("kinds", "{}"))
            applied = {
                name: _read_blocks(linears[name].weight.data, file, name, BlockType(kinds[name]))
                if BLOCKS in stored[name]
                else _read_into(linears[name], file, name, stored[name], settings)
                for name in linears
                if name in stored
            }
            for name in absorbed:
                others[name].data.copy_(file.get_tensor(f"{PARAMETER}{name}"))
    except (OSError, SafetensorError) as error:
        raise _unusable(path, str(error)) from error
    parameters = {name: others[name].data for name in absorbed}
    if _hash(_changed(applied, parameters)) != about["weights_hash"]:
        raise _unusable(path, "its content has changed since it was written")
    bits_per_weight, sparsity = float(about["bits_per_weight"]), float(about["sparsity"])
    return Compressed(settings, applied, bits_per_weight, sparsity, parameters)


def weights_hash(model: nn.Module, *, vocabulary: bool = False) -> str:
    """Return the hash of all parameters of the decoder blocks, 64 hex digits: names, dtypes, shapes and values.

    Args:
        model: the model.
        vocabulary: whether the weights of embedding and head count too.
    """
    others: dict[str, Any] = vocabulary_matrices(model) if vocabulary else {}
    weights = {name: module.weight.data for name, module in others.items()}
    return _hash(weights | {name: parameter.data for name, parameter in block_parameters(model).items()})


def _changed(
    linears: dict[str, CompressedLinear], parameters: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    # A file returns its parameters sorted by name, not in the order in which they were written.
    return {name: linear.weight for name, linear in linears.items()} | dict(sorted(parameters.items()))


def _hash(weights: dict[str, torch.Tensor]) -> str:
    """Hash each weight separately, in threads, and then their hashes, in the given order.

    SHA-256, since processors have instructions for it: it is the fastest of hashlib's functions, twice as fast as BLAKE2b.
    """

    def hash_one(item: tuple[str, torch.Tensor]) -> bytes:
        name, weight = item
        content = weight.detach().cpu().contiguous().view(torch.uint8).numpy().data
        about = f"{name} {weight.dtype} {tuple(weight.shape)} ".encode()
        return about + hashlib.sha256(content).digest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return hashlib.sha256(b"".join(threads.map(hash_one, weights.items()))).hexdigest()


def _check_fit(
    path: Path, file: Any, about: dict[str, str], stored: dict[str, set[str]], linears: dict[str, Linear]
) -> None:
    """Refuse a file of another version or another model."""
    if about.get("format") != FORMAT:
        raise _unusable(path, "it is not a weights file of this version")
    if unknown := sorted(set(stored) - set(linears)):
        raise _unusable(path, f"this model has no linear `{unknown[0]}`")
    for name, parts in stored.items():
        if BLOCKS in parts:
            continue  # read with a check of their shape
        weight = linears[name].weight
        matrix = next(part for part in _PER_ELEMENT if part in parts)
        out, elements = file.get_slice(f"{name}.{matrix}").get_shape()
        inputs = elements * _PER_ELEMENT[matrix]
        if out != len(weight) or not 0 <= inputs - weight.shape[1] < _PER_ELEMENT[matrix]:
            raise _unusable(path, f"`{name}` is {[out, inputs]} there and {list(weight.shape)} in this model")
        values = file.get_slice(
            f"{name}.{next(part for part in ('weight', 'values', 'scales') if part in parts)}"
        )
        if _DTYPES.get(values.get_dtype()) != weight.dtype:
            raise _unusable(
                path, f"`{name}` was made for {values.get_dtype()} and this model is {weight.dtype}"
            )


def _read_blocks(weight: torch.Tensor, file: Any, name: str, kind: BlockType) -> CompressedLinear:
    blocks = Blocks(kind, file.get_tensor(f"{name}.{BLOCKS}"))
    values = blocks.values(weight.dtype)
    if values.shape != weight.shape:
        raise SafetensorError(
            f"`{name}` is {list(values.shape)} there and {list(weight.shape)} in this model"
        )
    weight.copy_(values)
    return CompressedLinear(weight, blocks=blocks)


def _read_into(
    linear: Linear, file: Any, name: str, parts: set[str], settings: MethodSettings
) -> CompressedLinear:
    weight = linear.weight.data
    if "weight" in parts:
        weight.copy_(file.get_tensor(f"{name}.weight"))
        return CompressedLinear(weight)
    if BITMAP in parts:
        bits = file.get_tensor(f"{name}.{BITMAP}").numpy()
        kept = torch.from_numpy(np.unpackbits(bits, axis=1, count=weight.shape[1]).astype(bool))
        values = file.get_tensor(f"{name}.values")
        if int(kept.sum()) != len(values):
            raise SafetensorError(f"`{name}` has {len(values)} values for {int(kept.sum())} places")
        weight.copy_(torch.zeros(kept.shape, dtype=weight.dtype).masked_scatter_(kept, values))
        return CompressedLinear(weight)
    assert isinstance(settings, Quantization)  # only that makes grids
    stored = {part: file.get_tensor(f"{name}.{part}").to(weight.device) for part in parts}
    if PAIRS in parts:
        stored["codes"] = unpaired(stored.pop(PAIRS), weight.shape[1])
    stored["zero_point"] = stored.pop("zeros")
    weight.copy_(dequantize(**stored))
    if codes_come_back(settings.bits, weight.dtype):
        del stored["codes"]
    return CompressedLinear(weight, **stored)


def _unusable(path: Path, why: str) -> StepError:
    return StepError(
        f"stored weights `{path}` cannot be used: {why}", hint="delete the file; they are then made again"
    )
