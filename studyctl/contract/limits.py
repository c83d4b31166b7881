"""How much is computed at a time. It bounds memory, and a plan estimates memory from it."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass that a trial begins with; halved when memory runs out."""
CALIBRATION_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that pass through a block at once while it is compressed: on a CPU fewer are as fast, and take less memory."""
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits of a text that are computed at a time: what fits a cache, or keeps a GPU busy."""
MIN_CHUNK_TOKENS = 256
"""Fewer make products with a large head slow."""
CHUNK_TENSORS = 6
"""fp32 tensors of a chunk of a text's logits that exist at once, those of the dense model included."""


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
