"""How much is computed at a time: what bounds memory, and what a plan predicts it from."""

from collections.abc import Iterator

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass that a trial begins with; halved when memory does not suffice."""
CALIBRATION_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that pass through a block at once while it is compressed: on a CPU fewer are as fast, and take less memory."""
BATCH_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Most logits of a batch of task requests: HFLM has them all at once, in the model's dtype and again as fp32."""
MIN_SCORED_TOKENS = 512
"""Tokens of such a batch that a large vocabulary does not lower any further."""
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits of a text that are computed at a time: what fits a cache, or keeps a GPU busy."""
MIN_CHUNK_TOKENS = 256
"""Fewer make products with a large head slow."""
CHUNK_TENSORS = 6
"""fp32 tensors of a chunk of a text's logits that exist at once, those of the dense model included."""
SAMPLE_TOKENS = 256
"""Most tokens that output errors are told from, but for rounding."""
SAMPLE_PART = 16
"""Where calibration tokens are few, errors are told from a 16th of them: more would cost a good part of a pass."""
LEAST_SAMPLE_TOKENS = 64
"""But from so many, if there are."""
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
"""glibc may keep the memory of freed tensors of up to this size for the next ones."""


def device_kind(device: str) -> str:
    """Return what the limits of a device are found by: ``cpu`` or ``cuda``."""
    return "cuda" if device.startswith("cuda") else "cpu"


def batch_tokens(device: str) -> int:
    """Return the tokens of a forward pass on a device."""
    return BATCH_TOKENS[device_kind(device)]


def block_batch_tokens(device: str, batch: int | None = None) -> int:
    """Return the tokens that pass through a block while it is compressed, of ``batch`` that a forward pass may take."""
    return min(CALIBRATION_TOKENS[device_kind(device)], batch_tokens(device) if batch is None else batch)


def scored_tokens(vocabulary: int, device: str, tokens: int) -> int:
    """Return the tokens of a batch of task requests, of ``tokens`` that a forward pass may take."""
    return min(tokens, max(BATCH_LOGITS[device_kind(device)] // vocabulary, MIN_SCORED_TOKENS))


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
    """Return k: output errors are told from every k-th of so many calibration tokens."""
    return max(1, tokens // min(SAMPLE_TOKENS, max(LEAST_SAMPLE_TOKENS, tokens // SAMPLE_PART)))
