"""Texts of exactly, or at most, so many cells."""

from rich.cells import cell_len, set_cell_size
from textual.content import Content

BARS = "▁▂▃▄▅▆▇█"
"""From the lowest to the full height of a cell."""


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return the text with exactly this many cells."""
    cells = len(text) if text.isascii() else cell_len(text)
    if cells > width:
        return set_cell_size(text, width - 1) + "…" if width else ""
    blank = " " * (width - cells)
    return blank + text if right else text + blank


def wrapped(text: str, width: int, head: str, style: str) -> list[Content]:
    """Wrap a text under a head; the lines after the first are indented."""
    pieces = Content(" ".join(text.split())).wrap(max(10, width - len(head)))
    indent = " " * len(head)
    return [
        Content.assemble((head if number == 0 else indent, style), (piece.plain.rstrip(), style))
        for number, piece in enumerate(pieces)
    ]
