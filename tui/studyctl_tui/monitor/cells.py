"""What a line of the trials table says: columns, their widths, and the order by each of them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from rich.cells import cell_len, set_cell_size

from studyctl.contract.steps import StepId, StepKind
from studyctl.report import layout
from studyctl.store.live import LiveTrial
from studyctl.store.results import Standing
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.shared.variant_names import shortened

Part = tuple[str, str]
"""Text and what it is told as: a key of :data:`ROLES`."""
ROLES = ("plain", "muted", "running", "good", "bad", "warn")
STATE_ROLES = {"pending": "muted", "running": "running", "done": "good", "failed": "bad", "stopped": "warn"}
NAME_ROLES = {"pending": "muted", "running": "running", "stopped": "muted"}
"""Of model and variant: what runs stands out, what waits stands back."""
STATE_ORDER = {"running": 0, "failed": 1, "stopped": 2, "pending": 3, "done": 4}
STAGE_NARROW, STAGE_WIDE = 13, 40
WIDE, WIDER = 90, 110
"""Columns of a table with room for the words of states, and for wider gaps too."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
"""What a variant's name may have and a trial's does not: its journals are files."""


@dataclass(frozen=True, slots=True)
class Row:
    """A trial with its figures."""

    trial: LiveTrial
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    key: str
    header: str
    width: int
    right: bool = False


@dataclass(frozen=True, slots=True)
class Widths:
    """Widest texts of a study, on which the layout depends."""

    model: int
    variant: int
    models: int
    """How many different models there are."""


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return the text with exactly this many cells."""
    cells = len(text) if text.isascii() else cell_len(text)
    if cells > width:
        return set_cell_size(text, width - 1) + "…" if width else ""
    blank = " " * (width - cells)
    return blank + text if right else text + blank


def short_model(model: str) -> str:
    """Return the last part of a model's id."""
    return model.rsplit("/", 1)[-1].removesuffix(".gguf")


def short_variant(trial: LiveTrial) -> str:
    """Return the variant, with the seed where the trial's name tells one."""
    _, found, tail = trial.trial.rpartition(_safe(trial.variant))
    return trial.variant + tail if found else trial.variant


@cache
def _safe(variant: str) -> str:
    return _UNSAFE.sub("_", variant)


def widths(trials: Iterable[LiveTrial]) -> Widths:
    """Measure the names of a study."""
    models, variants = set(), {"variant"}
    for trial in trials:
        models.add(trial.model)
        variants.add(short_variant(trial))
    return Widths(
        max((len(short_model(model)) for model in models), default=0), max(map(len, variants)), len(models)
    )


def columns_for(width: int, names: Widths) -> tuple[Column, ...]:
    """Lay the table out: what does not fit is left out or cut, figures never."""
    gap = gap_of(width)
    columns = [
        Column("state", "", 9 if width >= WIDE else 1),
        Column("model", "model", max(5, names.model)),
        Column("variant", "variant", max(7, names.variant)),
        Column("bits", "bits", 5, right=True),
        Column("stage", "stage", STAGE_NARROW),
        Column("ppl", "ppl ×", 7, right=True),
        Column("acc", "Δ acc", 6, right=True),
        Column("time", "time", 10, right=True),
    ]
    free = width - 3 - sum(column.width + gap for column in columns)
    if free < 8 and names.models < 2:
        free += _drop(columns, "model") + gap
    if free < -8:
        free += _drop(columns, "time") + gap
    for key, least in (("model", 10), ("variant", 12), ("model", 6), ("variant", 7)):
        free += _shrink(columns, key, least, max(0, -free))
    _shrink(columns, "stage", 0, -min(max(0, free), STAGE_WIDE - STAGE_NARROW))
    return tuple(columns)


def gap_of(width: int) -> int:
    """Return the blanks between columns."""
    return 2 if width >= WIDER else 1


def _drop(columns: list[Column], key: str) -> int:
    (column,) = (column for column in columns if column.key == key)
    columns.remove(column)
    return column.width


def _shrink(columns: list[Column], key: str, least: int, by: int) -> int:
    """Make a column narrower (wider, if negative), but not below ``least``; return what was won."""
    for index, column in enumerate(columns):
        if column.key == key:
            won = min(by, max(0, column.width - least))
            columns[index] = replace(column, width=column.width - won)
            return won
    return 0


def header(columns: Sequence[Column], gap: int, sort: str, *, reverse: bool) -> str:
    """Return the line of headers; the column that sorts carries an arrow."""
    arrow = "▼" if reverse else "▲"
    texts = [column.header + (arrow if column.key == sort else "") for column in columns]
    cells = [fit(text, one.width, right=one.right) for text, one in zip(texts, columns, strict=True)]
    return "   " + (" " * gap).join(cells)


def line(row: Row, columns: Sequence[Column], gap: int, *, cursor: bool, marked: bool) -> list[Part]:
    """Return the parts of a trial's line, neighbours of the same role joined: each part costs bytes on a slow line."""
    trial = row.trial
    name_role = NAME_ROLES.get(trial.state, "plain")
    parts: list[Part] = [("›" if cursor else " ", name_role), ("●" if marked else " ", "warn" if marked else name_role)]  # fmt: skip
    parts.append((" ", name_role))
    for index, column in enumerate(columns):
        if index:
            parts.append(
                (" " * gap, name_role if column.key in ("model", "variant", "bits", "stage") else "plain")
            )
        if column.key == "state":
            text = f"{GLYPHS[trial.state]} {trial.state}" if column.width > 1 else GLYPHS[trial.state]
            parts.append((fit(text, column.width), STATE_ROLES[trial.state]))
        elif column.key == "stage":
            parts += step_parts(trial, column.width)
        else:
            role = name_role if column.key in ("model", "variant", "bits") else "plain"
            text = CELLS[column.key](row)
            if column.key == "variant":
                text = shortened(text, column.width)
            parts.append((fit(text, column.width, right=column.right), role))
    return _joined(parts)


def _joined(parts: Iterable[Part]) -> list[Part]:
    joined: list[Part] = []
    for text, role in parts:
        if joined and (joined[-1][1] == role or not text.strip()):
            joined[-1] = (joined[-1][0] + text, joined[-1][1])
        elif text:
            joined.append((text, role))
    return joined


def step_name(step: StepId) -> str:
    """Return ``ppl sw`` of perplexity in Swahili, ``boolq`` of that task."""
    if step.kind is StepKind.PERPLEXITY:
        return f"ppl {step.subject}"
    return step.subject or str(step)


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
    if trial.state != "running":
        role = "plain" if trial.state == "done" else "muted"
        return [(fit(f"{trial.steps_done}/{trial.steps} stages", width), role)]
    if trial.step is None:
        return [(fit(f"{trial.steps_done}/{trial.steps} stages", width), "running")]
    where = position(trial.done, trial.total)
    room = width - max(9, len(step_name(trial.step))) - len(where) - 2
    if not where or room < 5:
        name = fit(step_name(trial.step), width - len(where) - 1)
        return [(f"{name} {where}", "running")]
    filled, rest = bar(trial.done, trial.total, room)
    return [(f"{fit(step_name(trial.step), 9)} {filled}", "running"), (f"{rest} {where}", "plain")]


def _figure(name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found: float | None = getattr(row.standing, name) if row.standing is not None else None
        return found

    return value


CELLS: dict[str, Callable[[Row], str]] = {
    "model": lambda row: short_model(row.trial.model),
    "variant": lambda row: short_variant(row.trial),
    "bits": lambda row: layout.fixed(_figure("bits_per_weight")(row), 2).plain,
    "ppl": lambda row: layout.ratio(_figure("ppl_ratio")(row)).plain,
    "acc": lambda row: layout.change(_figure("acc_change")(row)).plain,
    "time": lambda row: layout.duration(_figure("total_seconds")(row)).plain,
}
SORTS: dict[str, Callable[[Row], float | str | None] | None] = {
    "plan": None,
    "state": lambda row: STATE_ORDER[row.trial.state],
    "model": lambda row: short_model(row.trial.model).lower(),
    "variant": lambda row: short_variant(row.trial).lower(),
    "bits": _figure("bits_per_weight"),
    "ppl": _figure("ppl_ratio"),
    "acc": _figure("acc_change"),
    "time": _figure("total_seconds"),
}
"""What a column sorts by; None of a row: it comes last either way."""
