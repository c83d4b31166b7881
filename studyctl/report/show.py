"""What ``studyctl show STUDY`` prints: leaderboard, languages, tasks, agreement, notes, warnings, failures."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import pairwise
from shlex import quote
from typing import TypeVar

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.contract.hypotheses import Verdict
from studyctl.contract.methods import METHODS, MethodSettings, Pruning, Quantization
from studyctl.files import StudyPaths
from studyctl.printable import on_one_line
from studyctl.report.deployment import show_deployment
from studyctl.report.effects import Effect, Form, effect, legend
from studyctl.report.findings import MARKS, in_short
from studyctl.report.layout import (
    Column,
    change,
    count,
    duration,
    fixed,
    print_tables,
    ratio,
    size,
)
from studyctl.report.plain import plain
from studyctl.report.sizes import about_mib, mib_cells
from studyctl.sources.packages import PREFIX
from studyctl.store import results as store
from studyctl.store.comparison import Agreement
from studyctl.store.results import (
    FailedTrial,
    Finding,
    HypothesisResult,
    LanguageResult,
    Results,
    Standing,
    TaskResult,
)
from studyctl.units import count_text

_Row = TypeVar("_Row", Standing, Agreement)
STATES = ("done", "running", "failed", "stopped", "pending")
GLYPHS = {"done": "", "running": "▶ ", "failed": "✗ ", "stopped": "■ ", "pending": "· "}
SHOWN_WARNINGS = 5
_VALUE_DECIMALS = {Form.WHOLE: 3, Form.SHORT: 2}
COMPARED = ("ppl_ratio", "bits_per_byte_change", "kl_nats", "acc_change")
"""Figures of the leaderboard that are compared with dense."""


def show(results: Results, console: Console, death: str = "") -> None:
    """Print the results of a study.

    Args:
        results: The published results.
        console: Where to print; any width from 40 characters on, with or without colour.
        death: That its runner died; empty if it did not.
    """
    about = results.about()
    standings = results.leaderboard()
    if death:
        standings = list(map(left_behind, standings))
    _header(console, about.study, about.title, standings, about.published_at)
    if death:
        console.print(Text(death), soft_wrap=True)
    measured = [row for row in standings if row.languages is not None or row.tasks is not None]
    if not measured:
        console.print("\nNothing is measured yet.", highlight=False)
    _leaderboard(console, measured)
    _perplexity(console, measured, results.perplexity())
    _tasks(console, measured, results.tasks())
    show_deployment(results, console)
    _agreement(console, results.agreement())
    hypotheses = results.hypotheses()
    _verdicts(console, about.study, hypotheses)
    if hypotheses:
        sentences: list[str] = []
        after = [f"Next: `studyctl findings {quote(about.study)} --rows`{_with_own_model(standings)}."]
    else:
        sentences, after = best_of_each(results, about.study, standings)
    if lines := [*sentences, *about.notes, *after]:
        _list(console, "In short", "", lines)
    _warnings(console, about.study, results.warnings())
    _failures(console, about.study, results.failures())


def left_behind(row: Standing) -> Standing:
    """Return a row of a study whose runner died: what ran when it was published does not run any more."""
    return row._replace(state="stopped") if row.state == "running" else row


def report_run(paths: StudyPaths, message: str, out: Console, err: Console, *, with_results: bool) -> None:
    """Print how a run ended, and the results."""
    err.print(message, soft_wrap=True, markup=False)
    if with_results and paths.database.exists():
        with store.open(paths) as results:
            show(results, out)


def as_json(results: Results) -> dict[str, object]:
    """Return everything that :func:`show` prints, and the progress, in JSON's types."""
    parts: dict[str, object] = {
        "about": results.about(),
        "progress": results.progress(),
        "leaderboard": results.leaderboard(),
        "perplexity": results.perplexity(),
        "tasks": results.tasks(),
        "deployment": results.deployment(),
        "agreement": results.agreement(),
        "warnings": results.warnings(),
        "failures": results.failures(),
    }
    return {name: plain(part) for name, part in parts.items()}


def _header(
    console: Console, study: str, title: str, standings: list[Standing], published_at: datetime
) -> None:
    name = (on_one_line(study), "bold")
    console.print(Text.assemble(name, f": {on_one_line(title)}" if title else ""), soft_wrap=False)
    states = [(state, sum(row.state == state for row in standings)) for state in STATES]
    counts = ", ".join(f"{number} {state}" for state, number in states if number)
    trials = count_text(len(standings), "trial")
    console.print(Text(f"{trials}: {counts or 'none'} · published {published_at:%Y-%m-%d %H:%M} UTC"))


def _by_model(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    models: dict[str, list[_Row]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    return models


def _names(rows: Sequence[Standing | Agreement]) -> list[str]:
    """Return the name of each row of a model: its variant, with the seed if there are several."""
    times = Counter(row.variant for row in rows)
    return [row.variant if times[row.variant] == 1 else f"{row.variant} seed {row.seed}" for row in rows]


def _section(
    console: Console, title: str, rows: Sequence[_Row], columns: list[Column], names: list[str] | None = None
) -> None:
    """Print the figures of the rows of one model."""
    console.print()
    console.print(Text.assemble((title, "bold"), f"  {rows[0].model}"))
    marked = [Text(GLYPHS[row.state] + name) for row, name in zip(rows, names or _names(rows), strict=True)]
    print_tables(console, "variant", marked, columns, indent=1)


def _remark(console: Console, text: str) -> None:
    console.print(Padding.indent(Text(text, style="dim"), 1))


def _list(console: Console, title: str, note: str, lines: Iterable[str]) -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), note))
    for line in lines:
        console.print(Padding.indent(Text(f"- {line}"), 1))


def _leaderboard(console: Console, standings: list[Standing]) -> None:
    for rows in _by_model(standings).values():
        columns = [
            Column("bits/w", [fixed(row.bits_per_weight, 1) for row in rows]),
            *([Column("MiB", mib_cells(rows))] if about_mib(rows) else []),
            _effects("ppl\nratio", [effect(row, "ppl_ratio") for row in rows]),
            _effects("Δ bits\n/byte", [_against_dense(row, "bits_per_byte_change") for row in rows]),
            _effects("KL", [effect(row, "kl_nats") for row in rows]),
            *(_accuracy(rows) if any(row.acc is not None for row in rows) else ()),
            Column("time", [duration(row.total_seconds) for row in rows]),
        ]
        _section(console, "Leaderboard", rows, columns)
        compared = [effect(row, name) for row in rows if row.variant != "dense" for name in COMPARED]
        dense_is_measured = any(row.variant == "dense" and row.state == "done" for row in rows)
        for remark in (*_about_means(rows), *legend(compared, dense_is_measured=dense_is_measured)):
            _remark(console, remark)


def _accuracy(rows: list[Standing]) -> Iterator[Column]:
    yield Column("acc", [fixed(row.acc, 3) for row in rows])
    yield _effects("Δ acc", [_against_dense(row, "acc_change") for row in rows])
    yield Column("flips", [count(row.flips) for row in rows])


def _column(
    header: str, cells: Callable[[Form], list[Text]], *, least: Form = Form.SHORT, left: bool = False
) -> Column:
    """Return a column of figures with their intervals; where there is no room, with as little of these as the form ``least``."""
    forms = list(Form)[: list(Form).index(least) + 1]
    first, *shorter = (cells(form) for form in forms)
    return Column(header, first, left, tuple(shorter))


def _effects(header: str, effects: Sequence[Effect], least: Form = Form.SHORT) -> Column:
    return _column(header, lambda form: [one.text(form) for one in effects], least=least)


def _against_dense(row: Standing, name: str) -> Effect:
    return Effect(None) if row.variant == "dense" else effect(row, name)


def _about_means(rows: list[Standing]) -> Iterator[str]:
    if about := about_mib(rows):
        yield about
    compared = [row for row in rows if row.variant != "dense" and row.ppl_ratio is not None]
    if compared:
        languages = max(row.languages or 0 for row in compared)
        yield "ppl ratio: per token" + (
            f", geometric mean over {languages} languages" if languages > 1 else ""
        )
    worst = max(
        (row for row in rows if row.variant != "dense"),
        key=lambda row: row.worst_bits_per_byte_change or 0,
        default=None,
    )
    if worst is not None and worst.worst_language is not None:
        of_worst = change(worst.worst_bits_per_byte_change)
        yield f"worst language: {worst.worst_language} {of_worst} bits/byte ({worst.variant})"


def _perplexity(console: Console, standings: list[Standing], results: list[LanguageResult]) -> None:
    cells = {(row.trial_id, row.language): row for row in results}
    for model, rows in _by_model(standings).items():
        columns = [
            _effects(
                language, [_perplexity_cell(cells.get((row.trial_id, language))) for row in rows], Form.PLAIN
            )
            for language in dict.fromkeys(row.language for row in results if row.model == model)
        ]
        if columns:
            _section(console, "Perplexity", rows, columns)
            _remark(console, "dense: perplexity per token; the others: how many times that of dense")
        columns = [
            _effects(language, [_bits_cell(cells.get((row.trial_id, language))) for row in rows])
            for language in dict.fromkeys(
                row.language for row in results if row.model == model and row.bits_per_byte is not None
            )
        ]
        if columns:
            _section(console, "Bits per byte", rows, columns)
            _remark(console, "dense: bits per byte; the others: the change; compare languages by these")
            for result in results:
                if result.model == model and result.variant == "dense" and result.dense_knows is False:
                    _remark(
                        console,
                        f"{result.language}: dense does not know this language (no better than bzip2), changes say little",
                    )


def _perplexity_cell(result: LanguageResult | None) -> Effect:
    if result is None:
        return Effect(None)
    if result.variant == "dense":
        return Effect(result.perplexity)
    return effect(result, "ppl_ratio", "×")


def _bits_cell(result: LanguageResult | None) -> Effect:
    if result is None:
        return Effect(None)
    if result.variant == "dense":
        return Effect(result.bits_per_byte)
    return effect(result, "bits_per_byte_change")


def _tasks(console: Console, standings: list[Standing], results: list[TaskResult]) -> None:
    metrics = {row.task: row.metric for row in results if row.main}
    labels = {row.task: row.label for row in results}
    cells = {(row.trial_id, row.task): row for row in results if metrics.get(row.task) == row.metric}
    for model, rows in _by_model(standings).items():
        columns = [
            _column(
                labels[task] if metrics[task] == "acc" else f"{labels[task]} {metrics[task]}",
                partial(_task_cells, [cells.get((row.trial_id, task)) for row in rows]),
                left=True,
            )
            for task in dict.fromkeys(row.task for row in results if row.model == model and row.main)
        ]
        some_at_chance = any(row.tasks_above_chance not in (None, row.tasks) for row in rows)
        if some_at_chance:
            tasks = max(row.tasks or 0 for row in rows)
            columns += [
                _column(f"mean of {tasks}", partial(_mean_cells, rows), left=True),
                _column("of those above chance", partial(_above_chance_cells, rows), left=True),
            ]
        if columns:
            _section(console, "Accuracy", rows, columns)
            _remark(console, "with the change from dense; * p < 0.05, exact McNemar test on paired items")
            if some_at_chance:
                _remark(console, "~ at chance: guessing does as well as this variant and dense together")


def _task_cells(results: Sequence[TaskResult | None], form: Form) -> list[Text]:
    changes = [
        None if result is None or result.variant == "dense" else effect(result, "change")
        for result in results
    ]
    cells = []
    for result, of_change in zip(results, _changes(changes, form), strict=True):
        mark = "~" if result is not None and result.above_chance is False else ""
        if result is not None and result.variant != "dense" and result.significant:
            mark = f"*{mark}"
            of_change.style = of_change.style or ("red" if (result.change or 0) < 0 else "green")
        value = fixed(None if result is None else result.value, _VALUE_DECIMALS[form])
        cells.append(Text.assemble(value, of_change.append(mark)))
    return cells


def _changes(changes: Sequence[Effect | None], form: Form) -> list[Text]:
    """Return changes to be put behind values: their last digits are below each other."""
    parts = [("", "") if one is None else one.parts(form) for one in changes]
    width = max(len(figure) for figure, _ in parts)
    texts = []
    for one, (figure, spread) in zip(changes, parts, strict=True):
        texts.append(
            Text(f" {figure:>{width}}{spread}" if figure else "", one.style if one is not None else "")
        )
    return texts


def _mean_cells(
    rows: Sequence[Standing], form: Form, which: str = "acc", of_change: str = "acc_change"
) -> list[Text]:
    values = [getattr(row, which) for row in rows]
    changes = [
        None if row.variant == "dense" or value is None else effect(row, of_change)
        for row, value in zip(rows, values, strict=True)
    ]
    return [
        Text.assemble(fixed(value, _VALUE_DECIMALS[form]), of_value)
        for value, of_value in zip(values, _changes(changes, form), strict=True)
    ]


def _above_chance_cells(rows: Sequence[Standing], form: Form) -> list[Text]:
    means = _mean_cells(rows, form, "acc_above_chance", "acc_change_above_chance")
    return [
        mean if row.tasks_above_chance is None else Text.assemble(f"{row.tasks_above_chance}: ", mean)
        for row, mean in zip(rows, means, strict=True)
    ]


def _agreement(console: Console, rows: list[Agreement]) -> None:
    """Print a comparison of backends for each setting of which something is measured."""
    measured = {(row.model, row.setting) for row in rows if row.measured}
    for of_model in _by_model(row for row in rows if (row.model, row.setting) in measured).values():
        columns = [
            Column("KL", [fixed(row.kl_nats, 4) for row in of_model]),
            Column("KL\nratio", [fixed(row.kl_ratio, 2) for row in of_model]),
            Column("ppl\nratio", [ratio(row.ppl_ratio) for row in of_model]),
            Column("bits\n/w", [fixed(row.bits_per_weight, 1) for row in of_model]),
            Column("time\nin s", [fixed(row.compress_seconds, 1) for row in of_model]),
            Column("speedup", [fixed(row.speedup, 2) for row in of_model]),
            Column("memory", [size(row.peak_memory_bytes) for row in of_model]),
            Column("memory\nratio", [fixed(row.memory_ratio, 2) for row in of_model]),
        ]
        names = _names(of_model)
        for place, (above, row) in enumerate(pairwise(of_model), 1):
            if (above.setting, above.seed) == (row.setting, row.seed):
                names[place] = f"@{row.backend}"
        _section(console, "Agreement", of_model, columns, names)
        _remark(console, "KL ratio, memory ratio: studyctl's / this one's; below 1: studyctl's is lower")
        _remark(console, "speedup: time of this one / of studyctl's; above 1: studyctl is faster")
        makers = dict.fromkeys(row.maker for row in of_model if row.measured)
        _remark(console, f"by {', '.join(makers)}")


def _verdicts(console: Console, study: str, hypotheses: Sequence[HypothesisResult]) -> None:
    """Print a line for each hypothesis."""
    if not hypotheses:
        return
    console.print()
    console.print(Text.assemble(("Findings", "bold"), f"  studyctl findings {quote(study)}"))
    for result in hypotheses:
        mark, style = MARKS[Verdict(result.verdict)]
        claim = on_one_line(result.claim or result.name).rstrip(".")
        console.print(
            Padding.indent(Text.assemble((mark, style), f" {claim}: {on_one_line(in_short(result))}"), 1)
        )


def best_of_each(results: Results, study: str, standings: list[Standing]) -> tuple[list[str], list[str]]:
    """Return for each model whether its best pruned or its best quantized variant is ahead and how sure that is, and what to do next."""
    models = _by_model(standings)
    sentences: list[str] = []
    after: dict[bool, str] = {}  # by whether something is not told apart
    for model, rows in models.items():
        about = f"{model}: " if len(models) > 1 else ""
        pruned, quantized = _best(rows, Pruning, Quantization), _best(rows, Quantization, Pruning)
        if pruned is None or quantized is None:
            continue
        difference = results.contrast(model, pruned.trial_id, quantized.trial_id)
        if difference is None:
            continue
        languages = f" in {difference.languages} languages" if difference.languages > 1 else ""
        over = f"{difference.windows} windows{languages}"
        ahead, behind = (quantized, pruned) if difference.bits_per_byte > 0 else (pruned, quantized)
        low, high = sorted(
            abs(end) if difference.is_told_apart else end for end in (difference.low, difference.high)
        )
        needs = (
            f"{_with_size(ahead)}, the best of its kind, needs {abs(difference.bits_per_byte):.3f} bits per byte less than"
            f" {_with_size(behind)}; 95 % interval {fixed(low, 3)} to {fixed(high, 3)}"
        )
        kinds = ("Quantized", "pruned") if ahead is quantized else ("Pruned", "quantized")
        if difference.is_told_apart:
            sentences.append(
                f"{about}{kinds[0]} is ahead of {kinds[1]}: {needs} over {over}, for these texts and one calibration draw."
            )
            after[False] = (
                f"Next: `studyctl export {quote(study)} {quote(ahead.trial_id)} FOLDER` writes {ahead.variant} for transformers and vLLM{_with_own_model(rows)}."
            )
        else:
            sentences.append(f"{about}Pruned and quantized are not told apart with {over}: {needs}.")
            after[True] = "Next: raise `windows` in [evaluation.perplexity]; only the new ones are measured."
    return sentences, [after[max(after)]] if after else []


def _with_own_model(rows: list[Standing]) -> str:
    """Return what to do after a study of a model that comes in a package, which is there to try studyctl with."""
    is_bundled = any(row.model.startswith(PREFIX) for row in rows)
    return "; for your own model, change `id` in a copy of the spec" if is_bundled else ""


def _best(rows: list[Standing], kind: type[MethodSettings], other: type[MethodSettings]) -> Standing | None:
    """Return the variant of a kind, and not of another one, that changes bits per byte least."""
    methods = [
        name
        for name, method in METHODS.items()
        if issubclass(method.settings, kind) and not issubclass(method.settings, other)
    ]
    compared = [row for row in rows if row.method in methods and row.bits_per_byte_change is not None]
    return min(compared, key=lambda row: row.bits_per_byte_change or 0.0, default=None)


def _with_size(row: Standing) -> str:
    return f"{row.variant} ({fixed(row.bits_per_weight, 1)} bits/w)"


def _warnings(console: Console, study: str, warnings: list[Finding]) -> None:
    if not warnings:
        return
    findings: dict[str, list[Finding]] = {}
    for warning in warnings:
        findings.setdefault(warning.message, []).append(warning)
    lines = []
    for message, (first, *others) in list(findings.items())[:SHOWN_WARNINGS]:
        place = f"{first.trial_id}, {first.stage}" if first.stage else first.trial_id
        lines.append(f"{message} ({place}{f' and {len(others)} more' if others else ''})")
    if (hidden := len(findings) - SHOWN_WARNINGS) > 0:
        lines.append(f"{hidden} more kinds of warning")
    _list(console, "Warnings", f"  studyctl sql {quote(study)} 'from warnings'", lines)


def _failures(console: Console, study: str, failures: list[FailedTrial]) -> None:
    if not failures:
        return
    console.print()
    console.print(Text("Failures", style="bold"))
    for failure in failures:
        where = f"{failure.stage}: " if failure.stage else ""
        error = failure.error or "no reason given"
        cause = (failure.cause or "error").replace("_", " ")
        why = "" if cause == "error" or cause in error else f" ({cause})"
        after = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
        text = Text.assemble(
            ("✗ ", "red"),
            (failure.trial_id, "bold"),
            f"  {where}{error}{why}{after}",
        )
        console.print(Padding.indent(text, 1))
        hint = failure.hint or f"studyctl logs {quote(study)} {quote(failure.trial_id)}"
        console.print(Padding.indent(Text(f"= hint: {hint}"), 3))
