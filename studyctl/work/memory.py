"""Memory of this process: what it gives back and its peak; and processes that were killed for memory, as the kernel accounts them."""

import ctypes
import platform
import resource
import sys
from pathlib import Path

from studyctl.contract.limits import HEAP_TENSOR_BYTES

OUT_OF_MEMORY_HINT = "fewer or shorter calibration windows, a smaller model, or more memory"
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``, as malloc.h has them."""
_HEAP_SPARE_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Let tensors of up to 32 MiB reuse the memory of freed ones; nothing happens where the C library is not glibc.

    A block's activations are a few MiB each. By default glibc gives such memory back to the system as soon as it is free, and
    the next tensor has it page by page again, thousands of page faults an operation.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, HEAP_TENSOR_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _HEAP_SPARE_BYTES)


def reset_peak() -> None:
    """Give back what is free, and begin a new measurement of the peak.

    Threads that load a model leave free memory in heaps of their own, which nothing that comes later can use. Elsewhere than on
    Linux the peak since the process began is all there is.
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the largest resident memory since :func:`reset_peak`, in bytes."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def kernel_oom_kills() -> int:
    """Return how many processes the kernel has killed for memory so far (0 where it does not say)."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0
