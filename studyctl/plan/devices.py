"""The devices that a study runs on and their speed, found without importing torch: those of this machine, or of a profile's workers."""

import os
import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from studyctl.errors import SpecError
from studyctl.gpus import torch_can_use_gpus, visible_gpus
from studyctl.sources.dtypes import resolve_dtype
from studyctl.spec.profiles import Profile


@dataclass(frozen=True, slots=True)
class Place:
    """Where the workers of a study run, as far as its plan depends on it."""

    devices: list[str]
    """One worker each: ``cpu``, ``cuda:0`` ...; a cluster's workers each see one GPU, ``cuda:0``."""
    dtype: str | None = None
    """What ``auto`` means there; None: what this machine's processors say."""
    threads: int | None = None
    """Of a worker; None: they share the cores of this machine."""
    host_bytes: int | None = None
    """Memory of a worker; None: they share that of this machine."""
    device_bytes: int | None = None
    """Memory of a GPU; None: not said."""
    seconds: float | None = None
    """How long a worker may live; None: no limit is set."""

    @property
    def is_cluster(self) -> bool:
        """Return whether the workers are elsewhere, as a profile says."""
        return self.threads is not None

    def dtype_of(self, dtype: str) -> str:
        """Return the dtype that one of a spec means here."""
        if dtype == "auto" and self.dtype is not None:
            return self.dtype
        return resolve_dtype(dtype, self.devices[0] if self.devices else "cpu")


def place_of(profile: Profile) -> Place:
    """Return where a profile's workers run: the same on every machine that plans for them."""
    worker = profile.worker
    on_gpu = worker.device == "cuda"
    return Place(
        devices=["cuda:0" if on_gpu else "cpu"] * profile.max_workers,
        dtype=worker.dtype or ("bfloat16" if on_gpu else "float32"),
        threads=worker.cpus,
        host_bytes=worker.memory,
        device_bytes=worker.gpu_memory if on_gpu else None,
        seconds=worker.time,
    )


def resolve_devices(devices: str | tuple[str, ...]) -> list[str]:
    """Return the devices that ``execution.devices`` means on this machine, one worker each; ``cpu`` may be named several times.

    Raises:
        SpecError: a GPU is asked for that this machine does not have, or twice.
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
    if twice := next((name for name in names if name != "cpu" and names.count(name) > 1), ""):
        raise SpecError(f"device `{twice}` is named twice: a GPU has one worker", hint="name each GPU once")
    return names


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
