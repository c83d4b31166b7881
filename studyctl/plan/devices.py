"""Which devices a study runs on, found without importing torch."""

import time
from functools import cache

import numpy as np

from studyctl.errors import SpecError
from studyctl.gpus import visible_gpus


def resolve_devices(wanted: str | tuple[str, ...]) -> list[str]:
    """Return the devices that ``execution.devices`` means on this machine, one worker each.

    Raises:
        SpecError: a GPU is asked for that is not here.
    """
    names: list[str] = []
    for entry in (wanted,) if isinstance(wanted, str) else wanted:
        for part in (piece.strip() for piece in entry.split(",")):
            names += (visible_gpus() or ["cpu"]) if part == "auto" else [_full_name(part)]
    gpus = visible_gpus() if any(name.startswith("cuda") for name in names) else []
    for name in names:
        if name.startswith("cuda") and name not in gpus:
            found = ", ".join(gpus) or "none"
            raise SpecError(
                f"device `{name}` is not on this machine (GPUs found: {found})",
                hint='devices = "auto" takes what is there',
            )
    return list(dict.fromkeys(names))


def _full_name(part: str) -> str:
    if part == "cuda":
        return "cuda:0"
    return f"cuda:{part}" if part.isdigit() else part


GPU_RATE = {"float32": 2e13, "bfloat16": 6e13, "float16": 6e13}
"""Operations a second of a data-centre GPU in a forward pass of a small model."""


@cache
def rate(device: str, dtype: str) -> float:
    """Return floating point operations a second of a forward pass: on a CPU from matrix products for 0.1 s."""
    if device.startswith("cuda"):
        return GPU_RATE[dtype]
    left, right = (np.random.default_rng(0).standard_normal((768, 768), dtype=np.float32) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < until:
        begun = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begun)
    forward = 768**3 / best  # small models reach half of what a large product does
    return forward if dtype == "float32" else 2 * forward
