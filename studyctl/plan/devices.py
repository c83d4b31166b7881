"""The devices that a study runs on and their speed, found without importing torch."""

import os
import time
from functools import cache

import numpy as np

from studyctl.errors import SpecError
from studyctl.gpus import torch_can_use_gpus, visible_gpus


def resolve_devices(devices: str | tuple[str, ...]) -> list[str]:
    """Return the devices that ``execution.devices`` means on this machine, one worker each.

    Raises:
        SpecError: a GPU is asked for that this machine does not have.
    """
    names: list[str] = []
    for entry in (devices,) if isinstance(devices, str) else devices:
        for part in (piece.strip() for piece in entry.split(",")):
            if part == "auto":
                names += visible_gpus() or ["cpu"]
            else:
                names.append(f"cuda:{part}" if part.isdigit() else "cuda:0" if part == "cuda" else part)
    gpus = visible_gpus() if any(name.startswith("cuda") for name in names) else []
    for name in names:
        if name.startswith("cuda") and name not in gpus:
            raise SpecError(
                f"device `{name}` is not on this machine (GPUs found: {', '.join(gpus) or 'none'})",
                hint=_why_not(),
            )
    return list(dict.fromkeys(names))


def _why_not() -> str:
    if not torch_can_use_gpus():
        return "the torch that is installed is built for CPUs only"
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES is `{chosen}`: the GPUs that it names are counted from 0"
    return 'devices = "auto" uses what is available'


GPU_RATE = {"float32": 2e13, "bfloat16": 6e13, "float16": 6e13}
"""Operations per second of a data-centre GPU in a forward pass of a small model."""


@cache
def rate(device: str, dtype: str, hidden_size: int) -> float:
    """Return the floating point operations per second of a forward pass; on a CPU measured with matrix products for 0.1 s.

    The work between the products (norms, activations, attention's softmax) limits a core to about 10⁸ operations per second and hidden
    channel. It takes most of the time of a model with few channels. (Measured at 320 to 2,048, with AVX2 and AVX-512.)
    """
    if device.startswith("cuda"):
        return GPU_RATE[dtype]
    left, right = (np.random.default_rng(0).standard_normal((768, 768), dtype=np.float32) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < until:
        begun = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begun)
    products = 2 * 768**3 / best * (1 if dtype == "float32" else 2)
    between = 1e8 * (os.cpu_count() or 1) * max(500, hidden_size)
    return 1 / (1 / products + 1 / between)
