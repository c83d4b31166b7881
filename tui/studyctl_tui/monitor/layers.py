"""The page about layers: the error of every linear, block by block, as compression walks down the model."""

import math
from collections.abc import Iterable, Mapping, Sequence

from textual.content import Content

from studyctl.contract.steps import StepKind
from studyctl.report import layout
from studyctl.store.live import LiveStep
from studyctl.store.results import LayerResult
from studyctl_tui.monitor.cells import fit
from studyctl_tui.monitor.pages import READING, Shown

BARS = "▁▂▃▄▅▆▇█"
FIGURE = 7
"""Columns of a figure with its blank."""


def layers(shown: Shown, width: int) -> tuple[list[Content], int | None]:
    """Return the lines, and the one that is new: the block that was compressed last, while that goes on."""
    if shown.detail is None:
        return [READING], None
    rows = shown.detail.layers
    live = next(iter(shown.steps(StepKind.COMPRESS)), None)
    if live is None:
        return [Content.styled("this trial compresses nothing", "dim")], None
    if not rows:
        said = "the first block is not through yet" if live.state == "running" else f"compress: {live.state}"
        return [Content.styled(said, "dim")], None
    blocks: dict[int, list[LayerResult]] = {}
    for row in rows:
        blocks.setdefault(row.block, []).append(row)
    lines = _summary(rows, blocks, width)
    names = _linears(rows)
    lines.append(Content.styled(fit(_head(names, width), width).rstrip(), "bold"))
    largest = _top(rows)
    asked = shown.detail.planned.settings.get("damping")
    lines += [
        _block(block, found, names, largest, width) + _raised(found, asked) for block, found in blocks.items()
    ]
    newest = len(lines) - 1
    lines += [Content.styled(f"{block:>3}  ·", "dim") for block in range(max(blocks) + 1, _total(live))]
    return lines, newest if live.state == "running" else None


def _total(live: LiveStep) -> int:
    """Return how many blocks will come, if the stage tells."""
    return int(live.total) if live.total and live.unit.startswith("block") else 0


def _largest(rows: Iterable[LayerResult]) -> float:
    return max(filter(math.isfinite, (row.relative_error or 0.0 for row in rows)), default=0.0)


def _top(rows: Iterable[LayerResult]) -> float:
    """Return what a full bar stands for: a power of two, so that bars rarely change as new blocks come."""
    largest = _largest(rows)
    return 2.0 ** math.ceil(math.log2(largest)) if largest else 0.0


def _level(error: float | None, largest: float) -> str:
    if error is None:
        return "–"
    if not math.isfinite(error):
        return "!"
    return BARS[min(7, math.ceil(error / largest * 8) - 1)] if error > 0 and largest else BARS[0]


def _summary(
    rows: Sequence[LayerResult], blocks: Mapping[int, list[LayerResult]], width: int
) -> list[Content]:
    """Return the worst linear, and the worst error of every block as a line of bars."""
    known = [row for row in rows if row.relative_error is not None and math.isfinite(row.relative_error)]
    if not known:
        return [Content.styled("no error was measured", "dim")]
    worst = max(known, key=lambda row: row.relative_error or 0.0)
    told = f"{layout.ratio(worst.relative_error)} at block {worst.block} {_short(worst.linear)}"
    largest = _top(rows)
    peaks = [_largest(found) for found in blocks.values()]
    step = math.ceil(len(peaks) / max(1, width - 7))
    drawn = "".join(_level(max(peaks[at : at + step]), largest) for at in range(0, len(peaks), step))
    return [
        Content.assemble("relative error, largest ", (told, "bold")),
        Content.assemble(("blocks ", "dim"), (drawn, "$accent")),
    ]


def _short(linear: str) -> str:
    return linear.rsplit(".", 1)[-1].removesuffix("_proj")


def _linears(rows: Iterable[LayerResult]) -> list[str]:
    """Return the linears of a block by the end of their names, in order."""
    return list(dict.fromkeys(_short(row.linear) for row in rows))


def _with_figures(names: Sequence[str], width: int) -> bool:
    return 6 + len(names) + FIGURE * len(names) <= width


def _head(names: Sequence[str], width: int) -> str:
    if _with_figures(names, width):
        return f"blk  {fit('', len(names))} " + "".join(
            fit(name, FIGURE - 1, right=True) + " " for name in names
        )
    return f"blk  {' '.join(names)}"


def _block(
    block: int, found: Sequence[LayerResult], names: Sequence[str], largest: float, width: int
) -> Content:
    """Return a block's line: a bar for each linear, then figures: of all where they fit, else of the largest."""
    # Experts share the ends of their names; the largest error of them speaks for all.
    by_name: dict[str, LayerResult] = {}
    for row in found:
        name = _short(row.linear)
        if name not in by_name or (row.relative_error or 0.0) > (by_name[name].relative_error or 0.0):
            by_name[name] = row
    errors = [by_name[name].relative_error if name in by_name else None for name in names]
    bars = "".join(_level(error, largest) for error in errors)
    if _with_figures(names, width):
        tail = " " + "".join(f"{layout.ratio(error).plain:>{FIGURE - 1}} " for error in errors)
    else:
        worst = max(found, key=lambda row: row.relative_error or 0.0)
        tail = f"  {layout.ratio(worst.relative_error)} {_short(worst.linear)}"
    return Content.assemble((f"{block:>3}  ", "dim"), (bars, "$accent"), tail)


def _raised(found: Iterable[LayerResult], asked: float | None) -> Content:
    """Return a note if a linear needed more damping than was asked for."""
    most = max((row.damping for row in found if row.damping is not None), default=0.0)
    if asked is None or most <= asked:
        return Content()
    return Content.styled(f" ! damping {most:g}", "$warning")
