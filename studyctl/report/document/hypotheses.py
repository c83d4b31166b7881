"""The hypotheses of a study: verdicts, estimates, what was compared, and reversals."""

from collections.abc import Iterator, Sequence

from studyctl.contract.hypotheses import Verdict
from studyctl.report import show
from studyctl.report.document.figures import estimate
from studyctl.report.document.model import (
    Block,
    Cell,
    Column,
    Figure,
    Forest,
    ForestRow,
    Items,
    Paragraph,
    Section,
    Table,
)
from studyctl.report.document.selection import PANELS, Shown, bounded
from studyctl.report.effects import UNSURE
from studyctl.report.findings import excludes_no_change, is_ratio, kind_of_test, p_text, sentence
from studyctl.report.layout import MISSING, change
from studyctl.store.results import HypothesisResult, HypothesisRow, HypothesisTrial, Results, Standing

FOREST_ROWS = 40
"""Rows of a panel at most."""
PAIRED_NAMES = 6
"""Variants of a side, or trials, that are named at most."""
NOT_COMPARED = "not compared"
WITHOUT = "without"
"""Kind of the rows with a unit left out."""


def findings(results: Results, shown: Shown, standings: list[Standing]) -> Section:
    """Return what the study came to: the verdicts of its hypotheses, or, if it has none, the best of both kinds compared."""
    hypotheses = results.hypotheses()
    notes = results.about().notes
    if not hypotheses:
        sentences, _ = show.best_of_each(results, shown.study, standings)
        blocks: list[Block] = [Paragraph("The spec states no hypothesis.")]
        if sentences or notes:
            blocks.append(Items((*sentences, *notes)))
        return Section("Findings", tuple(blocks))
    rows: dict[str, list[HypothesisRow]] = {}
    for row in results.hypothesis_rows():
        rows.setdefault(row.hypothesis, []).append(row)
    listed, hidden = bounded(hypotheses, "hypotheses")
    blocks = [Items(tuple(map(_verdict, listed)))]
    if notes:
        blocks.append(Items(tuple(notes)))
    blocks += [
        _verdicts(listed, hidden),
        *_forests(listed, rows, shown.names),
        *_parts(listed, rows, shown.names),
        *_compared(results.hypothesis_pairs()),
        *_reversals(results),
    ]
    return Section("Findings", tuple(blocks))


def _verdicts(hypotheses: Sequence[HypothesisResult], hidden: tuple[str, ...]) -> Table:
    columns = (
        Column("hypothesis", figures=False),
        Column("metric", figures=False),
        Column("left − right"),
        Column("p (Holm)"),
        Column("claimed", figures=False),
        Column("about", figures=False),
        Column("verdict", figures=False),
        Column("kind", figures=False),
    )
    rows = tuple(
        (
            Cell(one.name),
            Cell(one.metric),
            estimate(one.metric, one.estimate, one.low, one.high),
            _p(one.p_adjusted),
            Cell((one.alternative or MISSING).replace("_", " ")),
            Cell(_about(one)),
            Cell(one.verdict),
            Cell(kind_of_test(one) or MISSING),
        )
        for one in hypotheses
    )
    notes = (
        "left − right: the difference in the mean, of kl_ratio and ppl_ratio the ratio left / right. In brackets: 95 % intervals, "
        f"not adjusted for other hypotheses; {UNSURE} (grey): they hold no difference. p: adjusted within the family (Holm). "
        "about: what another sample is drawn of. confirmatory: recorded before every result that the verdict uses.",
        *hidden,
    )
    return Table("Hypotheses", columns, rows, notes)


def _p(value: float | None) -> Cell:
    return Cell(p_text(value).removeprefix("= "))


def _verdict(one: HypothesisResult) -> str:
    """Return the verdict with the claim and the figures."""
    kind = f", {test}" if (test := kind_of_test(one)) else ""
    claim = f" Claim: {one.claim}" if one.claim else ""
    if one.verdict == Verdict.UNTESTABLE:
        return f"{one.name}{kind}: {sentence(one)}.{claim}"
    return f"{one.name}: {one.verdict}{kind}.{claim} Result: {sentence(one)}."


def _about(one: HypothesisResult) -> str:
    return one.generalize if one.units is None else f"{one.generalize} ({one.units})"


def _forests(
    hypotheses: Sequence[HypothesisResult], rows: dict[str, list[HypothesisRow]], names: dict[str, str]
) -> Iterator[Figure]:
    """Yield the estimates of all hypotheses, a panel a metric, then each with its parts."""
    by_metric: dict[str, list[HypothesisResult]] = {}
    for one in hypotheses:
        if one.estimate is not None:
            by_metric.setdefault(one.metric, []).append(one)
    if not by_metric:
        return
    mark = "Filled: the interval excludes no difference; hollow and grey: it includes it."
    together = [
        Forest(metric, _axis(metric), is_ratio(metric), tuple(map(_whole, ones[:FOREST_ROWS])))
        for metric, ones in by_metric.items()
    ]
    cut = f" The first {FOREST_ROWS} of each." if max(map(len, by_metric.values())) > FOREST_ROWS else ""
    yield Figure(
        f"Estimates of the hypotheses with 95 % intervals, by metric. {mark}{cut}", tuple(together[:PANELS])
    )
    each = [
        Forest(one.name, _axis(one.metric), is_ratio(one.metric), (_whole(one, "all"), *parts))
        for ones in by_metric.values()
        for one in ones
        if (parts := tuple(_drawn_parts(one, rows.get(one.name, []), names)))
    ]
    kept, hidden = bounded(each, "hypotheses", PANELS)
    if kept:
        yield Figure(
            " ".join(
                (
                    f"Each hypothesis (diamond) with its parts, by level, language, model and task. {mark}",
                    *hidden,
                )
            ),
            tuple(kept),
        )


def _axis(metric: str) -> str:
    return (
        f"{metric}, left / right"
        if is_ratio(metric)
        else metric
        if "," in metric
        else f"{metric}, left − right"
    )


def _whole(one: HypothesisResult, label: str | None = None) -> ForestRow:
    return _forest_row(label or one.name, one.metric, one, is_part=False)


def _drawn_parts(
    one: HypothesisResult, parts: list[HypothesisRow], names: dict[str, str]
) -> Iterator[ForestRow]:
    drawn = [row for row in parts if row.kind != WITHOUT and row.estimate is not None]
    for row in drawn[: FOREST_ROWS - 1]:
        yield _forest_row(_part(row, names), one.metric, row, is_part=True)


def _forest_row(
    label: str, metric: str, row: HypothesisResult | HypothesisRow, *, is_part: bool
) -> ForestRow:
    assert row.estimate is not None  # only estimates are drawn
    has_ends = row.low is not None and row.high is not None
    unsure = has_ends and not excludes_no_change(metric, row.low, row.high)
    return ForestRow(label, row.estimate, row.low, row.high, unsure, is_part)


def _part(row: HypothesisRow, names: dict[str, str]) -> str:
    return f"{row.kind} {names.get(row.subject, row.subject)}"


def _parts(
    hypotheses: Sequence[HypothesisResult], rows: dict[str, list[HypothesisRow]], names: dict[str, str]
) -> Iterator[Table]:
    metrics = {one.name: one.metric for one in hypotheses}
    parts = [row for name in metrics for row in rows.get(name, [])]
    if not parts:
        return
    listed, hidden = bounded(parts, "parts")
    columns = (
        Column("hypothesis", figures=False),
        Column("part", figures=False),
        Column("left − right"),
        Column("p"),
        Column("p (Holm)"),
        Column("units"),
        Column("verdict", figures=False),
    )
    yield Table(
        "Parts of the hypotheses",
        columns,
        tuple(
            (
                Cell(row.hypothesis),
                Cell(_part(row, names)),
                estimate(metrics[row.hypothesis], row.estimate, row.low, row.high),
                _p(row.p),
                _p(row.p_adjusted),
                Cell(MISSING if row.units is None else str(row.units)),
                Cell(row.verdict or row.reason or MISSING),
            )
            for row in listed
        ),
        (f"{WITHOUT}: the estimate with one of them left out, which shows what it rests on.", *hidden),
    )


def _compared(trials: list[HypothesisTrial]) -> Iterator[Table]:
    """Yield which variants were held against which."""
    pairs: dict[tuple[str, int], dict[str, list[str]]] = {}
    for trial in trials:
        sides = pairs.setdefault((trial.hypothesis, trial.pair), {})
        side, name = (trial.side, trial.variant) if trial.compared else (NOT_COMPARED, trial.trial_id)
        sides.setdefault(side, []).append(name)
    if not pairs:
        return
    listed, hidden = bounded(list(pairs.items()), "pairs")
    reasons = list(dict.fromkeys(trial.reason for trial in trials if not trial.compared and trial.reason))
    columns = ("hypothesis", "left", "right", NOT_COMPARED)
    yield Table(
        "What was compared",
        tuple(Column(title, figures=False) for title in columns),
        tuple(
            (
                Cell(name),
                *(Cell(_names(sides.get(side, []))) for side in ("left", "right", NOT_COMPARED)),
            )
            for (name, _), sides in listed
        ),
        (
            "Variants of one side are averaged in each window or item first.",
            *(f"Not compared: {reason}" for reason in reasons[:PANELS]),
            *hidden,
        ),
    )


def _names(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - PAIRED_NAMES
    return (", ".join(distinct[:PAIRED_NAMES]) or MISSING) + (f" and {more} more" if more > 0 else "")


def _reversals(results: Results) -> Iterator[Table]:
    reversals = results.reversals()
    if not reversals:
        return
    listed, hidden = bounded(reversals, "reversals")
    columns = (
        Column("hypothesis", figures=False),
        Column("better by the first", figures=False),
        Column("better by the second", figures=False),
        Column("first", figures=False),
        Column("difference"),
        Column("second", figures=False),
        Column("difference"),
        Column("p (Holm)"),
    )
    yield Table(
        "Reversals",
        columns,
        tuple(
            (
                Cell(row.hypothesis),
                Cell(row.variant),
                Cell(row.other_variant),
                Cell(row.metric),
                Cell(change(row.difference).plain),
                Cell(row.other_metric),
                Cell(change(row.other_difference).plain),
                _p(row.p_adjusted),
            )
            for row in listed
        ),
        (
            "Pairs of variants that two metrics surely put in opposite orders; the larger of both p, adjusted.",
            *hidden,
        ),
    )
