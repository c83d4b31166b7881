"""The workers of a cluster and what waits, in few lines above the trials; nothing where all workers are on the runner's machine."""

from collections import Counter

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
    reasons = Counter(waiting.reason or "starts" for waiting in runner.waiting)
    parts += [f"{count} not there yet ({reason})" for reason, count in reasons.items()]
    lines = wrapped(on_one_line(" · ".join(parts)), width, LABEL, "")
    if len(lines) > MOST_LINES:
        busy, total = sum(bool(worker.trial) for worker in runner.workers), len(runner.workers)
        short = f"{total} workers, {busy} of them run a trial"
        if waiting := len(runner.waiting):
            short += f" · {waiting} not there yet ({next(iter(reasons))})"
        lines = wrapped(on_one_line(short), width, LABEL, "")[:MOST_LINES]
    return Content("\n").join(lines)
