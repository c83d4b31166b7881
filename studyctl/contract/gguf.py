"""llama.cpp's block types, and which of them its presets give to each matrix of a model.

A preset such as ``Q4_K_M`` is a mixture: most matrices have its base type, some a wider one. The rules are those of
``llama_tensor_get_type`` in llama.cpp's ``llama-quant.cpp``, for the families that are written as GGUF (:data:`FAMILIES`); where
llama.cpp is installed a test compares them with its own files.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
"""Model types that are written as GGUF."""


class _Layout(NamedTuple):
    number: int
    inputs: int
    bytes: int


class BlockType(StrEnum):
    """A type of blocks, each of consecutive inputs of a row (``ggml-common.h``)."""

    Q2_K = "Q2_K"
    Q3_K = "Q3_K"
    IQ4_XS = "IQ4_XS"
    IQ4_NL = "IQ4_NL"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q4_K = "Q4_K"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"

    @property
    def number(self) -> int:
        """Return its number in files (``enum ggml_type``)."""
        return _LAYOUTS[self].number

    @property
    def inputs(self) -> int:
        """Return how many inputs a block has."""
        return _LAYOUTS[self].inputs

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per weight, with scales and minima."""
        return 8 * _LAYOUTS[self].bytes / _LAYOUTS[self].inputs

    def row_bytes(self, inputs: int) -> int:
        """Return the bytes of a row of so many inputs, a multiple of a block's."""
        return inputs // _LAYOUTS[self].inputs * _LAYOUTS[self].bytes


_LAYOUTS = {
    BlockType.Q2_K: _Layout(10, 256, 84),
    BlockType.Q3_K: _Layout(11, 256, 110),
    BlockType.IQ4_XS: _Layout(23, 256, 136),
    BlockType.IQ4_NL: _Layout(20, 32, 18),
    BlockType.Q4_0: _Layout(2, 32, 18),
    BlockType.Q4_1: _Layout(3, 32, 20),
    BlockType.Q4_K: _Layout(12, 256, 144),
    BlockType.Q5_0: _Layout(6, 32, 22),
    BlockType.Q5_1: _Layout(7, 32, 24),
    BlockType.Q5_K: _Layout(13, 256, 176),
    BlockType.Q6_K: _Layout(14, 256, 210),
    BlockType.Q8_0: _Layout(8, 32, 34),
}
SMALLEST_BLOCK = 32

_NARROW = {
    BlockType.Q2_K: BlockType.Q4_0,
    BlockType.Q3_K: BlockType.Q4_0,
    BlockType.IQ4_XS: BlockType.IQ4_NL,
    BlockType.Q4_K: BlockType.Q5_0,
    BlockType.Q5_K: BlockType.Q5_1,
    BlockType.Q6_K: BlockType.Q8_0,
}
"""What takes the place of a type of 256 inputs in rows that are no multiple of it."""


class Preset(StrEnum):
    """A mixture of types, as ``llama-quantize`` names it."""

    Q2_K = "Q2_K"
    Q3_K_S = "Q3_K_S"
    Q3_K_M = "Q3_K_M"
    Q3_K_L = "Q3_K_L"
    IQ4_XS = "IQ4_XS"
    IQ4_NL = "IQ4_NL"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q4_K_S = "Q4_K_S"
    Q4_K_M = "Q4_K_M"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q5_K_S = "Q5_K_S"
    Q5_K_M = "Q5_K_M"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"

    @property
    def base(self) -> BlockType:
        """Return the type of most matrices."""
        return BlockType("_".join(self.split("_")[:2]))


GRID_PREFIX = "gguf:"


class Shape(NamedTuple):
    """What of a model decides the mixture, besides the names and shapes of its matrices."""

    layers: int
    heads_per_kv_head: int


def shape_of(config: Any) -> Shape:
    """Return what decides the mixture of a config of transformers, or of its dictionary."""
    about = config if isinstance(config, Mapping) else vars(config)
    heads = about["num_attention_heads"]
    return Shape(about["num_hidden_layers"], heads // (about.get("num_key_value_heads") or heads))


def mixture(
    preset: Preset, matrices: Mapping[str, tuple[int, int]], shape: Shape, *, has_imatrix: bool
) -> dict[str, BlockType]:
    """Return the type of each matrix.

    Args:
        preset: the mixture.
        matrices: ``(out, in)`` by transformers' full names: the linears of the blocks, the embedding, and the head unless it is tied;
            every ``in`` a multiple of :data:`SMALLEST_BLOCK`.
        shape: of the model.
        has_imatrix: whether activations weigh the rounding; some types depend on it.
    """
    is_tied = not any(_role(name) == "lm_head" for name in matrices)
    types = {}
    for name, (_, inputs) in matrices.items():
        role = _role(name)
        if role == "lm_head" or (role == "embed_tokens" and is_tied):
            kind = _head_type(preset.base, inputs)
        elif role == "embed_tokens":
            kind = preset.base
        else:
            layer = next(int(part) for part in name.split(".") if part.isdigit())
            kind = _block_type(preset, role, _Place(layer, shape, has_imatrix))
        types[name] = _NARROW[kind] if inputs % kind.inputs else kind
    return types


def _role(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _head_type(base: BlockType, inputs: int) -> BlockType:
    return BlockType.Q8_0 if base is BlockType.Q8_0 or inputs % base.inputs else BlockType.Q6_K


class _Place(NamedTuple):
    """What decides the type of a linear of a block, besides its role and the preset."""

    layer: int
    shape: Shape
    has_imatrix: bool

    def is_early(self) -> bool:
        """Return whether it is in the first eighth of the layers."""
        return self.layer < self.shape.layers // 8

    def is_sensitive(self) -> bool:
        """Return whether it is in the first or the last eighth, or in every third layer between."""
        eighth = self.shape.layers // 8
        return self.is_early() or self.layer >= 7 * self.shape.layers // 8 or (self.layer - eighth) % 3 == 2


def _always(_: _Place) -> bool:
    return True


def _shares_keys(place: _Place) -> bool:
    return place.shape.heads_per_kv_head >= 4


def _is_early_with_imatrix(place: _Place) -> bool:
    return place.is_early() and place.has_imatrix


def _is_early_without_imatrix(place: _Place) -> bool:
    return place.is_early() and not place.has_imatrix


_V, _O, _DOWN = {"v_proj", "qkv_proj"}, {"o_proj"}, {"down_proj"}
_IQ4 = {Preset.IQ4_NL, Preset.IQ4_XS}
_RULES: tuple[tuple[set[str], set[Preset], Callable[[_Place], bool], BlockType], ...] = (
    (_V, {Preset.Q2_K}, _shares_keys, BlockType.Q4_K),
    (_V | _O | _DOWN, {Preset.Q2_K}, _always, BlockType.Q3_K),
    (_V, {Preset.Q3_K_M}, lambda place: place.layer < 2, BlockType.Q5_K),
    (_DOWN, {Preset.Q3_K_M}, lambda place: place.layer < place.shape.layers // 16, BlockType.Q5_K),
    (_V | _O | _DOWN, {Preset.Q3_K_M}, _always, BlockType.Q4_K),
    (_V | _O | _DOWN, {Preset.Q3_K_L}, _always, BlockType.Q5_K),
    (_V, _IQ4, _shares_keys, BlockType.Q5_K),
    (_DOWN, _IQ4, _is_early_without_imatrix, BlockType.Q5_K),
    (_V, {Preset.Q4_K_S}, lambda place: place.layer < 4, BlockType.Q5_K),
    (_DOWN, {Preset.Q4_K_S}, _Place.is_early, BlockType.Q5_K),
    (_V | _DOWN, {Preset.Q4_K_M, Preset.Q5_K_M}, _Place.is_sensitive, BlockType.Q6_K),
    (_DOWN, {Preset.Q4_0}, _is_early_with_imatrix, BlockType.Q4_1),
    (_DOWN, {Preset.Q5_0}, _is_early_with_imatrix, BlockType.Q5_1),
)
"""Which linears of a block have another type than the preset's base; the first row that fits counts."""


def _block_type(preset: Preset, role: str, place: _Place) -> BlockType:
    for roles, presets, fits, kind in _RULES:
        if role in roles and preset in presets and fits(place):
            return kind
    return preset.base
