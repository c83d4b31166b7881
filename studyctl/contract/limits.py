"""How much is computed at a time. It bounds memory, and a plan estimates memory from it."""

from collections.abc import Iterator

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass that a trial begins with; halved when memory runs out."""
CALIBRATION_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that pass through a block at once while it is compressed: on a CPU fewer are as fast, and take less memory."""
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits of a text that are computed at a time: what fits a cache, or keeps a GPU busy."""
MIN_CHUNK_TOKENS = 256
"""Fewer make products with a large head slow."""
SAMPLE_TOKENS = 256
"""Most tokens that output errors are computed from, up to rounding."""
SAMPLE_PART = 16
"""With few calibration tokens, errors are computed from a 16th of them: more would cost a good part of a pass."""
LEAST_SAMPLE_TOKENS = 64
"""But from at least so many, if there are."""
HESSIAN_TILE = 192
"""A Hessian is symmetric: only what lies right of the beginning of such a strip of inputs is computed."""
KEPT_BYTES = 48 << 20
"""What is kept at most of the inputs of an MLP's last linear, so that the MLP need not run again for the next block's inputs. They
are 2.5 to 8 times as wide as a block's inputs: all of them would often be more than everything else together. What attention's last
linear took before comes on top, where that is needed no longer."""
ADDS_ATTENTION = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types whose blocks add what attention returns to their input, and use neither for anything else."""
ROW_BLOCK = 1 << 19
"""Weights that are tried or rounded at once: what does not fit a processor's cache is written and read again many times."""
HEAP_TENSOR_BYTES = 32 << 20
"""A worker keeps the memory of freed tensors of up to this size: no more is possible with glibc."""


def device_kind(device: str) -> str:
    """Return the key of the limits of a device: ``cpu`` or ``cuda``."""
    return "cuda" if device.startswith("cuda") else "cpu"


def batch_tokens(device: str) -> int:
    """Return the tokens of a forward pass on a device."""
    return BATCH_TOKENS[device_kind(device)]


def block_batch_tokens(device: str, batch: int | None = None) -> int:
    """Return the tokens that pass through a block at once while it is compressed; ``batch`` is the limit of a forward pass."""
    return min(CALIBRATION_TOKENS[device_kind(device)], batch_tokens(device) if batch is None else batch)


def chunk_tokens(vocabulary: int, device: str) -> int:
    """Return how many tokens of a text have logits at the same time."""
    return max(MIN_CHUNK_TOKENS, CHUNK_LOGITS[device_kind(device)] // vocabulary)


def kept_bytes(attention: int) -> int:
    """Return how much of the inputs of an MLP's last linear is kept at most.

    Args:
        attention: bytes of the inputs of attention's last linear, if these make room; else 0.
    """
    return KEPT_BYTES + attention


def row_parts(rows: int, inputs: int) -> Iterator[slice]:
    """Yield the rows of a linear that are tried or rounded at once, until that is all of them."""
    step = max(1, ROW_BLOCK // inputs)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def sample_step(tokens: int) -> int:
    """Return k: output errors are computed from every k-th of so many calibration tokens."""
    return max(1, tokens // min(SAMPLE_TOKENS, max(LEAST_SAMPLE_TOKENS, tokens // SAMPLE_PART)))
