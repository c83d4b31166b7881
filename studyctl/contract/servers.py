"""Which servers load a variant's exported folder, by the rules in their sources; llama.cpp's file is another matter.

vLLM's kernels for quantized weights, as of its release 0.20: Marlin on NVIDIA GPUs (``marlin_utils.py``, ``mixed_precision/marlin.py``) takes
4 bits with or without zero points and 8 bits without, in groups of 32, 64, 128 or a whole row; its kernel for CPUs (``mixed_precision/cpu.py``)
4 bits, with inputs and outputs in multiples of 32. A folder stores codes of 2 to 4 bits in 4 and of 5 to 8 in 8.
"""

from collections.abc import Collection
from enum import StrEnum

from studyctl.contract.methods import Checkpoint, MethodSettings, OnGguf, Quantization

LOADS = "loads"
UNPACKED = "loads, with its blocks unpacked to 16 bits"
MARLIN_GROUPS = (0, 32, 64, 128)
"""Inputs that share a scale; 0: a whole row."""
CPU_MULTIPLE = 32


class Server(StrEnum):
    """A program that serves an exported folder."""

    TRANSFORMERS = "transformers"
    VLLM_GPU = "vllm_gpu"
    VLLM_CPU = "vllm_cpu"


def loaded_by(settings: MethodSettings, shapes: Collection[tuple[int, int]]) -> dict[str, str]:
    """Return for each server :data:`LOADS`, or why it does not load a variant; empty for a checkpoint, which has files of its own.

    Args:
        settings: of the variant.
        shapes: ``(out, in)`` of the linears.
    """
    if isinstance(settings, Checkpoint):
        return {}
    if isinstance(settings, OnGguf):
        return dict.fromkeys(Server, UNPACKED)
    if not isinstance(settings, Quantization):
        return dict.fromkeys(Server, LOADS)
    width = stored_bits(settings.bits)
    on_cpu = []
    if width != 4:
        on_cpu.append(f"{width} bits as stored (4)")
    if odd := sorted({size for shape in shapes for size in shape if size % CPU_MULTIPLE}):
        on_cpu.append(
            f"linears of {', '.join(map(str, odd))} inputs or outputs (multiples of {CPU_MULTIPLE})"
        )
    gaps = {
        Server.TRANSFORMERS: [],
        Server.VLLM_GPU: marlin_gaps(width, settings.group_size, symmetric=settings.symmetric),
        Server.VLLM_CPU: on_cpu,
    }
    return {
        server: f"no kernel for {' and '.join(missing)}" if missing else LOADS
        for server, missing in gaps.items()
    }


def stored_bits(bits: int) -> int:
    """Return the bits that a code has in an exported folder."""
    return 4 if bits <= 4 else 8


def marlin_gaps(bits: int, group_size: int, *, symmetric: bool) -> list[str]:
    """Return what vLLM's kernel for GPUs does not do, each with what it does.

    Args:
        bits: of a code as stored.
        group_size: inputs that share a scale; 0: a whole row.
        symmetric: whether there are no zero points.
    """
    gaps = []
    if group_size not in MARLIN_GROUPS:
        gaps.append(f"groups of {group_size} (32, 64, 128 or a whole channel)")
    if bits == 8 and not symmetric:
        gaps.append("zero points at 8 bits (symmetric, or 4 bits)")
    return gaps
