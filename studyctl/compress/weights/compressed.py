"""What a method sees of a block, what it makes of a linear, and what the walker makes of a model."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from studyctl.compress.quantize.grid import codes_come_back, codes_of
from studyctl.compress.walk.activations import Activations
from studyctl.compress.walk.architectures import Absorber, Block
from studyctl.compress.walk.statistics import Statistics
from studyctl.contract.methods import MethodSettings, Quantization
from studyctl.reporter import Reporter, SilentReporter


def stacked(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return weights ``[out, in]`` under one another, fp32 ``[out of all, in]``: new memory, to be changed at will."""
    return torch.cat(weights, out=torch.empty(0, dtype=torch.float32, device=weights[0].device))


class CompressedLinear(NamedTuple):
    """The compressed weight of one linear; scales and zeros only where it lies on a grid.

    There ``weight`` is exactly ``grid.dequantize(codes, scales, zeros, groups)``, whether codes are held or not.
    """

    weight: torch.Tensor
    """``[out, in]``, the model's dtype."""
    codes: torch.Tensor | None = None
    """``[out, in]``, uint8; None: no grid, or :meth:`all_codes` gives them back."""
    scales: torch.Tensor | None = None
    """``[out, groups]``, the model's dtype."""
    zeros: torch.Tensor | None = None
    """``[out, groups]``, uint8: the code of 0."""
    groups: torch.Tensor | None = None
    """``[in]``, int32: the group of every input; None where groups are consecutive inputs."""

    def all_codes(self) -> torch.Tensor:
        """Return the codes ``[out, in]``, uint8, of a weight on a grid."""
        if self.codes is not None:
            return self.codes
        assert self.scales is not None  # of a weight on a grid
        assert self.zeros is not None
        return codes_of(self.weight, self.scales, self.zeros, self.groups)


class GridRoom:
    """Where scales and zeros of all linears are until the last block is done, with the model.

    Each has one room that is made before the walk: pieces that stay would lie scattered over the heap, with the holes between
    them too small for what the next block needs.
    """

    def __init__(self, linears: Collection[nn.Linear], settings: MethodSettings) -> None:
        weight = next(iter(linears)).weight
        self._settings = settings
        numbers = 0
        if isinstance(settings, Quantization):
            numbers = sum(
                one.out_features * (one.in_features // (settings.group_size or one.in_features))
                for one in linears
            )
        self._scales = torch.empty(numbers, dtype=weight.dtype, device=weight.device)
        self._zeros = torch.empty(numbers, dtype=torch.uint8, device=weight.device)
        self._used = 0

    def hold(self, result: CompressedLinear) -> CompressedLinear:
        """Return the result with all but its weight here, and without its codes where the weight gives them back."""
        weight, codes, scales, zeros, groups = result
        if scales is None or zeros is None:
            return result
        assert isinstance(self._settings, Quantization)  # only that makes grids
        if codes_come_back(self._settings.bits, weight.dtype):
            codes = None
        span = slice(self._used, self._used + scales.numel())
        self._used = span.stop
        home = self._scales.device
        return CompressedLinear(
            weight,
            None if codes is None else codes.to(home),
            self._scales[span].view(scales.shape).copy_(scales),
            self._zeros[span].view(zeros.shape).copy_(zeros),
            None if groups is None else groups.to(home),
        )


@dataclass(frozen=True)
class StageInput:
    """What a method sees of a stage: linears that receive the same input."""

    names: tuple[str, ...]
    """Full names, such as ``model.layers.0.self_attn.q_proj``."""
    weights: tuple[torch.Tensor, ...]
    """Each ``[out, in]`` with one common ``in``; not to be changed."""
    statistics: Statistics | None
    """Of the stage's input; None for methods that need no data."""
    dtype: torch.dtype
    """In which compressed weights and scales are stored; weights may come in a wider one."""
    dense: tuple[torch.Tensor, ...] | None = None
    """What errors are measured against, where that is not ``weights``."""
    reporter: Reporter = field(default_factory=SilentReporter)
    """Told what a user should know of this stage."""

    @property
    def hessian(self) -> torch.Tensor:
        """H of the input, ``[in, in]``, where the method asked for it."""
        assert self.statistics is not None
        assert self.statistics.hessian is not None
        return self.statistics.hessian


@dataclass(frozen=True)
class BlockInput:
    """What a method sees of a block before its stages are compressed."""

    block: Block
    stages: tuple[StageInput, ...]
    """All of the block's, in the order of computation."""
    absorbers: tuple[Absorber | None, ...]
    """For each stage, the module that can take over a scale of its inputs; None where that is not exact."""
    activations: Activations
    """The inputs of the dense block."""
    reporter: Reporter


@dataclass(frozen=True)
class PreparedBlock:
    """Stages with what a method did to them before they are compressed."""

    stages: tuple[StageInput, ...]
    parameters: dict[str, torch.Tensor]
    """New values of other parameters of the block, by full name."""


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
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    """Other parameters of the blocks that changed, by full name: norms and biases that absorbed scales."""
