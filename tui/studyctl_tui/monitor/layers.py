"""The page about layers: the error of every linear, block by block, as compression walks down the model."""

import math
from collections.abc import Iterable, Sequence

from textual.content import Content

from studyctl.contract.steps import StepKind
from studyctl.report import layout
from studyctl.store.live import TrialDetail
from studyctl.store.results import LayerResult
from studyctl_tui.monitor.pages import steps_of
from studyctl_tui.shared.text import BARS, fit

FIGURE = 7
"""Columns of a figure with its blank."""


def layers(detail: TrialDetail, width: int) -> tuple[list[Content], int | None]:
    """Return the lines, and the one that is new: the block that was compressed last, while that goes on."""
    rows = detail.layers
    live = next(iter(steps_of(detail, StepKind.COMPRESS)), None)
    if live is None:
        return [Content.styled("this trial compresses nothing", "dim")], None
    if not rows:
        text = "the first block is not through yet" if live.state == "running" else f"compress: {live.state}"
        return [Content.styled(text, "dim")], None
    blocks: dict[int, list[LayerResult]] = {}
    for row in rows:
        blocks.setdefault(row.block, []).append(row)
    names = list(dict.fromkeys(_short(row.linear) for row in rows))
    # What a full bar stands for: a power of two, so that bars rarely change as new blocks come.
    largest = _largest(rows)
    largest = 2.0 ** math.ceil(math.log2(largest)) if largest else 0.0
    with_figures = 6 + len(names) + FIGURE * len(names) <= width
    head = f"blk  {' '.join(names)}"
    if with_figures:
        head = f"blk  {fit('', len(names))} " + "".join(
            f"{fit(name, FIGURE - 1, right=True)} " for name in names
        )
    lines = [*_summary(blocks, largest, width), Content.styled(fit(head, width).rstrip(), "bold")]
    asked = detail.planned.settings.get("damping")
    for block, linears in blocks.items():
        line = _block(block, linears, names, largest, with_figures=with_figures)
        damping = max((row.damping for row in linears if row.damping is not None), default=0.0)
        if asked is not None and damping > asked:
            line += Content.styled(f" ! damping {damping:g}", "$warning")
        lines.append(line)
    newest = len(lines) - 1
    total = int(live.total) if live.total and live.unit.startswith("block") else 0
    lines += [Content.styled(f"{block:>3}  ·", "dim") for block in range(max(blocks) + 1, total)]
    return lines, newest if live.state == "running" else None


def _largest(rows: Iterable[LayerResult]) -> float:
    return max(filter(math.isfinite, (row.relative_error or 0.0 for row in rows)), default=0.0)


def _level(error: float | None, largest: float) -> str:
    """Return a bar of one character."""
    if error is None:
        return "–"
    if not math.isfinite(error):
        return "!"
    return BARS[min(7, math.ceil(error / largest * 8) - 1)] if error > 0 and largest else BARS[0]


def _summary(blocks: dict[int, list[LayerResult]], largest: float, width: int) -> list[Content]:
    """Return the worst linear, and the worst error of every block as a line of bars."""
    rows = [row for linears in blocks.values() for row in linears]
    measured = [row for row in rows if row.relative_error is not None and math.isfinite(row.relative_error)]
    if not measured:
        return [Content.styled("no error was measured", "dim")]
    worst = max(measured, key=lambda row: row.relative_error or 0.0)
    text = f"{layout.ratio(worst.relative_error)} at block {worst.block} {_short(worst.linear)}"
    peaks = [_largest(linears) for linears in blocks.values()]
    step = math.ceil(len(peaks) / max(1, width - 7))
    bars = "".join(_level(max(peaks[at : at + step]), largest) for at in range(0, len(peaks), step))
    return [
        Content.assemble("relative error, largest ", (text, "bold")),
        Content.assemble(("blocks ", "dim"), (bars, "$accent")),
    ]


def _short(linear: str) -> str:
    return linear.rsplit(".", 1)[-1].removesuffix("_proj")


def _block(
    block: int, linears: Sequence[LayerResult], names: Sequence[str], largest: float, *, with_figures: bool
) -> Content:
    """Return a block's line: a bar for each linear, then figures: of all where they fit, else of the largest."""
    # Experts share the ends of their names; the largest error of them speaks for all.
    by_name: dict[str, LayerResult] = {}
    for row in linears:
        name = _short(row.linear)
        if name not in by_name or (row.relative_error or 0.0) > (by_name[name].relative_error or 0.0):
            by_name[name] = row
    errors = [by_name[name].relative_error if name in by_name else None for name in names]
    bars = "".join(_level(error, largest) for error in errors)
    if with_figures:
        tail = " " + "".join(f"{layout.ratio(error).plain:>{FIGURE - 1}} " for error in errors)
    else:
        worst = max(linears, key=lambda row: row.relative_error or 0.0)
        tail = f"  {layout.ratio(worst.relative_error)} {_short(worst.linear)}"
    return Content.assemble((f"{block:>3}  ", "dim"), (bars, "$accent"), tail)
