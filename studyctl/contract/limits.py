"""How much is computed at a time: what bounds memory, and what a plan predicts it from."""

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
HEAP_TENSOR_BYTES = 32 << 20
"""A worker keeps the memory of freed tensors of up to this size: no more is possible with glibc."""


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
