"""Recognising errors of memory."""

import torch

_CPU_ALLOCATOR = ("not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device or the host has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator has no exception of its own, and different messages on Windows and Linux.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR)
