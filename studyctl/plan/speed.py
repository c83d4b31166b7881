"""How fast this machine computes, without torch."""

import time
from functools import cache

import numpy as np

FORWARD_EFFICIENCY = 0.5
"""Share of the machine's matrix-product rate that a forward pass of a small model reaches."""
NATIVE_16_BIT = 2.0
"""How much faster than in float32 a CPU with native bfloat16 passes."""
GPU_RATE = {"float32": 2e13, "bfloat16": 6e13, "float16": 6e13}
"""Floating point operations a second of a data-centre GPU in a forward pass; replaced by measured times after one trial."""


def forward_rate(dtype: str, device: str) -> float:
    """Return operations a second of a forward pass."""
    return GPU_RATE[dtype] if device.startswith("cuda") else cpu_rate(dtype)


@cache
def cpu_rate(dtype: str) -> float:
    """Return operations a second of a forward pass on this CPU, from a matrix product of 0.1 s."""
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((768, 768), dtype=np.float32) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < until:
        begun = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begun)
    rate = 2 * 768**3 / best * FORWARD_EFFICIENCY
    return rate if dtype == "float32" else rate * NATIVE_16_BIT
