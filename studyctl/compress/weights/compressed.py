"""What a method sees of a block, what it makes of a linear, and what the walker makes of a model."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from studyctl.compress.quantize.grid import codes_of
from studyctl.compress.walk.activations import Activations
from studyctl.compress.walk.architectures import Absorber, Block
from studyctl.compress.walk.statistics import Statistics
from studyctl.compress.weights.blocks import Blocks
from studyctl.contract.gguf import BlockType
from studyctl.contract.methods import MethodSettings
from studyctl.reporter import Reporter, SilentReporter


def stacked(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return weights ``[out, in]`` stacked to fp32 ``[out of all, in]``: a copy, which may be changed."""
    return torch.cat(weights, out=torch.empty(0, dtype=torch.float32, device=weights[0].device))


class CompressedLinear(NamedTuple):
    """The compressed weight of one linear; with scales and zero points if it lies on a grid, or in blocks of llama.cpp.

    On a grid ``weight`` is exactly ``grid.dequantize(codes, scales, zero_point, groups)``, whether codes are held or not; in blocks
    it is ``blocks.values()``, rounded to the model's dtype.
    """

    weight: torch.Tensor
    """``[out, in]``, the model's dtype."""
    codes: torch.Tensor | None = None
    """``[out, in]``, uint8; None: no grid, or :meth:`all_codes` recovers them from the weight."""
    scales: torch.Tensor | None = None
    """``[out, groups]``, the model's dtype."""
    zero_point: torch.Tensor | None = None
    """``[out, groups]``, uint8: the code of 0."""
    groups: torch.Tensor | None = None
    """``[in]``, int32: the group of every input; None where groups are consecutive inputs."""
    blocks: Blocks | None = None

    def all_codes(self) -> torch.Tensor:
        """Return the codes ``[out, in]``, uint8, of a weight on a grid."""
        if self.codes is not None:
            return self.codes
        assert self.scales is not None  # the weight lies on a grid
        assert self.zero_point is not None
        return codes_of(self.weight, self.scales, self.zero_point, self.groups)

    def with_weight(self, weight: torch.Tensor) -> "CompressedLinear":
        """Return a copy with this tensor of the same values, such as the model's own, as weight, and all else on its device."""
        codes, scales, zero_point, groups = (
            None if part is None else part.to(weight.device)
            for part in (self.codes, self.scales, self.zero_point, self.groups)
        )
        return CompressedLinear(weight, codes, scales, zero_point, groups, self.blocks)


@dataclass(frozen=True)
class LinearGroup:
    """What a method sees of linears that receive the same input."""

    names: tuple[str, ...]
    """Full names, such as ``model.layers.0.self_attn.q_proj``."""
    weights: tuple[torch.Tensor, ...]
    """Each ``[out, in]`` with one common ``in``; not to be changed."""
    statistics: Statistics | None
    """Of the input; None for methods that need no data, and for an expert that no token reached."""
    dtype: torch.dtype
    """In which compressed weights and scales are stored; ``weights`` may have a wider one."""
    absorber: Absorber | None = None
    """What can absorb a scale of the input; None if no module can do that exactly."""
    experts: tuple[str, ...] = ()
    """For an expert's linears: their names with ``*`` in place of its number."""
    dense: tuple[torch.Tensor, ...] | None = None
    """The weights that errors are measured against; None: ``weights``."""
    seed: int = 0
    """For methods that draw at random: of the trial and of these linears, below 2**63."""
    kinds: tuple[BlockType, ...] = ()
    """Of llama.cpp's blocks, for methods that round to them: one for each linear."""
    reporter: Reporter = field(default_factory=SilentReporter)
    """Gets warnings about these linears."""

    @property
    def hessian(self) -> torch.Tensor:
        """H of the input, ``[in, in]``, for a method whose statistics include it."""
        assert self.statistics is not None
        assert self.statistics.hessian is not None
        return self.statistics.hessian


@dataclass(frozen=True)
class BlockInput:
    """What a method sees of a block before its linears are compressed."""

    block: Block
    linear_groups: tuple[LinearGroup, ...]
    """All of the block's, in the order of computation."""
    activations: Activations
    """The inputs of the dense block."""
    reporter: Reporter


@dataclass(frozen=True)
class PreparedBlock:
    """A block's linear groups as a method has changed them before they are compressed."""

    linear_groups: tuple[LinearGroup, ...]
    parameters: dict[str, torch.Tensor]
    """New values of other parameters of the block, by full name."""


@dataclass(frozen=True)
class Compressed:
    """All compressed linears of a model, by full name in the model's order.

    Each ``weight`` shares its memory with the model's parameter: there is no second copy, and changing the model later
    changes it as well.
    """

    settings: MethodSettings
    linears: dict[str, CompressedLinear]
    """Those of the decoder blocks; of a method that changes them, embedding and head as well."""
    bits_per_weight: float
    """Mean over the weights of the blocks, with masks, scales and zero points; what is in no linear counts as dense."""
    sparsity: float
    """Fraction of the weights of the blocks that are exactly 0."""
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    """Other parameters of the blocks that changed, by full name: norms and biases that absorbed scales."""
