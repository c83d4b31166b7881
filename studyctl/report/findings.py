"""Verdicts of hypotheses in words: the sentence of each, and what ``studyctl findings`` and ``studyctl contrast`` print."""

import json
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from studyctl.contract.hypotheses import Alternative, By, Measure, Metric, PlannedHypothesis, Sides, Verdict
from studyctl.contract.methods import settings_of
from studyctl.errors import StudyError, did_you_mean
from studyctl.printable import on_one_line
from studyctl.report.layout import MISSING, change, fixed, ratio
from studyctl.report.plain import plain
from studyctl.store.results import (
    HypothesisResult,
    HypothesisRow,
    HypothesisTrial,
    Results,
    Reversal,
    VariantRow,
)

MARKS = {
    Verdict.SUPPORTED: ("✓", "green"),
    Verdict.AGREE: ("✓", "green"),
    Verdict.CONTRADICTED: ("✗", "red"),
    Verdict.DISAGREE: ("✗", "red"),
    Verdict.SAME: ("=", "cyan"),
    Verdict.UNDECIDED: ("?", "yellow"),
    Verdict.UNTESTABLE: ("–", "dim"),
}
"""A mark and a style for each verdict."""

_UNITS = {
    Measure.BITS_PER_BYTE: " bits per byte",
    Measure.KL_RATIO: " times the KL",
    Measure.PPL_RATIO: " times the perplexity",
    Measure.TOP1: " top-1 agreement",
    Measure.SNR: " dB of the logits' SNR",
    Measure.ACCURACY: " accuracy",
    Measure.GOLD_NATS: " nats of the right answer",
    Measure.SIZE_MIB: " MiB",
}


def measure_of(metric: str) -> Measure | None:
    """Return what the column ``metric`` names; None for an order of variants by two metrics."""
    return None if "," in metric else Metric.parse(metric).measure


def is_ratio(metric: str) -> bool:
    """Return whether no difference is 1, and not 0."""
    measure = measure_of(metric)
    return measure is not None and measure.is_ratio


def figure(metric: str, value: float | None) -> str:
    """Return an estimate, or an end of its interval, as text."""
    measure = measure_of(metric)
    if measure is None:
        return fixed(value, 2).plain
    if measure is Measure.SIZE_MIB:
        return MISSING if value is None else f"{value:+.0f}".replace("-", "−")
    return (ratio(value) if measure.is_ratio else change(value)).plain


def p_text(p: float | None) -> str:
    """Return a p with two digits, and ``= `` or ``< `` before it."""
    if p is None:
        return MISSING
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}" if p < 0.1 else f"= {p:.2f}"


def sentence(result: HypothesisResult) -> str:
    """Return what a verdict rests on: the estimate, its interval and population, p, and what would decide it."""
    if result.verdict == Verdict.UNTESTABLE:
        return f"cannot be tested: {result.reason}"
    parts = list(_figures(result))
    if result.reason:
        parts.append(result.reason)
    if result.models and result.models > 1 and result.models_holding is not None:
        parts.append(f"holds in {result.models_holding} of {result.models} models")
    if needs := _needs(result):
        parts.append(needs)
    if result.calibration_draws == 1:
        parts.append("one calibration draw")
    return "; ".join([*parts, *result.notes])


def in_short(result: HypothesisResult) -> str:
    """Return the verdict with its estimate and interval alone."""
    if result.verdict == Verdict.UNTESTABLE:
        return f"cannot be tested ({result.reason})"
    measure = measure_of(result.metric)
    value, low, high = (figure(result.metric, end) for end in (result.estimate, result.low, result.high))
    if measure is None:
        return f"{result.verdict} (tau {low} to {high})"
    if result.estimate is None or measure is Measure.SIZE_MIB:
        return (
            f"{result.verdict} ({value} MiB)"
            if measure is Measure.SIZE_MIB
            else f"{result.verdict} ({result.reason})"
        )
    return f"{result.verdict} ({value}{_UNITS[measure]}, {low} to {high})"


def _figures(result: HypothesisResult) -> Iterator[str]:
    """Yield the estimate with its interval, and p."""
    measure = measure_of(result.metric)
    if result.estimate is None:
        return
    value, low, high = (figure(result.metric, end) for end in (result.estimate, result.low, result.high))
    if measure is None:
        yield f"Kendall's tau {value}, between {low} and {high}"
        return
    if measure is Measure.SIZE_MIB:
        yield f"{value} MiB"
        return
    yield f"{value}{_UNITS[measure]}, 95 % interval {low} to {high} {_population(result)}"
    if result.p_adjusted is not None:
        yield f"p {p_text(result.p_adjusted)}" + (" after Holm" if result.p_adjusted != result.p else "")


def _population(result: HypothesisResult) -> str:
    """Return what the interval is about."""
    of_tasks = (measure := measure_of(result.metric)) is not None and measure.is_of_tasks
    subjects, models = result.languages or 0, result.models or 0
    kind = "task" if of_tasks else "language"
    where = f"{_counted(subjects, kind)}{f' and {models} models' if models > 1 else ''}"
    if result.generalize == "windows":
        return f"over {result.units} {'items' if of_tasks else 'windows'} of {where}"
    # Groups of tasks are compared as groups of languages are.
    others = result.generalize.replace("+", " and ") if result.generalize != "languages" else f"{kind}s"
    return f"for other {others} ({where})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _needs(result: HypothesisResult) -> str:
    """Return how many units would decide it."""
    of_tasks = (measure := measure_of(result.metric)) is not None and measure.is_of_tasks
    units = [
        (result.needed_windows, "items a task" if of_tasks else "windows a language"),
        (result.needed_languages, "languages"),
        (result.needed_models, "models"),
    ]
    parts = [f"{number:,} {noun}" for number, noun in units if number is not None]
    return f"about {' or '.join(parts)} would decide it" if parts else ""


def kind_of_test(result: HypothesisResult) -> str:
    """Return whether the hypothesis was declared before its results."""
    if result.confirmatory is None:
        return ""
    return "confirmatory" if result.confirmatory else "exploratory"


def show_findings(results: Results, console: Console, *, rows: bool = False) -> None:
    """Print every hypothesis with its verdict and its sentence.

    Args:
        results: the published results.
        console: where to print.
        rows: whether to print the parts of each hypothesis too.
    """
    hypotheses = results.hypotheses()
    parts = results.hypothesis_rows() if rows else []
    for number, result in enumerate(hypotheses):
        if number:
            console.print()
        mark, style = MARKS[Verdict(result.verdict)]
        kind = kind_of_test(result)
        console.print(
            Text.assemble(
                (f"{mark} {result.verdict}", style),
                "  ",
                (on_one_line(result.name), "bold"),
                f"  {kind}" if kind else "",
            ),
            soft_wrap=False,
        )
        if result.claim:
            console.print(Padding.indent(Text(on_one_line(result.claim)), 2))
        console.print(Padding.indent(Text(on_one_line(sentence(result)), style="dim"), 2))
        _print_parts(console, result, [row for row in parts if row.hypothesis == result.name])


def _print_parts(console: Console, result: HypothesisResult, rows: Sequence[HypothesisRow]) -> None:
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind and row.estimate is not None]
        if of_kind:
            console.print(Padding.indent(Text(f"{'left out' if kind == 'without' else kind}:"), 2))
        for row in of_kind:
            low, value, high = (figure(result.metric, end) for end in (row.low, row.estimate, row.high))
            verdict = f"  {row.verdict}" if row.verdict else ""
            excludes_none = excludes_no_change(result.metric, row.low, row.high)
            line = f"{on_one_line(row.subject)}  {value}  [{low}, {high}]{verdict}"
            console.print(Padding.indent(Text(line, style="" if excludes_none else "dim"), 4))


def excludes_no_change(metric: str, low: float | None, high: float | None) -> bool:
    """Return whether an interval holds no value that means no difference."""
    if low is None or high is None:
        return False
    none = 1.0 if is_ratio(metric) else 0.0
    return low > none or high < none


def as_json(results: Results) -> dict[str, object]:
    """Return every hypothesis with its parts, trials and reversals, in JSON's types."""
    tables: dict[str, Sequence[HypothesisRow | HypothesisTrial | Reversal]] = {
        "rows": results.hypothesis_rows(),
        "trials": results.hypothesis_pairs(),
        "reversals": results.reversals(),
    }
    return {
        "hypotheses": [
            {
                **plain(result),
                "sentence": sentence(result),
                **{
                    name: [plain(row) for row in rows if row.hypothesis == result.name]
                    for name, rows in tables.items()
                },
            }
            for result in results.hypotheses()
        ]
    }


def not_supported(hypotheses: Iterable[HypothesisResult]) -> list[str]:
    """Return the names of those that are not supported, except exploratory ones."""
    return [
        result.name
        for result in hypotheses
        if result.confirmatory is not False and result.verdict not in (Verdict.SUPPORTED, Verdict.AGREE)
    ]


# -- contrast

CONTRASTED = (
    Measure.BITS_PER_BYTE, Measure.KL_RATIO, Measure.TOP1, Measure.SNR, Measure.ACCURACY, Measure.GOLD_NATS, Measure.SIZE_MIB
)  # fmt: skip


def contrast(
    results: Results,
    left: str,
    right: str,
    console: Console,
    *,
    match: str | None = None,
    language: str | None = None,
) -> None:
    """Print what one side has more than another, by every metric, with 95 % intervals.

    Args:
        results: the published results.
        left: a method, or names of variants with ``*`` and ``?``.
        right: the other side.
        console: where to print.
        match: compare only variants that have the same ``bits`` or ``sparsity``.
        language: figures of this language only.

    Raises:
        StudyError: a side has no variant, or nothing is measured in the language.
    """
    pairs = sides_of(results.variants(), left, right, match)
    hypotheses = [
        PlannedHypothesis(
            name=measure, claim="", hash="", metrics=(Metric(measure),), pairs=pairs,
            alternative=Alternative.DIFFERENT, margin=measure.margin, family=measure,
        )
        for measure in CONTRASTED
        if language is None or measure.is_of_text
    ]  # fmt: skip
    outcomes, rows = results.compare(hypotheses)
    if language is not None:
        languages = sorted({row.subject for row in rows if row.kind == By.LANGUAGE})
        if languages and language not in languages:
            raise StudyError(
                f"`{language}` is not measured for both sides",
                hint=did_you_mean(language, languages) or f"there are {', '.join(languages)}",
            )
        rows = [row for row in rows if row.subject == language]
    for pair in pairs:
        console.print(Text(f"{' + '.join(pair.left)}  against  {' + '.join(pair.right)}", style="bold"))
    for outcome in outcomes:
        console.print()
        of_metric = next((row for row in rows if row.hypothesis == outcome.name), None)
        text = sentence(outcome) if language is None or of_metric is None else _row_sentence(of_metric)
        console.print(Text.assemble((outcome.metric, "bold"), f"  {on_one_line(text)}"))
        if language is None and outcome.verdict != Verdict.UNTESTABLE:
            _print_parts(
                console,
                outcome,
                [row for row in rows if row.hypothesis == outcome.name and row.kind in _SHOWN],
            )


_SHOWN = ("level", "language", "model", "task", "pair")


def _row_sentence(row: HypothesisRow) -> str:
    low, value, high = (figure(row.hypothesis, end) for end in (row.low, row.estimate, row.high))
    unit = _UNITS[Measure(row.hypothesis)]
    return f"{value}{unit}, 95 % interval {low} to {high} over {row.units} windows of {row.subject}; p {p_text(row.p)}"


def sides_of(variants: Sequence[VariantRow], left: str, right: str, match: str | None) -> tuple[Sides, ...]:
    """Return the variants of two sides; with ``match`` a pair for each value that both sides have."""
    sides = []
    for name in (left, right):
        side = [row for row in variants if row.method == name] or [
            row for row in variants if fnmatchcase(row.variant, name)
        ]
        if not side:
            words = list(dict.fromkeys(word for row in variants for word in (row.method, row.variant)))
            hint = did_you_mean(name, words) or f"there are {', '.join(words[:8])}"
            raise StudyError(f"no method or variant is called `{name}`", hint=hint)
        sides.append(side)
    if both := {row.variant for row in sides[0]} & {row.variant for row in sides[1]}:
        raise StudyError(f"`{min(both)}` is on both sides", hint="name variants, with `*` and `?`")
    if match is None:
        return (Sides(*(tuple(row.variant for row in side) for side in sides)),)
    pairs: dict[float, tuple[list[str], list[str]]] = {}
    for place, side in enumerate(sides):
        for row in side:
            value = getattr(settings_of(json.loads(row.options)), _MATCHED[match], None)
            if value is not None:
                pairs.setdefault(value, ([], []))[place].append(row.variant)
    matched = [
        Sides(tuple(first), tuple(second)) for _, (first, second) in sorted(pairs.items()) if first and second
    ]
    if not matched:
        raise StudyError(f"no variants of the two sides have the same {match}", hint="leave `--match` out")
    return tuple(matched)


_MATCHED = {"bits": "bits", "sparsity": "target_sparsity"}
"""Keys of ``--match``, and the settings that they name."""
