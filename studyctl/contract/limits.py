"""How much is computed at a time, which bounds memory, and how much of a model may stay dense. The plan uses these limits too."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens per forward pass that a trial starts with; halved when memory runs out."""
CALIBRATION_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that pass through a block at once while it is compressed. On a CPU fewer are as fast, and take less memory."""
CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits of a text that are computed at a time: few enough for a CPU's cache, enough to keep a GPU busy."""
MIN_CHUNK_TOKENS = 256
"""With fewer, the matrix product with a large ``lm_head`` is slow."""
CHUNK_TENSORS = 6
"""fp32 tensors of the size of one chunk's logits that exist at once, those of the dense model included."""
LEFT_DENSE = 0.25
"""Up to this fraction of the blocks' weights may be in no linear: convolutions, routers, state matrices. They count as dense; a larger
part is a kind of linear that studyctl cannot compress."""


def device_kind(device: str) -> str:
    """Return the key of the limits of a device: ``cpu`` or ``cuda``."""
    return "cuda" if device.startswith("cuda") else "cpu"


def batch_tokens(device: str) -> int:
    """Return the tokens per forward pass that a trial on this device starts with."""
    return BATCH_TOKENS[device_kind(device)]


def block_batch_tokens(device: str, batch: int | None = None) -> int:
    """Return the tokens that pass through a block at once while it is compressed; ``batch``: tokens per forward pass."""
    return min(CALIBRATION_TOKENS[device_kind(device)], batch_tokens(device) if batch is None else batch)


def chunk_tokens(vocabulary: int, device: str) -> int:
    """Return for how many tokens of a text logits are computed at a time."""
    return max(MIN_CHUNK_TOKENS, CHUNK_LOGITS[device_kind(device)] // vocabulary)


LEAST_UNITS = 4
"""With fewer windows, items or passages there is no interval: they say too little about their spread."""
