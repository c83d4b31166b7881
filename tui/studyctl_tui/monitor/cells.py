"""The lines of the trials table: columns, their widths, their cells, and sorting by each of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from studyctl.contract.records import Noted
from studyctl.contract.steps import StepId, StepKind
from studyctl.report import layout
from studyctl.report.effects import Effect, Form, effect
from studyctl.store.live import LiveTrial, TrialDetail
from studyctl.store.results import Standing
from studyctl_tui.shared.text import fit
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.shared.variant_names import shortened

Part = tuple[str, str]
"""Text and its role: a key of :data:`ROLES`."""
ROLES = ("plain", "muted", "running", "good", "bad", "warn")
STATE_ROLES = {"pending": "muted", "running": "running", "done": "good", "failed": "bad", "stopped": "warn"}
NAME_ROLES = {"pending": "muted", "running": "running", "stopped": "muted"}
"""Roles of model and variant: running trials stand out, waiting ones are muted."""
STATE_ORDER = {"running": 0, "failed": 1, "stopped": 2, "pending": 3, "done": 4}
HEADERS = {
    "state": "",
    "model": "model",
    "variant": "variant",
    "bits": "bits",
    "step": "step",
    "ppl": "ppl ×",
    "acc": "Δ acc",
    "time": "time",
}
FIGURES = ("bits", "ppl", "acc", "time")
"""Columns that are aligned right."""
EFFECTS = {"ppl": "ppl_ratio", "acc": "acc_change"}
"""Columns of figures that are compared with dense, and their fields."""
EFFECT_WIDTH = 7
INTERVAL_WIDTHS = {"ppl": 13, "acc": 14}
"""Characters of such a figure with its interval."""
STEP_NARROW, STEP_WIDE = 13, 40
LEAST_BAR = 3
WIDE, WIDER = 90, 110
"""Columns of a table with room for the words of states, and for wider gaps too."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
"""Characters of a variant's name that a trial's name, which names files, must not have."""


NOTE = "✎"
"""Before a trial that has a note."""


@dataclass(frozen=True, slots=True)
class TrialView:
    """What is shown of a trial; the details follow a moment after it is selected."""

    trial: LiveTrial
    standing: Standing | None = None
    detail: TrialDetail | None = None
    note: Noted | None = None


@dataclass(frozen=True, slots=True)
class Widths:
    """Widest texts of a study, on which the layout depends."""

    model: int
    variant: int
    models: int
    """How many different models there are."""


def short_model(model: str) -> str:
    """Return the last part of a model's id."""
    return model.rsplit("/", 1)[-1].removesuffix(".gguf")


def short_variant(trial: LiveTrial) -> str:
    """Return the variant, and the seed if the trial's name holds one."""
    _, variant, seed = trial.trial.rpartition(_UNSAFE.sub("_", trial.variant))
    return trial.variant + seed if variant else trial.variant


def widths(trials: Sequence[LiveTrial]) -> Widths:
    """Measure the names of a study."""
    models = {trial.model for trial in trials}
    longest = max((len(short_model(model)) for model in models), default=0)
    return Widths(longest, max([7, *(len(short_variant(trial)) for trial in trials)]), len(models))


def columns_for(width: int, names: Widths) -> dict[str, int]:
    """Return the width of each column: if they do not fit, columns are left out or cut, but never those of figures."""
    gap = gap_of(width)
    columns = {
        "state": 9 if width >= WIDE else 1,
        "model": max(5, names.model),
        "variant": names.variant,
        "bits": 5,
        "step": STEP_NARROW,
        **dict.fromkeys(EFFECTS, EFFECT_WIDTH),
        "time": 10,
    }
    free = width - 3 - sum(columns.values()) - gap * len(columns)
    wider = sum(INTERVAL_WIDTHS.values()) - EFFECT_WIDTH * len(EFFECTS)
    if free < wider + 8 and names.models < 2:
        free += columns.pop("model") + gap
    if free < -8:
        free += columns.pop("time") + gap
    for key, least in (("model", 10), ("variant", 12), ("model", 6), ("variant", 7)):
        if (cut := min(-free, columns.get(key, 0) - least)) > 0:
            columns[key] -= cut
            free += cut
    if free >= wider:
        columns |= INTERVAL_WIDTHS
        free -= wider
    columns["step"] += min(max(0, free), STEP_WIDE - STEP_NARROW)
    return columns


def gap_of(width: int) -> int:
    """Return the blanks between columns."""
    return 2 if width >= WIDER else 1


def header(columns: Mapping[str, int], gap: int, sort: str, *, reverse: bool) -> str:
    """Return the line of headers; the column that is sorted by has an arrow."""
    arrow = "▼" if reverse else "▲"
    cells = [
        fit(HEADERS[key] + (arrow if key == sort else ""), width, right=key in FIGURES)
        for key, width in columns.items()
    ]
    return "   " + (" " * gap).join(cells)


def line(row: TrialView, columns: Mapping[str, int], gap: int, *, cursor: bool, marked: bool) -> list[Part]:
    """Return the parts of a trial's line, neighbours of the same role joined: each part costs bytes on a slow line."""
    trial = row.trial
    name_role = NAME_ROLES.get(trial.state, "plain")
    parts = [
        ("›" if cursor else " ", name_role),
        ("●", "warn") if marked else (" ", name_role),
        (NOTE if row.note is not None else " ", name_role),
    ]
    for key, width in columns.items():
        if key == "state":
            text = f"{GLYPHS[trial.state]} {trial.state}" if width > 1 else GLYPHS[trial.state]
            parts.append((fit(text, width), STATE_ROLES[trial.state]))
            continue
        parts.append((" " * gap, "plain"))
        if key == "step":
            parts += step_parts(trial, width)
        elif key in EFFECTS:
            parts.append(effect_part(row.standing, EFFECTS[key], width))
        else:
            text = CELLS[key](row)
            if key == "variant":
                text = shortened(text, width)
            role = name_role if key in ("model", "variant", "bits") else "plain"
            parts.append((fit(text, width, right=key in FIGURES), role))
    joined: list[Part] = []
    for text, role in parts:
        if joined and (joined[-1][1] == role or not text.strip()):
            joined[-1] = (joined[-1][0] + text, joined[-1][1])
        elif text:
            joined.append((text, role))
    return joined


def effect_part(standing: Standing | None, name: str, width: int) -> Part:
    """Return a figure with as much of its interval as fits; muted where that holds no change."""
    one = Effect(None) if standing is None else effect(standing, name)
    texts = [one.text(form).plain for form in Form]
    text = next((text for text in texts if len(text) <= width), texts[-1])
    return fit(text, width, right=True), "muted" if one.is_unsure else "plain"


def step_name(step: StepId) -> str:
    """Return ``ppl sw`` of perplexity in Swahili, ``act sw`` of activations, ``boolq`` of that task."""
    short = {StepKind.PERPLEXITY: "ppl", StepKind.ACTIVATIONS: "act"}.get(step.kind)
    return f"{short} {step.subject}" if short else step.subject or str(step)


def position(done: float | None, total: float | None) -> str:
    """Return ``17/30``, or percent where the numbers are long; empty if unknown."""
    if done is None or not total:
        return ""
    return f"{done:g}/{total:g}" if total < 1000 else f"{done / total:.0%}"


def bar(done: float | None, total: float | None, width: int) -> tuple[str, str]:
    """Return the filled and the empty part of a bar; they differ in shape, not only in colour."""
    share = 0.0 if done is None or not total else min(1.0, max(0.0, done / total))
    halves = round(share * width * 2)
    filled = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return filled, "─" * (width - len(filled))


def step_parts(trial: LiveTrial, width: int) -> list[Part]:
    """Return how far a trial is: its running step with a bar, why it failed, or how many steps are stored."""
    if trial.state == "failed":
        text = f"{step_name(trial.step)}: {trial.error or ''}" if trial.step else trial.error or "failed"
        return [(fit(" ".join(text.split()), width), "bad")]
    if trial.state != "running" or trial.step is None:
        role = {"done": "plain", "running": "running"}.get(trial.state, "muted")
        return [(fit(f"{trial.steps_done}/{trial.steps} steps", width), role)]
    name, where = step_name(trial.step), position(trial.done, trial.total)
    room = width - max(9, len(name)) - len(where) - 2
    if not where or room < LEAST_BAR:
        return [(f"{fit(name, width - len(where) - 1)} {where}", "running")]
    filled, rest = bar(trial.done, trial.total, room)
    return [(f"{fit(name, 9)} {filled}", "running"), (f"{rest} {where}", "plain")]


def _figure(name: str) -> Callable[[TrialView], float | None]:
    return lambda row: getattr(row.standing, name, None)


CELLS: dict[str, Callable[[TrialView], str]] = {
    "model": lambda row: short_model(row.trial.model),
    "variant": lambda row: short_variant(row.trial),
    "bits": lambda row: layout.fixed(_figure("bits_per_weight")(row), 2).plain,
    "time": lambda row: layout.duration(_figure("total_seconds")(row)).plain,
}
SORTS: dict[str, Callable[[TrialView], float | str | None] | None] = {
    "plan": None,
    "state": lambda row: STATE_ORDER[row.trial.state],
    "model": lambda row: short_model(row.trial.model).lower(),
    "variant": lambda row: short_variant(row.trial).lower(),
    "bits": _figure("bits_per_weight"),
    "ppl": _figure("ppl_ratio"),
    "acc": _figure("acc_change"),
    "time": _figure("total_seconds"),
}
"""Sort key of each column; rows whose key is None come last in both directions."""
