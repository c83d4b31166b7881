"""The dtype for which ``auto`` stands on a device."""

import functools
from pathlib import Path

_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Of /proc/cpuinfo: x86 twice, then ARM."""


def resolve_dtype(dtype: str, device: str) -> str:
    """Return ``bfloat16``, ``float16`` or ``float32``; ``auto`` is bfloat16 if the device computes it natively, else float32.

    Every CUDA device is assumed to do so: for GPUs older than 2020, which do not, set the dtype in the spec.

    Args:
        dtype: of the spec.
        device: ``cpu``, ``cuda:0`` ...
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") or cpu_computes_bfloat16() else "float32"


@functools.cache
def cpu_computes_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 natively."""
    if not cpuinfo.is_file():
        return False  # also on macOS: M1 does not, later processors do, and no file says which one this is
    lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    flags = (
        line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))
    )
    return not _CPU_FLAGS.isdisjoint(next(flags, []))
