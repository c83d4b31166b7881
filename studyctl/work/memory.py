"""Memory of this process, and how many processes of its control group the kernel killed for lack of memory."""

import ctypes
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

_HEAP_TENSOR_BYTES, _HEAP_SPARE_BYTES = 32 << 20, 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``, as malloc.h has them."""
OUT_OF_MEMORY_HINT = "fewer or shorter calibration windows, a smaller model, or more memory"


def keep_freed_memory() -> None:
    """Let tensors of up to 32 MiB reuse the memory of freed ones; does nothing without glibc.

    A block's activations are a few MiB each. By default glibc returns such memory to the system at once, and the next tensor gets
    it back page by page: compressing with GPTQ or SparseGPT then takes 15 % longer.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_TENSOR_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _HEAP_SPARE_BYTES)


def reset_peak() -> None:
    """Return free memory to the system, and start a new measurement of the peak.

    Threads that load a model leave free memory in their own heaps, which nothing can use later. The peak is reset only on
    Linux; elsewhere it is that since the process began.
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_bytes() -> int:
    """Return the largest resident memory since :func:`reset_peak`, in bytes."""
    peak_kib = _counter("/proc/self/status", "VmHWM:")
    if peak_kib is not None:
        return peak_kib * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class OomKills:
    """Counts the processes of a control group that the kernel kills for memory; where it has no group, those of the machine."""

    def __init__(self, pid: int | None = None) -> None:
        """Begin to count, in the group of a process; None: of this one."""
        self._file = _group_file(Path("/proc") / (str(pid) if pid is not None else "self") / "cgroup")
        self._before = self._kills()

    def count(self) -> int:
        """Return how many were killed since the beginning; 0 if the kernel does not say."""
        return self._kills() - self._before

    def _kills(self) -> int:
        return _counter(str(self._file), "oom_kill") or 0


def _group_file(membership: Path, root: Path = Path("/sys/fs/cgroup")) -> Path:
    """Return the file with the counter ``oom_kill`` of a process's group (of version 2 or 1), or of the whole machine.

    Another user's process that runs out of memory must not count, so the group's own counter comes first.

    Args:
        membership: ``/proc/<pid>/cgroup``, lines such as ``0::/user.slice`` and ``4:memory:/slurm/job_7``.
        root: where control groups are mounted.
    """
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                file = root / path.lstrip("/") / "memory.events"
            elif "memory" in kinds.split(","):
                file = root / "memory" / path.lstrip("/") / "memory.oom_control"
            else:
                continue
            if _counter(str(file), "oom_kill") is not None:
                return file
    return Path("/proc/vmstat")


def _counter(file: str, name: str) -> int | None:
    """Return the number after a name in a file of the kernel; None if there is none."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
