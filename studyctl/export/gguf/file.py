"""Writes a model as a GGUF file, reads it back, and compares every weight with the one that was measured."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

from studyctl.compress.walk.architectures import block_matrices
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.exports import Embeddings, ExportFormat
from studyctl.contract.gguf import SMALLEST_BLOCK
from studyctl.contract.methods import MethodSettings, OnGguf, Quantization
from studyctl.errors import StepError
from studyctl.export.gguf import tokenizer
from studyctl.export.gguf.blocks import Packed, kind_of, misfit, to_blocks
from studyctl.reporter import Reporter
from studyctl.sources.gguf import families
from studyctl.sources.gguf.families import Family, family_of
from studyctl.sources.gguf.header import EMBEDDING, HEAD
from studyctl.sources.gguf.tensors import in_file, names_in_file, permuted
from studyctl.sources.models import LoadedModel

PLAIN = {
    torch.float32: GGMLQuantizationType.F32,
    torch.float16: GGMLQuantizationType.F16,
    torch.bfloat16: GGMLQuantizationType.BF16,
}


@dataclass(frozen=True)
class GgufFile:
    """A file that was read back."""

    path: Path
    types: Mapping[str, int]
    """How many tensors have each type."""
    bytes: int
    """Of the file."""
    vocabulary_bytes: int
    """Of the matrices over the vocabulary."""
    block_bits_per_weight: float
    """Of the matrices of the decoder blocks."""
    model_bits_per_weight: float
    inexact: int
    """Scales and minima of blocks that fp16 rounded."""
    numbers: int
    """Scales and minima of blocks."""
    differing: int
    """Weights of blocks that differ from those that were measured, in the model's dtype."""
    largest_difference: float
    """Of these, as a fraction of the largest weight of their linear."""
    rounded_embeddings: bool
    """Whether matrices over the vocabulary were rounded, so that the file is another model than the one that was measured."""
    format: str = ExportFormat.GGUF


def write_gguf(
    loaded: LoadedModel,
    compressed: Compressed | None,
    path: Path,
    *,
    name: str,
    embeddings: Embeddings | None,
    reporter: Reporter,
) -> GgufFile:
    """Write a model; the file is complete and compared when this returns.

    Args:
        loaded: the model with the weights to write, its tokenizer and its files.
        compressed: its compressed linears; None: all is written plain.
        path: the file.
        name: the model's, for people.
        embeddings: how matrices over the vocabulary are stored; None: as they are.
        reporter: gets progress.

    Raises:
        StepError: GGUF cannot hold this model, or what was read back is something else.
        OSError: the file cannot be written.
    """
    model: Any = loaded.model
    family = family_of(model.config)
    linears = _in_blocks(compressed)
    tensors = tensors_of(model, compressed, embeddings)
    sources = {target: tensor.source for target, tensor in tensors.items()}
    writer = GGUFWriter(path, family.name)
    add_keys(writer, family, loaded, name)
    inexact = numbers = 0
    state = model.state_dict()
    reporter.progress(0, 3, "step", "packing")
    for target, (source, _, kind) in tensors.items():
        linear = linears.get(source.removesuffix(".weight"))
        if linear is not None:
            assert isinstance(compressed, Compressed)
            packed = _packed(linear, compressed.settings)
            inexact, numbers = inexact + packed.inexact, numbers + packed.numbers
            rows = permuted(family, model.config, source, packed.blocks.data.cpu())
            data = rows.contiguous().numpy()
        else:
            data = _plain(in_file(family, model.config, source, state[source]), kind)
        writer.add_tensor(target, data, raw_dtype=kind)
    if (factors := families.frequency_factors(model.config)) is not None:
        writer.add_tensor(FACTORS, factors.numpy())
    reporter.check_stop()
    reporter.progress(1, 3, "step", "writing")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reporter.check_stop()
    reporter.progress(2, 3, "step", "reading it back")
    file = _read_back(path, family, model, sources, frozenset(linears), embeddings, (inexact, numbers))
    reporter.progress(3, 3, "step")
    return file


VOCABULARY = (EMBEDDING, HEAD)
"""The matrices over the vocabulary."""
FACTORS = "rope_freqs.weight"


class Tensor(NamedTuple):
    """A tensor that a file has of a model."""

    source: str
    """Its name in the model."""
    shape: torch.Size
    kind: GGMLQuantizationType


def tensors_of(
    model: Any, compressed: Compressed | None, embeddings: Embeddings | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a model's file, by their names there; without the factors of frequencies.

    Raises:
        StepError: GGUF cannot hold this model.
    """
    linears = _in_blocks(compressed)
    if embeddings is not None and compressed is not None and compressed.settings.changes_vocabulary:
        raise StepError("this variant's embeddings are in blocks already", hint="leave out --embeddings")
    state = model.state_dict()
    tensors = {}
    for target, source in names_in_file(model, family_of(model.config)).items():
        values = state[source]
        if (linear := linears.get(source.removesuffix(".weight"))) is not None:
            assert isinstance(compressed, Compressed)
            kind = _kind(linear, compressed.settings)
        else:
            kind = _plain_kind(values, embeddings if target in VOCABULARY else None)
        tensors[target] = Tensor(source, values.shape, kind)
    return tensors


def add_keys(writer: GGUFWriter, family: Family, loaded: LoadedModel, name: str) -> None:
    """Write all that is not tensors: the name, what describes the model, its tokenizer.

    Raises:
        StepError: GGUF cannot hold the tokenizer.
    """
    writer.add_name(name)
    families.add_keys(writer, family, loaded.model.config)
    _add_tokenizer(writer, loaded)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _kind(linear: CompressedLinear, settings: MethodSettings) -> GGMLQuantizationType:
    if linear.blocks is not None:
        return GGMLQuantizationType[linear.blocks.kind]
    assert isinstance(settings, Quantization)
    return GGMLQuantizationType[kind_of(linear, settings.bits)]


def _packed(linear: CompressedLinear, settings: MethodSettings) -> Packed:
    if linear.blocks is not None:
        return Packed(linear.blocks, 0, 0)
    assert isinstance(settings, Quantization)
    return to_blocks(linear, settings.bits)


def _in_blocks(compressed: Compressed | None) -> dict[str, CompressedLinear]:
    """Return the matrices that are written as blocks.

    Raises:
        StepError: GGUF has no blocks for one of them.
    """
    if compressed is not None and isinstance(compressed.settings, OnGguf):
        return dict(compressed.linears)
    if compressed is None or not isinstance(compressed.settings, Quantization):
        return {}
    for name, linear in compressed.linears.items():
        if linear.scales is None:
            return {}  # another package gave its weights without their codes: they are written plain
        if reason := misfit(linear, compressed.settings.bits):
            raise StepError(
                f"GGUF cannot hold {name}: {reason}", hint="export the folder, or change the setting"
            )
    return dict(compressed.linears)


def _plain_kind(values: torch.Tensor, embeddings: Embeddings | None) -> GGMLQuantizationType:
    """Return the type of a tensor that lies on no grid: vectors in float32."""
    if values.dim() == 1:
        return GGMLQuantizationType.F32
    kind = GGMLQuantizationType[embeddings.name] if embeddings is not None else PLAIN[values.dtype]
    if kind is GGMLQuantizationType.Q8_0 and values.shape[1] % SMALLEST_BLOCK:
        raise StepError(
            f"embeddings of {values.shape[1]} columns are no whole blocks of {SMALLEST_BLOCK}",
            hint="--embeddings f16",
        )
    return kind


def _plain(values: torch.Tensor, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Return the data of a tensor that lies on no grid."""
    if kind is GGMLQuantizationType.Q8_0:
        rounded: np.ndarray[Any, Any] = quants.quantize(values.float().numpy(), kind)
        return rounded
    if kind is GGMLQuantizationType.BF16:  # numpy has no such type
        raw = values.to(torch.bfloat16).contiguous().view(torch.uint8)
        return raw.reshape(len(values), -1).numpy()
    dtype = torch.float16 if kind is GGMLQuantizationType.F16 else torch.float32
    return values.to(dtype).contiguous().numpy()


def _add_tokenizer(writer: GGUFWriter, loaded: LoadedModel) -> None:
    identity = loaded.identity
    if identity.file is not None and identity.folder is not None:
        tokenizer.copy_keys(writer, identity.folder / identity.file)
    else:
        rows = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        tokenizer.add_keys(writer, loaded.tokenizer, loaded.folder, rows)


@dataclass
class _Differences:
    """Weights of blocks that are not what was measured."""

    count: int = 0
    largest: float = 0.0


def _read_back(
    path: Path,
    family: Family,
    model: Any,
    sources: Mapping[str, str],
    in_blocks: frozenset[str],
    embeddings: Embeddings | None,
    scales: tuple[int, int],
) -> GgufFile:
    """Compare every tensor of a file with the model's.

    Raises:
        StepError: one is missing, or is not what it should be.
    """
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    if missing := sources.keys() - tensors.keys():
        raise StepError(f"`{min(missing)}` is not in the file that was read back")
    state, differences = model.state_dict(), _Differences()
    for target, source in sources.items():
        tensor = tensors[target]
        values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).copy())
        expected = in_file(family, model.config, source, state[source])
        values = values.reshape(expected.shape)
        if source.removesuffix(".weight") in in_blocks:
            _compare(values, expected, differences)
        elif not (embeddings is not None and target in VOCABULARY) and not torch.equal(
            values, expected.float()
        ):
            raise StepError(f"`{source}` is not the same when the file is read back")
    inexact, numbers = scales
    if differences.count and not inexact:
        raise StepError(f"{differences.count} weights are not the same when the file is read back")
    matrices = block_matrices(model)
    blocks = {target for target, source in sources.items() if source in matrices}
    bits = sum(8 * tensors[target].n_bytes for target in blocks)
    return GgufFile(
        path=path,
        types=dict(Counter(tensor.tensor_type.name for tensor in tensors.values())),
        bytes=path.stat().st_size,
        vocabulary_bytes=sum(int(tensors[name].n_bytes) for name in VOCABULARY if name in tensors),
        block_bits_per_weight=bits / sum(state[sources[target]].numel() for target in blocks),
        model_bits_per_weight=8
        * path.stat().st_size
        / sum(parameter.numel() for parameter in model.parameters()),
        inexact=inexact,
        numbers=numbers,
        differing=differences.count,
        largest_difference=differences.largest,
        rounded_embeddings=embeddings is not None
        and PLAIN[model.get_input_embeddings().weight.dtype].name.lower() != embeddings,
    )


def _compare(values: torch.Tensor, expected: torch.Tensor, differences: _Differences) -> None:
    differs = values.to(expected.dtype) != expected
    if count := int(differs.sum()):
        differences.count += count
        difference = (values - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-30)
        differences.largest = max(differences.largest, float(difference))
