"""A matrix in llama.cpp's blocks."""

from typing import NamedTuple

import torch

from studyctl.contract.gguf import BlockType


class Blocks(NamedTuple):
    """A matrix as a GGUF file holds it."""

    kind: BlockType
    data: torch.Tensor
    """``[out, bytes]``, uint8."""

    def values(self) -> torch.Tensor:
        """Return the weights ``[out, in]`` that every reader of the file computes, fp32."""
        from gguf import GGMLQuantizationType, quants

        values = quants.dequantize(self.data.cpu().numpy(), GGMLQuantizationType[self.kind])
        return torch.from_numpy(values).to(self.data.device)

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per weight, with scales and minima."""
        return self.kind.bits_per_weight
