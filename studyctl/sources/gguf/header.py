"""Headers of GGUF files, read in a tenth of a second and without the ``gguf`` package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from studyctl.contract.gguf import BlockType
from studyctl.errors import StudyError
from studyctl.sources.safetensors_files import TensorInfo

TOKENS = "tokenizer.ggml.tokens"
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ARCHITECTURES = {
    **{"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma": "gemma"},
    **{"gemma2": "gemma2", "gemma3": "gemma3_text", "mistral": "mistral", "starcoder2": "starcoder2"},
}
"""Supported architectures of GGUF files -> transformers' model types."""
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
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of a header's numbers -> formats of ``struct``."""
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


class BlockKind(NamedTuple):
    """A type of blocks of consecutive inputs of a row."""

    name: str
    inputs: int
    bytes: int


BLOCK_KINDS = {kind.number: BlockKind(kind, kind.inputs, kind.row_bytes(kind.inputs)) for kind in BlockType} | {
    0: BlockKind("F32", 1, 4), 1: BlockKind("F16", 1, 2), 30: BlockKind("BF16", 1, 2), 16: BlockKind("IQ2_XXS", 256, 66),
    17: BlockKind("IQ2_XS", 256, 74), 18: BlockKind("IQ3_XXS", 256, 98), 19: BlockKind("IQ1_S", 256, 50),
    21: BlockKind("IQ3_S", 256, 110), 22: BlockKind("IQ2_S", 256, 82), 29: BlockKind("IQ1_M", 256, 56),
    34: BlockKind("TQ1_0", 256, 54), 35: BlockKind("TQ2_0", 256, 66), 39: BlockKind("MXFP4", 32, 17), 40: BlockKind("NVFP4", 64, 36),
}  # fmt: skip
"""The types that ``gguf.quants.dequantize`` knows, by their numbers in files."""


class StoredTensor(NamedTuple):
    """A tensor as a header describes it."""

    shape: tuple[int, ...]
    """``[out, in]``, in torch's order; the file has the reverse."""
    kind: int
    """Of its blocks, see :data:`BLOCK_KINDS`."""
    begin: int
    """In the file, in bytes."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file that is as long as it says."""

    fields: Mapping[str, object]
    """By name; of an array of numbers its length."""
    tensors: Mapping[str, StoredTensor]
    stored_bytes: int
    """Of all tensors."""

    @property
    def tokens(self) -> list[str]:
        """Return the texts of the tokens by id; empty if the file has no tokenizer."""
        tokens = self.fields.get(TOKENS)
        return tokens if isinstance(tokens, list) else []

    @property
    def block_bits_per_weight(self) -> float:
        """Return the bits per weight of the matrices of the decoder blocks, with scales and minima."""
        matrices = [t for name, t in self.tensors.items() if name.startswith("blk.") and len(t.shape) > 1]
        return 8 * sum(t.bytes for t in matrices) / sum(math.prod(t.shape) for t in matrices)


def describe_gguf(header: Header, name: str) -> tuple[dict[str, object], dict[str, TensorInfo]]:
    """Return config and tensors by name of a file, as transformers would have them.

    Only the block linears get transformers' names; other tensors keep those of the file.

    Args:
        header: of the file.
        name: of the file, for errors.

    Raises:
        StudyError: its architecture is not known.
    """
    fields, architecture = header.fields, str(header.fields.get("general.architecture", ""))
    if architecture not in ARCHITECTURES:
        raise StudyError(
            f"`{name}` has the GGUF architecture `{architecture}`; known are {', '.join(sorted(ARCHITECTURES))}"
        )
    linears = _LINEARS | _LINEARS_OF.get(architecture, {})
    tensors = {}
    for stored_name, tensor in header.tensors.items():
        match stored_name.split("."):
            case ["blk", layer, linear, "weight"] if linear in linears:
                stored_name = f"model.layers.{layer}.{linears[linear]}.weight"
        tensors[stored_name] = TensorInfo(tensor.shape, "F32")
    values = {key: fields.get(f"{architecture}.{name}") for name, key in _CONFIG.items()}
    config: dict[str, object] = {key: value for key, value in values.items() if isinstance(value, int)}
    if (embedding := header.tensors.get(EMBEDDING)) is not None:  # not every file has the key
        config["vocab_size"] = embedding.shape[0]
    config |= {
        "model_type": ARCHITECTURES[architecture],
        "tie_word_embeddings": HEAD not in header.tensors,
    }
    return config, tensors


def read_header(path: Path) -> Header:
    """Read a header and check that every tensor is within the file.

    Raises:
        StudyError: no GGUF file, of an unknown version or with unknown types, cut short, or damaged.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise StudyError(f"`{path}` is no GGUF file", hint="download or install it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        try:
            return _read(data, path)
        except KeyError as error:
            raise StudyError(f"`{path}` has a field of unknown type {error}") from error
        except struct.error as error:
            raise _cut_short(path, "its header is incomplete") from error
        except UnicodeDecodeError as error:
            raise _damaged(path, "a text in its header is none") from error


def _read(data: mmap.mmap, path: Path) -> Header:
    reader = _Reader(data)
    version, tensor_count, field_count = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in (2, 3):
        raise StudyError(f"`{path}` has GGUF version {version}; versions 2 and 3 can be read")
    fields: dict[str, object] = {}
    for _ in range(field_count):
        name = reader.string()
        fields[name] = reader.value(reader.number("I"))
    tensors = dict[str, StoredTensor]()
    for _ in range(tensor_count):
        name, dimensions = reader.string(), reader.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _damaged(path, f"`{name}` has {dimensions:,} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
        number, begin = reader.number("I"), reader.number("Q")
        if (kind := BLOCK_KINDS.get(number)) is None:
            raise StudyError(f"`{name}` of `{path}` has blocks of type {number}, which cannot be read")
        if not shape or shape[-1] % kind.inputs:
            raise _damaged(path, f"`{name}` with the shape {list(shape)} is no whole blocks of {kind.name}")
        tensors[name] = StoredTensor(shape, number, begin, math.prod(shape) // kind.inputs * kind.bytes)
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _damaged(path, f"tensors are aligned to {alignment}")
    data_begin = -(-reader.at // alignment) * alignment
    placed = {name: tensor._replace(begin=data_begin + tensor.begin) for name, tensor in tensors.items()}
    if beyond := [name for name, tensor in placed.items() if tensor.begin + tensor.bytes > len(data)]:
        raise _cut_short(
            path, f"{len(beyond)} of {len(tensors)} tensors are not whole, such as `{beyond[0]}`"
        )
    return Header(fields, placed, len(data) - data_begin)


class TokenizerKey(NamedTuple):
    """A key of a tokenizer, with its types in the file."""

    name: str
    kind: int
    inner: int | None
    """Of the items of an array."""
    value: object


def read_tokenizer(path: Path) -> list[TokenizerKey]:
    """Return the keys of a file's tokenizer, arrays whole; of a file whose header can be read."""
    keys = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        _, _, count = reader.number("I"), reader.number("Q"), reader.number("Q")
        for _ in range(count):
            name, kind = reader.string(), reader.number("I")
            inner = struct.unpack_from("<I", data, reader.at)[0] if kind == _ARRAY else None
            is_kept = name.startswith("tokenizer.")
            value = reader.value(kind, whole=is_kept)
            if is_kept:
                keys.append(TokenizerKey(name, kind, inner, value))
    return keys


def _cut_short(path: Path, how: str) -> StudyError:
    return StudyError(f"`{path}` is cut short: {how}", hint="download or install it again")


def _damaged(path: Path, how: str) -> StudyError:
    return StudyError(f"`{path}` is damaged: {how}", hint="download or install it again")


class _Reader:
    """Reads a GGUF header byte by byte."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def number(self, letter: str) -> int:
        value: int
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        self.at += struct.calcsize(letter)
        return value

    def string(self) -> str:
        length = self.number("Q")
        self._skip(length)
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int, *, whole: bool = False) -> object:
        """Return a value of a type, given by its number; of an array of numbers its length, unless the whole is asked for."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(SCALARS[kind])
        kind, length = self.number("I"), self.number("Q")
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        form = f"<{length}{SCALARS[kind]}"
        self._skip(struct.calcsize(form))
        return list(struct.unpack_from(form, self.data, self.at - struct.calcsize(form))) if whole else length

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise struct.error("beyond the end")
