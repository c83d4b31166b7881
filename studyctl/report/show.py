"""What ``studyctl show STUDY`` prints: the answer first, then languages, tasks, and what a reader must know."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, cast

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.report.layout import (
    Column,
    change,
    count,
    duration,
    fitting_tables,
    fixed,
    ratio,
    size,
)
from studyctl.store.comparison import Agreement
from studyctl.store.results import FailedTrial, Finding, LanguageResult, Results, Standing, TaskResult

STATES = ("done", "running", "failed", "stopped", "pending")
GLYPHS = {"done": "", "running": "▶ ", "failed": "✗ ", "stopped": "■ ", "pending": "· "}
SHOWN_WARNINGS = 5


def show(results: Results, console: Console) -> None:
    """Print the results of a study.

    Args:
        results: What is published.
        console: Where to; any width from 40 characters on, with or without colour.
    """
    about = results.about()
    standings = results.leaderboard()
    _header(console, about.study, about.title, standings, about.published_at)
    shown = [row for row in standings if _is_measured(row)]
    if not shown:
        console.print("\nNothing is measured yet.", highlight=False)
    _leaderboard(console, shown)
    _perplexity(console, shown, results.perplexity())
    _tasks(console, shown, results.tasks())
    _agreement(console, results.agreement())
    _notes(console, about.notes)
    _warnings(console, about.study, results.warnings())
    _failures(console, about.study, results.failures())


def as_json(results: Results) -> dict[str, object]:
    """Return everything that :func:`show` prints, and a little more, in JSON's types."""
    parts: dict[str, object] = {
        "about": results.about(),
        "progress": results.progress(),
        "leaderboard": results.leaderboard(),
        "perplexity": results.perplexity(),
        "tasks": results.tasks(),
        "agreement": results.agreement(),
        "warnings": results.warnings(),
        "failures": results.failures(),
    }
    return {name: _plain(part) for name, part in parts.items()}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return {name: _plain(item) for name, item in cast("NamedTuple", value)._asdict().items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat() + "Z"
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_measured(row: Standing) -> bool:
    return row.languages is not None or row.tasks is not None


def _header(
    console: Console, study: str, title: str, standings: list[Standing], published_at: datetime
) -> None:
    console.print(Text.assemble((study, "bold"), f": {title}" if title else ""), soft_wrap=False)
    states = [(state, sum(row.state == state for row in standings)) for state in STATES]
    told = ", ".join(f"{number} {state}" for state, number in states if number)
    trials = "1 trial" if len(standings) == 1 else f"{len(standings)} trials"
    console.print(Text(f"{trials}: {told or 'none'} · published {published_at:%Y-%m-%d %H:%M} UTC"))


@dataclass(frozen=True, slots=True)
class _Model:
    """The rows of one model, with the names that tell them apart."""

    model: str
    rows: list[Standing]

    def names(self) -> list[Text]:
        return [
            Text(GLYPHS[row.state] + name) for row, name in zip(self.rows, _variants(self.rows), strict=True)
        ]


def _variants(rows: Sequence[Standing | Agreement]) -> list[str]:
    """Return what to call each row of a model: its variant, with the seed where a variant has several."""
    times = Counter(row.variant for row in rows)
    return [row.variant if times[row.variant] == 1 else f"{row.variant} seed {row.seed}" for row in rows]


def _by_model(standings: Sequence[Standing]) -> Iterator[_Model]:
    models: dict[str, list[Standing]] = {}
    for row in standings:
        models.setdefault(row.model, []).append(row)
    return (_Model(model, rows) for model, rows in models.items())


def _section(console: Console, title: str, model: str, names: list[Text], columns: list[Column]) -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), f"  {model}"))
    for number, table in enumerate(fitting_tables("variant", names, columns, console.width)):
        if number:
            console.print()
        console.print(Padding.indent(table, 1), no_wrap=True)


def _remark(console: Console, text: str) -> None:
    console.print(Padding.indent(Text(text, style="dim"), 1))


def _leaderboard(console: Console, standings: list[Standing]) -> None:
    for model in _by_model(standings):
        rows = model.rows
        columns = [
            Column("bits/w", [fixed(row.bits_per_weight, 1) for row in rows]),
            Column("ppl ratio", [ratio(row.ppl_ratio) for row in rows]),
            Column("KL", [fixed(row.kl_nats, 3) for row in rows]),
            Column("acc", [fixed(row.acc, 3) for row in rows]),
            Column("Δ acc", [change(None if row.variant == "dense" else row.acc_change) for row in rows]),
            Column("flips", [count(row.flips) for row in rows]),
            Column("time", [duration(row.total_seconds) for row in rows], optional=True),
        ]
        _section(console, "Leaderboard", model.model, model.names(), columns)
        if told := _worst(rows):
            _remark(console, told)


def _worst(rows: list[Standing]) -> str:
    compared = [row for row in rows if row.variant != "dense" and row.worst_ppl_ratio is not None]
    if not compared:
        return ""
    row = max(compared, key=lambda one: one.worst_ppl_ratio or 0)
    languages = max(one.languages or 0 for one in compared)
    over = f"geometric mean over {languages} languages" if languages > 1 else "one language"
    return f"ppl ratio: {over}; worst: {row.worst_language} {ratio(row.worst_ppl_ratio)} ({row.variant})"


def _perplexity(console: Console, standings: list[Standing], results: list[LanguageResult]) -> None:
    found = {(row.trial_id, row.language): row for row in results}
    for model in _by_model(standings):
        languages = list(dict.fromkeys(row.language for row in results if row.model == model.model))
        columns = [
            Column(language, [_perplexity_cell(found.get((row.trial_id, language))) for row in model.rows])
            for language in languages
        ]
        if columns:
            _section(console, "Perplexity", model.model, model.names(), columns)
            _remark(console, "dense: perplexity; the others: how many times that of dense")


def _perplexity_cell(result: LanguageResult | None) -> Text:
    if result is None:
        return ratio(None)
    if result.variant == "dense":
        return ratio(result.perplexity)
    return ratio(result.ppl_ratio, prefix="×")


def _tasks(console: Console, standings: list[Standing], results: list[TaskResult]) -> None:
    chosen = _main_metrics(results)
    found = {(row.trial_id, row.task): row for row in results if chosen.get(row.task) == row.metric}
    for model in _by_model(standings):
        tasks = list(dict.fromkeys(row.task for row in results if row.model == model.model and row.main))
        columns = [
            Column(
                task if chosen[task] == "acc" else f"{task} {chosen[task]}",
                [_task_cell(found.get((row.trial_id, task))) for row in model.rows],
                left=True,
            )
            for task in tasks
        ]
        if columns:
            _section(console, "Accuracy", model.model, model.names(), columns)
            _remark(console, "with the change against dense; * p < 0.05, exact McNemar test on paired items")


def _main_metrics(results: list[TaskResult]) -> dict[str, str]:
    """Return the main metric of each task."""
    return {row.task: row.metric for row in results if row.main}


def _task_cell(result: TaskResult | None) -> Text:
    if result is None:
        return fixed(None, 3)
    if result.variant == "dense":
        return fixed(result.value, 3)
    mark = "*" if result.significant else ""
    style = ("red" if (result.change or 0) < 0 else "green") if result.significant else ""
    return Text.assemble(
        fixed(result.value, 3), " ", Text(f"{change(result.change).plain}{mark}", style=style)
    )


def _agreement(console: Console, rows: list[Agreement]) -> None:
    """Print what several backends made of the same settings; of settings of which something is measured."""
    measured = {(row.model, row.setting) for row in rows if row.measured}
    shown = [row for row in rows if (row.model, row.setting) in measured]
    for model in dict.fromkeys(row.model for row in shown):
        of_model = [row for row in shown if row.model == model]
        _section(console, "Agreement", model, _beside_each_other(of_model), _agreement_columns(of_model))
        _remark(console, "KL ratio, memory ratio: studyctl's / this one's; below 1: studyctl's is lower")
        _remark(console, "speedup: time of this one / of studyctl's; above 1: studyctl is faster")
        makers = dict.fromkeys(row.maker for row in of_model if row.measured)
        _remark(console, f"by {', '.join(makers)}")


def _beside_each_other(rows: list[Agreement]) -> list[Text]:
    """Return the variant for the first row of a setting, and ``@backend`` alone for what stands below it."""
    names, above = [], None
    for row, name in zip(rows, _variants(rows), strict=True):
        here = (row.setting, row.seed)
        names.append(Text(GLYPHS[row.state] + (f"@{row.backend}" if here == above else name)))
        above = here
    return names


def _agreement_columns(rows: list[Agreement]) -> list[Column]:
    return [
        Column("KL", [fixed(row.kl_nats, 4) for row in rows]),
        Column("KL\nratio", [fixed(row.kl_ratio, 2) for row in rows]),
        Column("ppl\nratio", [ratio(row.ppl_ratio) for row in rows]),
        Column("bits\n/w", [fixed(row.bits_per_weight, 1) for row in rows]),
        Column("time\nin s", [fixed(row.compress_seconds, 1) for row in rows]),
        Column("speedup", [fixed(row.speedup, 2) for row in rows]),
        Column("memory", [size(row.peak_memory_bytes) for row in rows]),
        Column("memory\nratio", [fixed(row.memory_ratio, 2) for row in rows]),
    ]


def _notes(console: Console, notes: list[str]) -> None:
    if notes:
        console.print()
        console.print(Text("Notes", style="bold"))
        for note in notes:
            console.print(Padding.indent(Text(f"- {note}"), 1))


def _warnings(console: Console, study: str, warnings: list[Finding]) -> None:
    if not warnings:
        return
    messages: dict[str, list[Finding]] = {}
    for warning in warnings:
        messages.setdefault(warning.message, []).append(warning)
    console.print()
    console.print(Text.assemble(("Warnings", "bold"), f"  studyctl sql {study} 'from warnings'"))
    for message, found in list(messages.items())[:SHOWN_WARNINGS]:
        first = f"{found[0].trial_id}, {found[0].stage}" if found[0].stage else found[0].trial_id
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        console.print(Padding.indent(Text(f"- {message} ({first}{more})"), 1))
    if (hidden := len(messages) - SHOWN_WARNINGS) > 0:
        console.print(Padding.indent(Text(f"- {hidden} more kinds of warning"), 1))


def _failures(console: Console, study: str, failures: list[FailedTrial]) -> None:
    if not failures:
        return
    console.print()
    console.print(Text("Failures", style="bold"))
    for failure in failures:
        where = f"{failure.stage}: " if failure.stage else ""
        error = failure.error or "no reason given"
        cause = (failure.cause or "error").replace("_", " ")
        told = "" if cause == "error" or cause in error else f" ({cause})"
        after = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        text = Text.assemble(
            ("✗ ", "red"),
            (failure.trial_id, "bold"),
            f"  {where}{error}{told}{after}",
        )
        console.print(Padding.indent(text, 1))
        hint = failure.hint or f"studyctl logs {study} {failure.trial_id}"
        console.print(Padding.indent(Text(f"= hint: {hint}"), 3))
