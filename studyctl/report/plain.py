"""Rows of results in JSON's types."""

import math
from datetime import datetime
from typing import Any, NamedTuple, cast


def plain(value: object) -> Any:
    """Return a value in JSON's types."""
    if isinstance(value, tuple):
        return {name: plain(item) for name, item in cast("NamedTuple", value)._asdict().items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat() + "Z"
    return None if isinstance(value, float) and not math.isfinite(value) else value
