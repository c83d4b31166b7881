"""What happens now, where the terminal has room: running steps with their pace, memory over time, latest results, warnings."""

from collections.abc import Iterator, Mapping, Sequence

from textual.content import Content
from textual.widgets import Static

from studyctl.contract.steps import StepId
from studyctl.report.effects import Form, effect
from studyctl.store.holder import Holder
from studyctl.store.live import LiveTrial, Pace
from studyctl.store.results import Finding, Standing
from studyctl.units import bytes_text, duration_text
from studyctl_tui.monitor.cells import position, short_variant, step_name
from studyctl_tui.shared.text import BARS, fit, wrapped
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.shared.view import View

MOST_RUNNING = 4
"""Running trials that are named; of more, the number."""
MOST_LATEST = 5
MOST_WARNINGS = 4
STYLES = {"done": "$success", "failed": "$error", "stopped": "$warning"}


class NowPane(Static):
    """Shows as many lines as it is allowed."""

    DEFAULT_CSS = "NowPane { height: auto; padding: 0 1; border-top: solid $panel; display: none; }"

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._room = (0, 0)
        self._view: View | None = None

    def fit(self, width: int, height: int) -> None:
        """Take note of the columns and lines that there are."""
        if self._room != (width, height):
            self._room = (width, height)
            self.draw(self._view)

    def draw(self, view: View | None) -> None:
        """Show a view."""
        self._view = view
        width, height = self._room
        lines = now_lines(view, width - 2)[: max(0, height - 1)] if view is not None else []
        content = Content("\n").join(lines)
        if content != self.content:
            self.update(content, layout=len(lines) != len(str(self.content).splitlines()))
        self.display = bool(lines)


def now_lines(view: View, width: int) -> list[Content]:
    """Return the lines of a view, what matters most first."""
    trials, lines = view.snapshot.trials, list[Content]()
    if view.snapshot.running and view.snapshot.runner is not None:
        lines += _running([trial for trial in trials if trial.state == "running"], width)
        lines += _memory(view.snapshot.runner, width)
    lines += _latest(trials, view.standings, width)
    lines += _warnings(view.warnings, width)
    return lines


def _running(trials: Sequence[LiveTrial], width: int) -> Iterator[Content]:
    for trial in trials[:MOST_RUNNING]:
        step = step_name(trial.step) if trial.step is not None else "starts"
        head = (
            f"{GLYPHS['running']} {short_variant(trial)}  {step} {position(trial.done, trial.total)}".rstrip()
        )
        yield Content.styled(fit(head, width).rstrip(), "$primary")
        if trial.pace is not None:
            yield Content.styled(fit(f"  {pace_text(trial.pace, trial.unit)}", width).rstrip(), "")
    if len(trials) > MOST_RUNNING:
        yield Content.styled(f"  and {len(trials) - MOST_RUNNING} more", "dim")


def pace_text(pace: Pace, unit: str) -> str:
    """Return ``for 18 s · 2.3 windows/s · 20 s to 24 s left``."""
    parts = [f"for {duration_text(pace.seconds)}"]
    if pace.rate is not None and pace.rate >= 1:
        parts.append(f"{pace.rate:.3g} {unit}/s")
    elif pace.rate is not None:
        parts.append(f"{duration_text(1 / pace.rate)} per {unit}")
    if pace.left is not None:
        least, most = map(duration_text, pace.left)
        parts.append(f"{least} left" if least == most else f"{least} to {most} left")
    return " · ".join(parts)


def _memory(runner: Holder, width: int) -> Iterator[Content]:
    """Return the memory of the runner's host and of its GPUs, with the run so far as a row of bars."""
    use, rows = runner.memory_use, list[tuple[str, str, tuple[int, ...], int]]()
    if runner.memory_bytes is not None:
        total = runner.memory_total_bytes or 0
        of = f" of {bytes_text(total)}" if total else ""
        rows.append(
            ("memory", f"{bytes_text(runner.memory_bytes)}{of}", use.memory_bytes if use else (), total)
        )
    if use is not None and any(use.device_bytes):
        now = sum(worker.device_bytes or 0 for worker in runner.workers)
        peak = max(use.device_bytes)
        rows.append(("GPUs", f"{bytes_text(now)}, peak {bytes_text(peak)}", use.device_bytes, peak))
    for label, text, values, most in rows:
        spans = f"{duration_text(len(values) * use.seconds)}" if use is not None and len(values) > 1 else ""
        room = width - len(f"{label:<7}{text}  {spans}") - 2
        yield Content.assemble(
            (f"{label:<7}", "dim"),
            text,
            ("  " + spark(values, most, room) + f" {spans}" if spans else "", "dim"),
        )


def spark(values: Sequence[int], most: int, width: int) -> str:
    """Return the newest values as bars, whose full height is ``most``."""
    steps = len(BARS) - 1
    return (
        "".join(BARS[min(steps, round(value / most * steps))] for value in values[-max(0, width) :])
        if most and width > 0
        else ""
    )


def _latest(trials: Sequence[LiveTrial], standings: Mapping[str, Standing], width: int) -> Iterator[Content]:
    ended = sorted(
        (trial for trial in trials if trial.at and trial.state in ("done", "failed")),
        key=lambda trial: trial.at or "",
        reverse=True,
    )
    if ended:
        yield Content.styled("latest (UTC)", "dim")
    for trial in ended[:MOST_LATEST]:
        at, glyph = (trial.at or "")[11:16], GLYPHS[trial.state]
        text = trial.error or "" if trial.state == "failed" else _figures(standings.get(trial.trial))
        name = short_variant(trial)
        line = fit(f"{name}  {' '.join(text.split())}", width - 8).rstrip()
        yield Content.assemble((f"{at} ", "dim"), (f"{glyph} ", STYLES[trial.state]), line)


def _figures(standing: Standing | None) -> str:
    if standing is None:
        return ""
    texts = [
        (label, effect(standing, name).text(Form.PLAIN).plain)
        for label, name in (("ppl ×", "ppl_ratio"), ("Δ acc", "acc_change"), ("KL", "kl_nats"))
        if getattr(standing, name) is not None
    ]
    return " · ".join(f"{label} {text}" for label, text in texts)


def _warnings(warnings: Sequence[Finding], width: int) -> Iterator[Content]:
    """Return the newest warnings; one that many trials have stands once."""
    by_message: dict[str, list[Finding]] = {}
    for finding in warnings:
        by_message.setdefault(finding.message, []).append(finding)
    if by_message:
        yield Content.styled("warnings", "dim")
    for message, same in list(by_message.items())[:MOST_WARNINGS]:
        newest, others = same[0], len(same) - 1
        step = f" {step_name(StepId.parse(newest.stage))}" if newest.stage else ""
        where = f"{newest.variant}{step}{f' and {others} more' if others else ''}"
        yield from wrapped(f"{where}: {message}", width, "! ", "$warning")
