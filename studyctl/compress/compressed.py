"""What a method makes of a linear, and what the walker makes of a model."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from studyctl.compress.settings import MethodSettings
from studyctl.compress.statistics import Statistics


class CompressedLinear(NamedTuple):
    """The compressed weight of one linear; codes, scales and zeros only where it lies on a grid.

    With codes, ``weight`` is exactly ``grid.dequantize(codes, scales, zeros)``: rounded products do not give the
    codes back, so both are kept.
    """

    weight: torch.Tensor
    """``[out, in]``, the model's dtype."""
    codes: torch.Tensor | None = None
    """``[out, in]``, uint8."""
    scales: torch.Tensor | None = None
    """``[out, groups]``, the model's dtype."""
    zeros: torch.Tensor | None = None
    """``[out, groups]``, uint8: the code of 0."""


@dataclass(frozen=True)
class StageInput:
    """What a method sees of a stage: linears that receive the same input."""

    names: tuple[str, ...]
    """Full names, such as ``model.layers.0.self_attn.q_proj``."""
    weights: tuple[torch.Tensor, ...]
    """Each ``[out, in]`` with one common ``in``; not to be changed."""
    statistics: Statistics | None
    """Of the stage's input; None for methods that need no data."""


@dataclass(frozen=True)
class Compressed:
    """All compressed linears of a model, by full name in the model's order.

    Each ``weight`` shares its memory with the model's own parameter: there is no second copy, and a model that is
    changed afterwards changes it as well.
    """

    settings: MethodSettings
    linears: dict[str, CompressedLinear]
    bits_per_weight: float
    """Mean over the weights of all block linears, with masks, scales and zeros."""
    sparsity: float
    """Fraction of the weights of all block linears that are exactly 0."""
