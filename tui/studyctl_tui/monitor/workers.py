"""The workers of a cluster and what waits, in few lines above the trials; nothing where all workers are on the runner's machine."""

from textual.content import Content

from studyctl.printable import on_one_line
from studyctl.store.holder import Holder
from studyctl_tui.shared.text import wrapped
from studyctl_tui.shared.topbar import GLYPHS

MOST_LINES = 4
LABEL = "workers: "


def worker_lines(runner: Holder | None, width: int) -> Content:
    """Return the nodes with the trials of their workers, and how many workers wait with the scheduler's reason."""
    if runner is None or not (runner.waiting or any(worker.host for worker in runner.workers)):
        return Content()
    parts = []
    for worker in runner.workers:
        doing = f"{GLYPHS['running']} {worker.trial}" if worker.trial else "free"
        parts.append(f"{worker.host or runner.host} {doing}{', leaves' if worker.leaves else ''}")
    reasons = dict.fromkeys(waiting.reason or "starts" for waiting in runner.waiting)
    waits = [f"{len(runner.waiting)} not there yet ({', '.join(reasons)})"] if reasons else []
    lines = _lines([*parts, *waits], width)
    if len(lines) > MOST_LINES:
        busy, total = sum(bool(worker.trial) for worker in runner.workers), len(runner.workers)
        lines = _lines([f"{total} workers, {busy} of them run a trial", *waits], width)[:MOST_LINES]
    return Content("\n").join(lines)


def _lines(parts: list[str], width: int) -> list[Content]:
    """Return lines of parts; only a part that is longer than a line is broken."""
    rows: list[str] = []
    for part in map(on_one_line, parts):
        longer = f"{rows[-1]} · {part}" if rows else ""
        if rows and Content(longer).cell_length <= width - len(LABEL):
            rows[-1] = longer
        else:
            rows.append(part)
    heads = [LABEL, *[" " * len(LABEL)] * len(rows)]
    return [line for row, head in zip(rows, heads, strict=False) for line in wrapped(row, width, head, "")]
