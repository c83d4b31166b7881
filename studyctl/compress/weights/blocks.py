"""A matrix in llama.cpp's blocks."""

from typing import NamedTuple

import torch

from studyctl.compress.quantize.grid import row_parts
from studyctl.contract.gguf import BlockType


class Blocks(NamedTuple):
    """A matrix as a GGUF file holds it."""

    kind: BlockType
    data: torch.Tensor
    """``[out, bytes]``, uint8."""

    def values(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the weights ``[out, in]`` that every reader of the file computes in fp32, rounded to a dtype."""
        from gguf import GGMLQuantizationType, quants

        kind, data = GGMLQuantizationType[self.kind], self.data.cpu().numpy()
        inputs = data.shape[1] // self.kind.row_bytes(self.kind.inputs) * self.kind.inputs
        values = torch.empty(len(data), inputs, dtype=dtype)
        for part in row_parts(len(data), inputs):
            values[part] = torch.from_numpy(quants.dequantize(data[part], kind))
        return values.to(self.data.device)

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per weight, with scales and minima."""
        return self.kind.bits_per_weight
