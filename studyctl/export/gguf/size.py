"""The size of the file that a trial would be exported to, to the byte, without a tensor being written."""

from math import prod
from struct import calcsize
from typing import Any

from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGUFValueType, GGUFWriter
from gguf.gguf_writer import GGUFValue

from studyctl.compress.weights.compressed import Compressed
from studyctl.contract.job import Job
from studyctl.contract.records import FileFacts
from studyctl.export.gguf.file import FACTORS, VOCABULARY, add_keys, tensors_of
from studyctl.sources.gguf.families import family_of, frequency_factors
from studyctl.sources.gguf.header import SCALARS
from studyctl.sources.models import LoadedModel


def name_of(job: Job) -> str:
    """Return the name that a trial's file has inside."""
    return f"{job.model.short_name} {job.variant}"


def header_bytes(loaded: LoadedModel) -> int:
    """Return the bytes before the tensors of a file without a name: the same for all variants of a model.

    The tokenizer is most of it, and takes a second for a large vocabulary.

    Raises:
        StepError: GGUF cannot hold this model or its tokenizer.
    """
    model: Any = loaded.model
    family = family_of(model.config)
    writer = GGUFWriter(None, family.name)
    infos = [(name, len(tensor.shape)) for name, tensor in tensors_of(model, None).items()]
    if frequency_factors(model.config) is not None:
        infos.append((FACTORS, 1))
    add_keys(writer, family, loaded, "")  # an empty name is left out
    (values,) = writer.kv_data
    named = _string_bytes("general.name") + _TYPE + _string_bytes("")
    keys = sum(_string_bytes(key) + _TYPE + _value_bytes(value) for key, value in values.items())
    tensors = sum(_string_bytes(name) + 4 + 8 * dimensions + _TYPE + 8 for name, dimensions in infos)
    return _START + named + keys + tensors


_START = 24
"""Bytes of the magic, the version and two counts."""
_TYPE = 4


def _string_bytes(text: str) -> int:
    return 8 + len(text.encode())


def _value_bytes(value: GGUFValue) -> int:
    """Return the bytes of a key's value, without those of its type."""
    if value.type is GGUFValueType.STRING:
        return _string_bytes(value.value)
    if value.type is not GGUFValueType.ARRAY:
        return calcsize(SCALARS[value.type])
    inner = value.sub_type or GGUFValueType.get_type(value.value[0])
    strings = inner is GGUFValueType.STRING
    parts = sum(map(_string_bytes, value.value)) if strings else len(value.value) * calcsize(SCALARS[inner])
    return _TYPE + 8 + parts


def file_facts(loaded: LoadedModel, compressed: Compressed | None, name: str, header: int) -> FileFacts:
    """Return the size of the file that :func:`~studyctl.export.gguf.file.write_gguf` would write.

    Args:
        loaded: the model with the trial's weights.
        compressed: its compressed linears; None: all is written plain.
        name: the model's, for people.
        header: what :func:`header_bytes` returned.

    Raises:
        StepError: GGUF cannot hold the weights.
    """
    model: Any = loaded.model
    sizes = {}
    for target, tensor in tensors_of(model, compressed).items():
        in_block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
        sizes[target] = prod(tensor.shape) // in_block * block_bytes
    if (factors := frequency_factors(model.config)) is not None:
        sizes[FACTORS] = factors.nbytes
    parts = (header + len(name.encode()), *sizes.values())
    return FileFacts(
        bytes=sum(GGUFWriter.ggml_pad(part, GGUF_DEFAULT_ALIGNMENT) for part in parts),
        vocabulary_bytes=sum(sizes.get(matrix, 0) for matrix in VOCABULARY),
    )
