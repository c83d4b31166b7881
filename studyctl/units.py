"""Durations, sizes and counts as people read them."""


def duration_text(seconds: float) -> str:
    """Return ``3.2 s``, ``42 s``, ``3 min 12 s``, ``1 h 50 min`` or ``2 d 3 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def bytes_text(count: float) -> str:
    """Return ``512 B``, ``3.2 MiB``, ``12 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024 or unit == "TiB":
            break
    return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"


def count_text(count: int, noun: str) -> str:
    """Return ``1 trial``, ``1,200 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
