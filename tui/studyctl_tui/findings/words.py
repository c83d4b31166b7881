"""The findings in words: a line of the list, and why there is none."""

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import NamedTuple

from textual.content import Content

from studyctl.contract.hypotheses import Measure, Verdict
from studyctl.errors import StudyError
from studyctl.printable import on_one_line
from studyctl.report.effects import Effect, Form
from studyctl.report.findings import MARKS, figure, is_ratio, kind_of_test, measure_of, p_text
from studyctl.store.results import HypothesisResult
from studyctl_tui.findings.data import Finding, Findings
from studyctl_tui.shared.text import fit
from studyctl_tui.shared.view import View

STYLES = {
    Verdict.SUPPORTED: "$success",
    Verdict.AGREE: "$success",
    Verdict.CONTRADICTED: "$error",
    Verdict.DISAGREE: "$error",
    Verdict.SAME: "$primary",
    Verdict.UNDECIDED: "$warning",
    Verdict.UNTESTABLE: "dim",
}
_WORDS = {Verdict.SAME: "no difference", Verdict.UNTESTABLE: "untestable"}
"""Verdicts that are too long for the list."""
LEAST_NAME = 16
GAP = "  "


class Columns(NamedTuple):
    """What a line of the list has, and the widths of its parts; a width of 0 leaves a part out."""

    form: Form
    verdict: int
    name: int
    metric: int
    estimate: int
    p: int
    kind: int


def word(verdict: str) -> str:
    """Return a verdict with its mark."""
    return f"{MARKS[Verdict(verdict)][0]} {_WORDS.get(Verdict(verdict), verdict)}"


def estimate_of(result: HypothesisResult, form: Form) -> str:
    """Return an estimate with its interval."""
    measure = measure_of(result.metric)
    if measure is Measure.SIZE_MIB or result.estimate is None:
        return f"{figure(result.metric, result.estimate)} MiB" if result.estimate is not None else ""
    ratio = is_ratio(result.metric)
    one = Effect(
        result.estimate, result.low, result.high, 1.0 if ratio else 0.0, measure is not None and not ratio
    )
    used = form if measure is not None else Form.SHORT  # tau has steps, of one pair
    return one.figure(used) + (one.spread(used) if form is not Form.PLAIN else "")


def columns_for(findings: Sequence[Finding], width: int) -> Columns:
    """Return what fits: where there is little room, kinds of test, metrics, digits, p and intervals are left out in turn."""
    results = [finding.result for finding in findings]

    def widest(texts: Iterator[str]) -> int:
        return max(map(len, texts), default=0)

    verdict, names = widest(word(one.verdict) for one in results), widest(one.name for one in results)
    p = widest(_p(one) for one in results)
    kind = widest(kind_of_test(one) for one in results)
    metric = widest(one.metric for one in results)
    for form, has_metric, has_kind, has_p, least in (
        (Form.WHOLE, 1, 1, 1, names),
        (Form.WHOLE, 0, 1, 1, names),
        (Form.SHORT, 0, 1, 1, min(names, 24)),
        (Form.SHORT, 0, 0, 1, min(names, LEAST_NAME)),
        (Form.SHORT, 0, 0, 0, min(names, LEAST_NAME)),
        (Form.PLAIN, 0, 0, 0, 0),
    ):
        others = [
            verdict,
            metric * has_metric,
            widest(estimate_of(one, form) for one in results),
            p * has_p,
            kind * has_kind,
        ]
        room = width - sum(other + len(GAP) for other in others if other)
        if room >= least:
            break
    return Columns(form, verdict, max(8, min(room, names)), *others[1:])


def _p(result: HypothesisResult) -> str:
    return f"p {p_text(result.p_adjusted)}" if result.p_adjusted is not None else ""


def line(finding: Finding, columns: Columns, width: int) -> Content:
    """Return a line of the list, of at most this many characters."""
    result = finding.result
    verdict = Verdict(result.verdict)
    begin = Content.assemble(
        (fit(word(verdict), columns.verdict), STYLES[verdict]),
        GAP,
        (fit(on_one_line(result.name), columns.name), "bold"),
        (GAP + fit(result.metric, columns.metric) if columns.metric else "", "dim"),
    )
    if verdict is Verdict.UNTESTABLE:
        room = max(0, width - begin.cell_length - len(GAP))
        return begin + Content.assemble(GAP, (fit(on_one_line(result.reason or ""), room).rstrip(), "dim"))
    parts = [
        (estimate_of(result, columns.form), columns.estimate, True, ""),
        (_p(result), columns.p, False, ""),
        (kind_of_test(result), columns.kind, False, "dim"),
    ]
    end = [
        Content.assemble(GAP, (fit(text, width, right=right), style))
        for text, width, right, style in parts
        if width
    ]
    return Content("").join([begin, *end]).rstrip()


def summary(findings: Findings) -> str:
    """Return how many hypotheses there are of each verdict."""
    verdicts = [Verdict(finding.result.verdict) for finding in findings.hypotheses]
    counts = [
        f"{verdicts.count(verdict)} {_WORDS.get(verdict, verdict)}"
        for verdict in Verdict
        if verdict in verdicts
    ]
    total = f"{len(verdicts)} hypothes{'is' if len(verdicts) == 1 else 'es'}"
    return f"{total}: {', '.join(counts)}"


def missing(findings: Findings | None, trouble: StudyError | None, view: View) -> Iterator[str]:
    """Yield why there are no findings, and what to do; nothing while they are read."""
    if trouble is not None:
        for problem in trouble.problems:
            yield problem.what
            if problem.hint:
                yield f"hint: {problem.hint}"
        if view.snapshot.running:
            yield "The study runs: findings appear here by themselves."
    elif findings is not None:
        methods = findings.methods if len(findings.methods) > 1 else ("wanda", "gptq")
        left, right = methods[-1], methods[0]
        yield "This study has no hypotheses. They state what it is run to decide, before its results are there:"
        yield "\n".join(
            [
                "    [[hypotheses]]",
                f'    name = "{left}-closer"',
                '    metric = "kl_ratio"',
                f'    left = {{ methods = "{left}" }}',
                f'    right = {{ methods = "{right}" }}',
            ]
        )
        yield "This one asks whether the left side stays closer to the dense model; docs/findings.md has more."
        yield f"4 opens the spec; `studyctl run {quote(str(view.paths.spec))}` then tests it on what is stored, and runs only what is missing."
