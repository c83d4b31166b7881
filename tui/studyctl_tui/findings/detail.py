"""Everything about one hypothesis as lines of text: verdict, sentence, forest plot, what was compared."""

from collections.abc import Iterator, Sequence
from enum import IntEnum, auto
from typing import NamedTuple

from textual.content import Content

from studyctl.contract.hypotheses import Alternative, By, Level, Verdict
from studyctl.printable import on_one_line
from studyctl.report.effects import UNSURE
from studyctl.report.findings import (
    MARKS,
    excludes_no_change,
    figure,
    is_ratio,
    kind_of_test,
    measure_of,
    p_text,
    sentence,
)
from studyctl.store.results import HypothesisResult, HypothesisRow, HypothesisTrial, Reversal
from studyctl_tui.findings.data import Finding
from studyctl_tui.findings.forest import Interval, Scale
from studyctl_tui.findings.words import STYLES
from studyctl_tui.shared.text import fit, wrapped

HEADINGS = {
    "level": "for another sample of",
    "pair": "of each pair",
    By.LANGUAGE: "in each language",
    By.TASK: "in each task",
    By.MODEL: "in each model",
    "without": "without one of them",
}
"""Kinds of rows, in the order in which they are shown."""
_CLAIMS = {
    Alternative.BETTER: "left is better",
    Alternative.WORSE: "left is worse",
    Alternative.DIFFERENT: "the sides differ",
    Alternative.NO_WORSE: "left is not worse",
}
_POPULATIONS = {
    Level.WINDOWS: "about these languages and models",
    Level.LANGUAGES: "about other languages too",
    Level.MODELS: "about other models too",
    Level.CROSSED: "about other languages and models too",
}
LEAST_PLOT = 15
"""Characters below which a plot says nothing: figures alone are shown then."""
MOST_PLOT = 60
JUDGED = "›"
"""Before the level that the verdict is about."""


class _VerdictLength(IntEnum):
    """How much of a row's verdict is shown; the most first."""

    WITH_P = auto()
    WORD = auto()
    MARK = auto()


class _Layout(NamedTuple):
    """Widths of the parts of a row, and how much of its verdict is shown."""

    label: int
    plot: int
    figures: int
    verdict: _VerdictLength


def detail(finding: Finding, width: int) -> list[Content]:
    """Return everything about a hypothesis, in lines of at most this many characters."""
    result = finding.result
    verdict = Verdict(result.verdict)
    kind = kind_of_test(result)
    lines = [
        Content.assemble(
            (f"{MARKS[verdict][0]} {verdict}", f"bold {STYLES[verdict]}"),
            "  ",
            (on_one_line(result.name), "bold"),
            (f"  {kind}" if kind else "", "dim"),
        ).truncate(width, ellipsis=True)
    ]
    lines += wrapped(result.claim, width, "", "bold") if result.claim else []
    lines += wrapped(sentence(result), width, "", "")
    lines += wrapped(" · ".join(_about(result)), width, "", "dim")
    lines += _plot(finding, width)
    lines += _pairs(finding.trials, width)
    lines += _reversals(finding.reversals, width)
    return lines


def _about(result: HypothesisResult) -> Iterator[str]:
    """Yield what was claimed, of whom, and when."""
    yield result.metric
    if result.alternative is not None:
        yield f"claim: {_CLAIMS[Alternative(result.alternative)]}"
        yield _POPULATIONS[Level(result.generalize)]
    if result.margin is not None:
        yield f"margin {result.margin:g}"
    yield f"family {result.family}"
    if result.declared is not None:
        order = {True: ", before the results", False: ", after the first results", None: ""}[
            result.confirmatory
        ]
        yield f"recorded {result.declared:%Y-%m-%d %H:%M} UTC{order}"


# -- the plot


def _plot(finding: Finding, width: int) -> Iterator[Content]:
    """Yield the rows by their kinds, all on one scale."""
    result = finding.result
    rows = [row for row in finding.rows if row.kind in HEADINGS]
    subjects = _subjects(rows)
    figures = max((len(_figures(result, row)) for row in rows if row.estimate is not None), default=0)
    label = min(max(map(len, subjects.values()), default=0) + 2, max(14, width // 3))
    for length in _VerdictLength:
        verdicts = max((len(_verdict(row, length)) for row in rows), default=0)
        room = width - label - figures - verdicts - 4
        if room >= LEAST_PLOT:
            break
    layout = _Layout(label, min(room, MOST_PLOT) if room >= LEAST_PLOT else 0, figures, length)
    intervals = {id(row): one for row in rows if (one := _interval(result, row)) is not None}
    if not rows:
        yield from _tau(result, width)
        return
    scale = Scale.of(intervals.values(), max(1, layout.plot))
    yield Content()
    if layout.plot and intervals:
        yield Content.styled(" " * (label + 1) + _directions(finding, scale), "dim")
    for kind, heading in HEADINGS.items():
        of_kind = [row for row in rows if row.kind == kind]
        if of_kind:
            yield Content.styled(heading, "bold")
        for row in of_kind:
            is_judged = kind == "level" and row.subject == result.generalize
            name = f"{JUDGED if is_judged else ' '} {fit(subjects[id(row)], label - 2)}"
            begin = Content.styled(name, "bold" if is_judged else "")
            if row.estimate is None:
                yield from _without_figure(begin, row, width)
            else:
                yield begin + _row(result, row, intervals.get(id(row)), scale, layout)


def _tau(result: HypothesisResult, width: int) -> Iterator[Content]:
    """Yield the bounds of Kendall's tau between opposite orders (-1) and the same one (1)."""
    if measure_of(result.metric) is None and None not in (result.estimate, result.low, result.high):
        scale = Scale(-1.0, 1.0, min(width - 28, MOST_PLOT))
        bar = scale.bar(Interval(result.low or 0.0, result.estimate or 0.0, result.high or 0.0))
        yield Content()
        yield Content.assemble(
            (" opposite ", "dim"),
            (bar.before, "dim"),
            bar.interval,
            (bar.after, "dim"),
            (" same order", "dim"),
        )


def _without_figure(begin: Content, row: HypothesisRow, width: int) -> Iterator[Content]:
    reason = fit(on_one_line(row.reason or "no figure"), max(0, width - begin.cell_length - 1)).rstrip()
    yield begin + Content.styled(f" {reason}", "dim")


def _row(
    result: HypothesisResult, row: HypothesisRow, interval: Interval | None, scale: Scale, layout: _Layout
) -> Content:
    """Return a row behind its subject: its bar, its figures, and its verdict if it has one."""
    style = "" if excludes_no_change(result.metric, row.low, row.high) else "dim"
    style = STYLES[Verdict(row.verdict)] if row.verdict else style
    parts: list[tuple[str, str]] = [(" ", "")]
    if layout.plot:
        if interval is None:
            parts.append(("".join(scale.empty()), "dim"))
        else:
            bar = scale.bar(interval)
            parts += [(bar.before, "dim"), (bar.interval, style), (bar.after, "dim")]
        parts.append((" ", ""))
    parts.append((f"{_figures(result, row):>{layout.figures}}", style))
    parts.append((f"  {_verdict(row, layout.verdict)}" if row.verdict else "", style))
    return Content.assemble(*parts)


def _subjects(rows: Sequence[HypothesisRow]) -> dict[int, str]:
    """Return the names of the rows; those of pairs without what all of them begin with."""
    pairs = [row.subject for row in rows if row.kind == "pair"]
    lefts = {subject.partition(" against ")[0] for subject in pairs}
    shared = f"{min(lefts)} " if len(lefts) == 1 and len(pairs) > 1 else ""
    return {
        id(row): on_one_line(row.subject.removeprefix(shared) if row.kind == "pair" else row.subject)
        for row in rows
    }


def _interval(result: HypothesisResult, row: HypothesisRow) -> Interval | None:
    if row.estimate is None or row.low is None or row.high is None:
        return None
    kind = Interval.of_ratios if is_ratio(result.metric) else Interval
    return kind(row.low, row.estimate, row.high)


def _figures(result: HypothesisResult, row: HypothesisRow) -> str:
    low, value, high = (figure(result.metric, end) for end in (row.low, row.estimate, row.high))
    if row.low is None:
        return value
    mark = "" if excludes_no_change(result.metric, row.low, row.high) else UNSURE
    return f"{mark}{value} [{low}, {high}]"


def _verdict(row: HypothesisRow, length: _VerdictLength) -> str:
    """Return the verdict of a row."""
    if row.verdict is None:
        return ""
    mark = MARKS[Verdict(row.verdict)][0]
    if length is _VerdictLength.MARK:
        return mark
    p = (
        f", p {p_text(row.p_adjusted)}"
        if length is _VerdictLength.WITH_P and row.p_adjusted is not None
        else ""
    )
    return f"{mark} {row.verdict}{p}"


def _directions(finding: Finding, scale: Scale) -> str:
    """Return who is better on which side of the line, as far as there is room."""
    measure = measure_of(finding.result.metric)
    if measure is None:
        return ""
    sides = [_side(finding.trials, side) for side in ("right", "left")]
    low, high = sides if measure.more_is_better else reversed(sides)
    before, after = scale.zero, scale.width - scale.zero - 1
    left = next((text for text in (f"{low} better ◂", "◂") if len(text) <= before), "")
    right = next((text for text in (f"▸ {high} better", "▸") if len(text) <= after), "")
    return f"{left:>{before}}│{right}"


def _side(trials: Sequence[HypothesisTrial], side: str) -> str:
    """Return the methods of a side."""
    return on_one_line(" + ".join(dict.fromkeys(one.method for one in trials if one.side == side))) or side


# -- what was compared


def _pairs(trials: Sequence[HypothesisTrial], width: int) -> Iterator[Content]:
    """Yield the variants of each pair of sides, and the trials that are not in the estimate."""
    if not trials:
        return
    yield Content()
    yield Content.styled("compared", "bold")
    for pair in dict.fromkeys(trial.pair for trial in trials):
        left, right = (
            " + ".join(
                dict.fromkeys(trial.variant for trial in trials if (trial.pair, trial.side) == (pair, side))
            )
            for side in ("left", "right")
        )
        yield from wrapped(f"{left} against {right}" if right else left, width, "  ", "")
    for trial in trials:
        if not trial.compared:
            yield from wrapped(
                f"not {trial.trial_id}: {trial.reason or 'no result'}", width, "  ", "$warning"
            )


def _reversals(reversals: Sequence[Reversal], width: int) -> Iterator[Content]:
    """Yield the variants that two metrics surely put in opposite orders."""
    if not reversals:
        return
    yield Content()
    yield Content.styled("surely in opposite orders", "bold")
    for one in reversals:
        text = (
            f"{one.variant} is better than {one.other_variant} by {one.metric}, and worse by {one.other_metric}; "
            f"p {p_text(one.p_adjusted)} after Holm"
        )
        yield from wrapped(text, width, "  ", "")
