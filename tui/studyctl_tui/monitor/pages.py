"""The pages about one trial as lines of text: overview, languages, tasks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from textual.content import Content

from studyctl.contract.steps import StepId, StepKind
from studyctl.report import layout
from studyctl.store.live import LiveStep, LiveTrial, TrialDetail
from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl.units import bytes_text
from studyctl_tui.monitor.cells import bar, fit, position, short_model, short_variant, step_name
from studyctl_tui.shared.topbar import GLYPHS

STYLES = {
    "pending": "dim",
    "running": "$primary",
    "done": "$success",
    "failed": "$error",
    "stopped": "$warning",
}
READING = Content.styled("reading …", "dim")
STAGE_WIDTH = 38
"""Columns that a stage needs, so that two stand side by side where there is room."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of the selected trial; the details follow a moment after the selection."""

    trial: LiveTrial
    standing: Standing | None = None
    detail: TrialDetail | None = None

    def steps(self, kind: StepKind) -> list[LiveStep]:
        """Return the steps of a kind."""
        steps = self.detail.steps if self.detail is not None else ()
        return [one for one in steps if one.step.kind is kind]


# -- overview


def overview(shown: Shown, width: int) -> list[Content]:
    """Tell what a trial is, how it stands, and what went wrong."""
    detail = shown.detail
    lines = [_heading(shown), *_figures(shown.standing, width)]
    if shown.trial.error is not None:
        lines += failure(shown, width)
    if detail is None:
        return [*lines, READING]
    lines += _steps(detail.steps, width)
    for warning in detail.warnings:
        where = f"{step_name(StepId.parse(warning.stage))}: " if warning.stage else ""
        lines += wrapped(f"{where}{warning.message}", width, "! ", "$warning")
    lines.append(Content())
    lines += _attempts(detail)
    lines += _settings(detail, width)
    return lines


def _heading(shown: Shown) -> Content:
    trial = shown.trial
    return Content.assemble(
        (f"{GLYPHS[trial.state]} {trial.state}", f"bold {STYLES[trial.state]}"),
        ("  "),
        (short_variant(trial), "bold"),
        (f"  {short_model(trial.model)}", "dim"),
    )


def _figures(standing: Standing | None, width: int) -> list[Content]:
    """Return the figures of the leaderboard, as many on a line as fit."""
    if standing is None:
        return []
    parts = list(_told(standing))
    lines, line = [], ""
    for part in parts:
        if line and len(line) + len(part) + 3 > width:
            lines.append(Content(line))
            line = ""
        line += f" · {part}" if line else part
    return [*lines, Content(line)] if line else lines


def _told(standing: Standing) -> Iterator[str]:
    if standing.bits_per_weight is not None:
        yield f"{layout.fixed(standing.bits_per_weight, 2)} bits/weight"
    if standing.sparsity:
        yield f"sparsity {layout.fixed(standing.sparsity, 2)}"
    if standing.ppl_ratio is not None:
        worst = ""
        if standing.worst_language and standing.variant != "dense":
            worst = f" (worst {standing.worst_language} {layout.ratio(standing.worst_ppl_ratio, '×')})"
        yield f"ppl {layout.ratio(standing.ppl_ratio, '×')}{worst}"
    if standing.acc is not None:
        yield f"acc {layout.fixed(standing.acc, 3)} ({layout.change(standing.acc_change)})"
    if standing.kl_nats is not None:
        yield f"KL {layout.fixed(standing.kl_nats, 3)}"
    if standing.total_seconds is not None:
        yield layout.duration(standing.total_seconds).plain
    if standing.peak_memory_bytes is not None:
        yield f"peak {bytes_text(standing.peak_memory_bytes)}"


def failure(shown: Shown, width: int) -> list[Content]:
    """Tell why a trial failed and what to do."""
    trial = shown.trial
    where = f"{trial.step}: " if trial.step else ""
    lines = wrapped(f"{where}{trial.error}", width, f"{GLYPHS['failed']} ", "$error")
    if shown.detail is not None and shown.detail.hint:
        lines += wrapped(shown.detail.hint, width, "hint: ", "")
    return lines


def _steps(steps: Sequence[LiveStep], width: int) -> list[Content]:
    """Return the stages, reading down the columns."""
    across = max(1, width // STAGE_WIDTH)
    rows = math.ceil(len(steps) / across)
    column = width // across
    lines = []
    for row in range(rows):
        cells = [_step(one, column - 2) for one in steps[row::rows]]
        lines.append(Content("  ").join(cells))
    return lines


def _step(live: LiveStep, width: int) -> Content:
    """Return one stage: its seconds, or its bar."""
    glyph = (f"{GLYPHS[live.state]} ", STYLES[live.state])
    if live.state == "running" and (where := position(live.done, live.total)):
        where = f"{where} {live.unit}".strip()
        name = fit(step_name(live.step), min(14, max(6, width - len(where) - 10)))
        filled, rest = bar(live.done, live.total, max(0, width - 4 - len(name) - len(where)))
        return Content.assemble((glyph[0] + name + " " + filled, glyph[1]), f"{rest} {where}")
    right = layout.duration(live.seconds).plain if live.seconds is not None else live.state
    name = fit(step_name(live.step), width - 2 - max(10, len(right)))
    style = "" if live.seconds is not None else STYLES[live.state]
    return Content.assemble(glyph, name, (fit(right, max(10, len(right)), right=True), style))


def _attempts(detail: TrialDetail) -> list[Content]:
    lines = []
    for one in reversed(detail.attempts):
        started = one.started
        state = one.state_if(running=detail.trial.state == "running" and one is detail.attempts[-1])
        where = f"  {started.at[:16].replace('T', ' ')} UTC  {started.host} {started.device or ''}"
        lines.append(
            Content.assemble(
                (f"attempt {one.attempt} ", "dim"),
                (f"{GLYPHS[state]} {state}", STYLES[state]),
                (where, "dim"),
            )
        )
    return lines


def _settings(detail: TrialDetail, width: int) -> list[Content]:
    planned = detail.planned
    settings = {**planned.settings, "seed": planned.seed, "dtype": planned.dtype}
    told = " · ".join(f"{name} {_value(value)}" for name, value in settings.items() if value is not None)
    lines = wrapped(told, width, "settings ", "dim")
    if planned.calibration:
        chosen = planned.calibration.items()
        told = " · ".join(f"{name} {_value(value)}" for name, value in chosen if value is not None)
        lines += wrapped(told, width, "calibration ", "dim")
    return lines


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def wrapped(text: str, width: int, head: str, style: str) -> list[Content]:
    """Wrap a text under a head; the lines after the first are indented."""
    pieces = Content(" ".join(text.split())).wrap(max(10, width - len(head)))
    indent = " " * len(head)
    return [
        Content.assemble((head if number == 0 else indent, style), (piece.plain.rstrip(), style))
        for number, piece in enumerate(pieces)
    ]


# -- languages


def languages(shown: Shown, width: int) -> list[Content]:
    """Draw the perplexity of each language against dense: the thin part of a bar is dense, the thick part is on top."""
    if shown.detail is None:
        return [READING]
    measured = {row.language: row for row in shown.detail.languages}
    largest = max(filter(math.isfinite, (row.ppl_ratio or 0.0 for row in measured.values())), default=1.0)
    steps = {str(one.step.subject): one for one in shown.steps(StepKind.PERPLEXITY)}
    names = list(dict.fromkeys([*steps, *measured]))
    if not names:
        return [Content.styled("the spec asks for no perplexity", "dim")]
    label = max(4, *map(len, names))
    room = max(4, min(60, width - label - 35))
    head = f"{fit('', label)} {fit('dense ─ more ━', room)} {'ppl ×':>8} {'ppl':>8} {'dense':>8} {'KL':>6}"
    lines = [Content.styled(fit(head, width).rstrip(), "bold")]
    for name in names:
        if name in measured:
            lines.append(_language(measured[name], label, room, max(largest, 1.0)))
        else:
            lines.append(_waiting(name, steps[name], label, width))
    return lines


def _language(row: LanguageResult, label: int, room: int, largest: float) -> Content:
    ratio = row.ppl_ratio
    thin, thick = 0, 0
    if ratio is not None and math.isfinite(ratio):
        length = max(1, round(ratio / largest * room))
        thin = min(length, max(1, round(room / largest)))
        thick = length - thin
    elif ratio is not None:
        thick = room
    return Content.assemble(
        f"{fit(row.language, label)} {'─' * thin}",
        ("━" * thick, "$warning"),
        " " * (room - thin - thick),
        f" {layout.ratio(ratio).plain:>8} {layout.ratio(row.perplexity).plain:>8}",
        (f" {layout.ratio(row.dense_perplexity).plain:>8}", "dim"),
        f" {layout.fixed(row.kl_nats, 3).plain:>6}",
    )


def _waiting(name: str, live: LiveStep, label: int, width: int) -> Content:
    """Return the line of a stage without a figure yet."""
    text = f"{fit(name, label)} {GLYPHS[live.state]} {live.state} {position(live.done, live.total)}"
    return Content.styled(fit(text, width).rstrip(), STYLES[live.state])


# -- tasks


def tasks(shown: Shown, width: int) -> list[Content]:
    """Draw the accuracy of each task and its change: to the left it lost, to the right it won."""
    if shown.detail is None:
        return [READING]
    rows = shown.detail.tasks
    waiting = _unmeasured(shown.steps(StepKind.TASK), rows)
    if not rows and not waiting:
        return [Content.styled("the spec asks for no tasks", "dim")]
    longest = max([12, *(len(row.task) + len(_suffix(row)) for row in rows)])
    label = max(12, min(longest, width - 32, 36))
    with_flips = width - label >= 42
    half = max(3, min(12, (width - label - (36 if with_flips else 26)) // 2))
    largest = max((abs(row.change) for row in rows if row.change is not None), default=0.0)
    told = [_task(row, label, half, largest) + (_flips(row) if with_flips else "") for row in rows]
    head = _task_head(label, half) + (" flips" if with_flips else "")
    lines = [Content.styled(fit(head, width).rstrip(), "bold"), *told]
    lines += [_waiting(step_name(one.step), one, label, width) for one in waiting]
    if any(row.significant for row in rows):
        lines.append(Content.styled("* unlikely to be chance: paired McNemar test, p < 0.05", "dim"))
    return lines


def _unmeasured(steps: Iterable[LiveStep], rows: Sequence[TaskResult]) -> list[LiveStep]:
    known = {row.task for row in rows}
    return [one for one in steps if one.step.subject not in known and one.state != "done"]


def _task_head(label: int, half: int) -> str:
    lost, won = ("lost", "won") if half > 3 else ("−", "+")
    return f"{fit('task', label)} {'acc':>6} {'dense':>6} {'change':>7}   {lost:>{half}}│{won:<{half}}"


def _suffix(row: TaskResult) -> str:
    """Return what tells the metrics of a task apart."""
    return "" if row.main else f" {row.metric.removeprefix('acc_')}"


def _task(row: TaskResult, label: int, half: int, largest: float) -> Content:
    change = row.change or 0.0
    length = max(1, round(abs(change) / largest * half)) if change and largest else 0
    style = "" if not row.significant else "$error" if change < 0 else "$success"
    left = "━" * length if change < 0 else ""
    right = "━" * length if change > 0 else ""
    suffix = _suffix(row)
    name = fit(fit(row.task, min(len(row.task), label - len(suffix))) + suffix, label)
    return Content.assemble(
        f"{name} {layout.fixed(row.value, 3).plain:>6}",
        (f" {layout.fixed(row.dense_value, 3).plain:>6}", "dim"),
        (f" {layout.change(row.change).plain:>7} {'*' if row.significant else ' '} ", f"bold {style}" if style else ""),
        (f"{left:>{half}}", style), "│", (f"{right:<{half}}", style),
    )  # fmt: skip


def _flips(row: TaskResult) -> str:
    return "" if row.right_to_wrong is None else f" −{row.right_to_wrong} +{row.wrong_to_right}"
