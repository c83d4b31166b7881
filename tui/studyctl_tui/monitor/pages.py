"""The pages about one trial as lines of text: overview, languages, tasks."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from textual.content import Content

from studyctl.contract.steps import StepId, StepKind
from studyctl.report import layout
from studyctl.report.effects import Form, effect, legend
from studyctl.store.live import LiveStep, TrialDetail
from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl.units import bytes_text
from studyctl_tui.monitor.cells import NOTE, TrialView, bar, position, short_model, short_variant, step_name
from studyctl_tui.shared.text import fit, wrapped
from studyctl_tui.shared.topbar import GLYPHS

STYLES = {
    "pending": "dim",
    "running": "$primary",
    "done": "$success",
    "failed": "$error",
    "stopped": "$warning",
}
LEAST_BAR = 8
"""Characters of a bar that are not given up for intervals."""
READING = Content.styled("reading …", "dim")
STEP_WIDTH = 38
"""Characters that a step needs; a line has as many steps as fit."""


def steps_of(detail: TrialDetail, kind: StepKind) -> list[LiveStep]:
    """Return the steps of a kind."""
    return [live for live in detail.steps if live.step.kind is kind]


# -- overview


def overview(shown: TrialView, width: int) -> list[Content]:
    """Return what a trial is, its figures, and what went wrong."""
    trial, detail = shown.trial, shown.detail
    lines = [
        Content.assemble(
            (f"{GLYPHS[trial.state]} {trial.state}", f"bold {STYLES[trial.state]}"),
            "  ",
            (short_variant(trial), "bold"),
            (f"  {short_model(trial.model)}", "dim"),
        ),
        *_figures(shown.standing, width),
    ]
    if (note := shown.note) is not None:
        lines += wrapped(f"{note.text} ({note.by}, {note.at[:10]})", width, f"{NOTE} ", "")
    if trial.error is not None:
        where = f"{trial.step}: " if trial.step else ""
        lines += wrapped(f"{where}{trial.error}", width, f"{GLYPHS['failed']} ", "$error")
        if detail is not None and detail.hint:
            lines += wrapped(detail.hint, width, "hint: ", "")
    if detail is None:
        return [*lines, READING]
    lines += _steps(detail.steps, width)
    for warning in detail.warnings:
        where = f"{step_name(StepId.parse(warning.stage))}: " if warning.stage else ""
        lines += wrapped(f"{where}{warning.message}", width, "! ", "$warning")
    lines.append(Content())
    for attempt in reversed(detail.attempts):
        started = attempt.started
        is_last = attempt is detail.attempts[-1]
        state = attempt.state_if(running=detail.trial.state == "running" and is_last)
        where = f"  {started.at[:16].replace('T', ' ')} UTC  {started.host} {started.device or ''}"
        heading = Content.assemble(
            (f"attempt {attempt.attempt} ", "dim"),
            (f"{GLYPHS[state]} {state}", STYLES[state]),
            (where, "dim"),
        )
        lines.append(heading)
    planned = detail.planned
    settings = {**planned.settings, "seed": planned.seed, "dtype": planned.dtype}
    for head, values in (("settings ", settings), ("calibration ", planned.calibration)):
        if values:
            texts = [f"{name} {_value(value)}" for name, value in values.items() if value is not None]
            lines += wrapped(" · ".join(texts), width, head, "dim")
    return lines


def _figures(standing: Standing | None, width: int) -> list[Content]:
    """Return the figures of the leaderboard, as many on a line as fit."""
    lines: list[str] = []
    for text in _figure_texts(standing) if standing is not None else ():
        if lines and len(lines[-1]) + len(text) + 3 <= width:
            lines[-1] += f" · {text}"
        else:
            lines.append(text)
    return [Content(line) for line in lines]


def _figure_texts(standing: Standing) -> Iterator[str]:
    if standing.bits_per_weight is not None:
        yield f"{layout.fixed(standing.bits_per_weight, 2)} bits/weight"
    if standing.mib is not None:
        yield f"{layout.mib(standing.mib)} MiB" + (" as a GGUF file" if standing.file_mib is not None else "")
    if standing.sparsity:
        yield f"sparsity {layout.fixed(standing.sparsity, 2)}"
    if standing.ppl_ratio is not None:
        worst = ""
        if standing.worst_language and standing.variant != "dense":
            worst = f" (worst {standing.worst_language} {layout.change(standing.worst_bits_per_byte_change)} bits/byte)"
        yield f"ppl {effect(standing, 'ppl_ratio', '×').text()}{worst}"
    if standing.bits_per_byte_change is not None and standing.variant != "dense":
        yield f"bits/byte {effect(standing, 'bits_per_byte_change').text()}"
    yield from _accuracy_texts(standing)
    if standing.kl_nats is not None:
        yield f"KL {effect(standing, 'kl_nats').text()}"
    if standing.total_seconds is not None:
        yield layout.duration(standing.total_seconds).plain
    peaks = (("peak", standing.peak_memory_bytes), ("on the GPU", standing.peak_device_bytes))
    yield from (f"{what} {bytes_text(size)}" for what, size in peaks if size is not None)


def _accuracy_texts(standing: Standing) -> Iterator[str]:
    if standing.acc is not None:
        yield f"acc {layout.fixed(standing.acc, 3)} ({effect(standing, 'acc_change').text()})"
    if standing.tasks_above_chance is not None and standing.tasks_above_chance != standing.tasks:
        above = f"{layout.fixed(standing.acc_above_chance, 3)} ({effect(standing, 'acc_change_above_chance').text()})"
        yield f"of {standing.tasks} tasks, {standing.tasks_above_chance} above chance: {above}"


def _steps(steps: Sequence[LiveStep], width: int) -> list[Content]:
    """Return the steps, reading down the columns."""
    across = max(1, width // STEP_WIDTH)
    rows, column = math.ceil(len(steps) / across), width // across
    return [Content("  ").join([_step(live, column - 2) for live in steps[row::rows]]) for row in range(rows)]


def _step(live: LiveStep, width: int) -> Content:
    """Return one step: its seconds, or its bar."""
    glyph, style = f"{GLYPHS[live.state]} ", STYLES[live.state]
    if live.state == "running" and (where := position(live.done, live.total)):
        where = f"{where} {live.unit}".strip()
        name = fit(step_name(live.step), min(14, max(6, width - len(where) - 10)))
        filled, rest = bar(live.done, live.total, max(0, width - 4 - len(name) - len(where)))
        return Content.assemble((f"{glyph}{name} {filled}", style), f"{rest} {where}")
    right = f"{live.state if live.seconds is None else layout.duration(live.seconds).plain:>10}"
    name = fit(step_name(live.step), width - 2 - len(right))
    return Content.assemble((glyph, style), name, (right, style if live.seconds is None else ""))


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# -- languages


def languages(detail: TrialDetail, width: int) -> list[Content]:
    """Return the perplexity of each language against dense: the thin part of a bar is dense, the thick part the increase."""
    measured = {row.language: row for row in detail.languages}
    largest = max(filter(math.isfinite, (row.ppl_ratio or 0.0 for row in measured.values())), default=1.0)
    steps = {str(live.step.subject): live for live in steps_of(detail, StepKind.PERPLEXITY)}
    names = list(dict.fromkeys([*steps, *measured]))
    if not names:
        return [Content.styled("the spec asks for no perplexity", "dim")]
    label = max(4, *map(len, names))
    columns = _language_columns(list(measured.values()), width - label)
    room = columns.bar
    head = f"{fit('', label)} {fit('dense ─ more ━', room)} {'ppl ×':>{columns.ratio}} {'ppl':>8} {'dense':>8} {'KL':>{columns.kl}}"
    compared = [effect(row, "ppl_ratio") for row in measured.values() if row.variant != "dense"]
    return [
        Content.styled(fit(head, width).rstrip(), "bold"),
        *(
            _language(measured[name], label, columns, max(largest, 1.0))
            if name in measured
            else _waiting(name, steps[name], label, width)
            for name in names
        ),
        *(line for remark in legend(compared, columns.form) for line in wrapped(remark, width, "", "dim")),
    ]


class _LanguageColumns(NamedTuple):
    """How much is shown of intervals, and the widths of the columns that depend on it."""

    form: Form
    bar: int
    ratio: int
    kl: int


def _language_columns(rows: Sequence[LanguageResult], width: int) -> _LanguageColumns:
    """Return the columns with as much of the intervals as fits; bars are given up for them."""
    for form, least_bar in ((Form.WHOLE, LEAST_BAR), (Form.SHORT, 0), (Form.PLAIN, 0)):
        ratio, kl = (
            max([least, *(effect(row, name).text(form).cell_len for row in rows)])
            for name, least in (("ppl_ratio", 8), ("kl_nats", 6))
        )
        bar = width - ratio - kl - 21
        if bar >= least_bar:
            break
    return _LanguageColumns(form, min(60, bar) if bar >= 4 else 0, ratio, kl)


def _language(row: LanguageResult, label: int, columns: _LanguageColumns, largest: float) -> Content:
    ratio, room = effect(row, "ppl_ratio"), columns.bar
    thin, thick = 0, 0
    if room and ratio.value is not None and math.isfinite(ratio.value):
        length = max(1, round(ratio.value / largest * room))
        thin = min(length, max(1, round(room / largest)))
        thick = length - thin
    elif ratio.value is not None:
        thick = room
    return Content.assemble(
        f"{fit(row.language, label)} {'─' * thin}",
        ("━" * thick, "" if ratio.is_unsure else "$warning"),
        " " * (room - thin - thick),
        (f" {ratio.text(columns.form).plain:>{columns.ratio}}", ratio.style),
        f" {layout.ratio(row.perplexity).plain:>8}",
        (f" {layout.ratio(row.dense_perplexity).plain:>8}", "dim"),
        f" {effect(row, 'kl_nats').text(columns.form).plain:>{columns.kl}}",
    )


def _waiting(name: str, live: LiveStep, label: int, width: int) -> Content:
    """Return the line of a step without a figure yet."""
    text = f"{fit(name, label)} {GLYPHS[live.state]} {live.state} {position(live.done, live.total)}"
    return Content.styled(fit(text, width).rstrip(), STYLES[live.state])


# -- tasks


def tasks(detail: TrialDetail, width: int) -> list[Content]:
    """Return the accuracy of each task and its change: bars to the left are losses, to the right gains."""
    rows = detail.tasks
    measured = {row.task for row in rows}
    waiting = [
        live
        for live in steps_of(detail, StepKind.TASK)
        if live.step.subject not in measured and live.state != "done"
    ]
    if not rows and not waiting:
        return [Content.styled("the spec asks for no tasks", "dim")]
    longest = max([12, *(len(row.label) + len(_suffix(row)) for row in rows)])
    columns = _task_columns(rows, longest, width)
    label, half, room = columns.label, columns.half, columns.change
    largest = max((abs(row.change) for row in rows if row.change is not None), default=0.0)
    lost, won = ("lost", "won") if half > 3 else ("−", "+")
    head = f"{fit('task', label)} {'acc':>6} {'dense':>6} {'change':>{room}}   "
    head += f"{lost:>{half}}│{won:<{half}}" if half else ""
    head += " flips" if columns.flips else ""
    lines = [Content.styled(fit(head, width).rstrip(), "bold")]
    for row in rows:
        flips = columns.flips and row.right_to_wrong is not None
        lines.append(
            _task(row, columns, largest) + (f" −{row.right_to_wrong} +{row.wrong_to_right}" if flips else "")
        )
    lines += [_waiting(step_name(live.step), live, label, width) for live in waiting]
    remarks = list(legend((effect(row, "change") for row in rows if row.variant != "dense"), columns.form))
    if any(row.significant for row in rows):
        remarks.append("* unlikely to be chance: paired McNemar test, p < 0.05")
    return [*lines, *(line for remark in remarks for line in wrapped(remark, width, "", "dim"))]


class _TaskColumns(NamedTuple):
    """How much is shown of intervals and flips, and the widths of the columns that depend on it."""

    form: Form
    label: int
    change: int
    half: int
    """Of a bar; 0: there are none."""
    flips: bool


def _task_columns(rows: Sequence[TaskResult], longest: int, width: int) -> _TaskColumns:
    """Return the columns with as much of the intervals as fits; flips, and then bars, are given up for them."""
    for form, bars, flips, least_label in (
        (Form.WHOLE, 7, 10, min(longest, 36)),
        (Form.SHORT, 7, 10, min(longest, 36)),
        (Form.SHORT, 7, 0, min(longest, 36)),
        (Form.SHORT, 0, 0, 12),
        (Form.PLAIN, 7, 0, 12),
    ):
        change = max([7, *(effect(row, "change").text(form).cell_len for row in rows)])
        room = width - 18 - change - flips
        if room - bars >= least_label:
            break
    label = max(12, min(longest, room - bars, 36))
    half = max(3, min(12, (room - label - 1) // 2)) if bars else 0
    return _TaskColumns(form, label, change, half, flips > 0)


def _suffix(row: TaskResult) -> str:
    """Return the name of the metric, unless it is the task's main one."""
    return "" if row.main else f" {row.metric.removeprefix('acc_')}"


def _task(row: TaskResult, columns: _TaskColumns, largest: float) -> Content:
    change, half, label = row.change or 0.0, columns.half, columns.label
    length = max(1, round(abs(change) / largest * half)) if change and largest else 0
    style = "" if not row.significant else "$error" if change < 0 else "$success"
    of_change = effect(row, "change")
    left = "━" * length if change < 0 else ""
    right = "━" * length if change > 0 else ""
    suffix = _suffix(row)
    name = fit(fit(row.label, min(len(row.label), label - len(suffix))) + suffix, label)
    figures = Content.assemble(
        f"{name} {layout.fixed(row.value, 3).plain:>6}",
        (f" {layout.fixed(row.dense_value, 3).plain:>6}", "dim"),
        (
            f" {of_change.text(columns.form).plain:>{columns.change}} {'*' if row.significant else ' '} ",
            f"bold {style}" if style else of_change.style,
        ),
    )
    return (
        figures + Content.assemble((f"{left:>{half}}", style), "│", (f"{right:<{half}}", style))
        if half
        else figures
    )
