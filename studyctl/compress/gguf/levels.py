"""What llama.cpp's block types can hold: a block's weights are ``scale · level − minimum``.

Levels are consecutive integers, or the 16 values of a codebook (``kvalues_iq4nl`` in ``ggml-common.h``). In the types without
super-blocks scale and minimum are fp16. In a super-block of 256 inputs they are an integer of 4 to 8 bits times an fp16 number that its
8 or 16 blocks share.
"""

from dataclasses import dataclass

import numpy as np

from studyctl.contract.gguf import BlockType

CODEBOOK = np.array(
    (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), dtype=np.float32
)


@dataclass(frozen=True)
class Levels:
    """The levels of a type, and how its scales are stored."""

    low: int
    high: int
    inputs: int
    """Consecutive inputs with a scale of their own."""
    has_minimum: bool = False
    has_codebook: bool = False
    blocks: int = 1
    """With a scale of their own in what is stored together; 1: no super-block."""
    scale_low: int = 0
    """The smallest integer scale in a super-block."""
    scale_high: int = 0

    @property
    def span(self) -> int:
        """Return how many inputs are stored together."""
        return self.inputs * self.blocks


LEVELS = {
    BlockType.Q4_0: Levels(-8, 7, 32),
    BlockType.Q5_0: Levels(-16, 15, 32),
    BlockType.Q8_0: Levels(-127, 127, 32),
    BlockType.Q4_1: Levels(0, 15, 32, has_minimum=True),
    BlockType.Q5_1: Levels(0, 31, 32, has_minimum=True),
    BlockType.IQ4_NL: Levels(-127, 113, 32, has_codebook=True),
    BlockType.IQ4_XS: Levels(-127, 113, 32, has_codebook=True, blocks=8, scale_low=-32, scale_high=31),
    BlockType.Q2_K: Levels(0, 3, 16, has_minimum=True, blocks=16, scale_high=15),
    BlockType.Q3_K: Levels(-4, 3, 16, blocks=16, scale_low=-32, scale_high=31),
    BlockType.Q4_K: Levels(0, 15, 32, has_minimum=True, blocks=8, scale_high=63),
    BlockType.Q5_K: Levels(0, 31, 32, has_minimum=True, blocks=8, scale_high=63),
    BlockType.Q6_K: Levels(-32, 31, 16, blocks=16, scale_low=-128, scale_high=127),
}
