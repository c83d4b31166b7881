"""Where metrics disagree: Kendall's tau between them, the places of variants, and sentences about both."""

from collections.abc import Collection, Iterable

from studyctl.contract.steps import StepId
from studyctl.report.layout import MISSING, ratio
from studyctl.store.comparison import Gap, Rank, gaps, task_metric
from studyctl_tui.compare.data import Comparison, Line, labels
from studyctl_tui.compare.sheets import Cell, Scale, Sheet, shared_start

NAMES = {
    "kl_nats_per_byte": "KL/byte",
    "bits_per_byte_change": "bits/byte",
    "worst_bits_per_byte_change": "worst language",
    "acc_change": "mean accuracy",
}
"""Names of the metrics, in the order in which they are shown; tasks follow."""
_SHORT = {"worst_bits_per_byte_change": "worst lang.", "acc_change": "mean acc"}
ANY = "*"
"""Key of the line that stands for all metrics."""
_AGREEMENT = Scale((0.9, 0.7, 0.4, 0.0))
_TOO_FEW = "too few variants are measured to rank them"


def name_of(metric: str) -> str:
    """Return the name of a metric."""
    return NAMES[metric] if metric in NAMES else str(StepId.parse(metric).subject)


def short_names(comparison: Comparison) -> dict[str, str]:
    """Return the short name of each metric with ranks, tasks in the order of the spec."""
    shared = shared_start(list(comparison.tasks))
    tasks = {task_metric(task): task.removeprefix(shared) for task in comparison.tasks}
    ranking = {rank.metric for rank in comparison.ranks}
    return {metric: name for metric, name in (NAMES | _SHORT | tasks).items() if metric in ranking}


class TauSheet(Sheet):
    """Metrics by metrics."""

    title = "Kendall's tau-b"
    legend = f"{_AGREEMENT.legend(ratio)}  1: same order"
    empty = _TOO_FEW

    def __init__(self, comparison: Comparison) -> None:
        self._of = {(row.metric, row.other_metric): row for row in comparison.disagreement}
        names = short_names(comparison)
        any_metric = [Line(ANY, "any metric")] if names else []
        super().__init__(
            names, any_metric + [Line(metric, NAMES.get(metric, name)) for metric, name in names.items()]
        )
        self.headers = names

    def cell(self, line: Line, column: str) -> Cell:
        """Return tau, shaded by how much two metrics disagree."""
        row = self._of.get((line.key, column))
        if line.key == ANY:
            return Cell("")
        if row is None or row.kendall_tau is None:
            return Cell("·" if line.key == column else MISSING)
        return Cell(_signed(row.kendall_tau, 2), _AGREEMENT.step(row.kendall_tau))

    def says(self, line: Line, column: str | None) -> str:
        """Return tau and the number of variants."""
        if line.key == ANY:
            return "where any two metrics place a variant most differently, below"
        row, name = self._of.get((line.key, column or "")), name_of(line.key)
        if row is None:
            return f"{name}: where it places variants otherwise than other metrics do, below"
        tau = MISSING if row.kendall_tau is None else _signed(row.kendall_tau, 3)
        return f"{name} and {name_of(row.other_metric)}: tau-b {tau} over {row.variants} variants"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+z.{decimals}f}"
    return text.removeprefix("+") if float(text) == 0 else text.replace("-", "−")


class RankSheet(Sheet):
    """Variants by metrics: places."""

    title = "places"
    legend = "1 is the best  = shared"
    empty = _TOO_FEW

    def __init__(self, comparison: Comparison, lines: Iterable[Line]) -> None:
        self._of = {(rank.trial_id, rank.metric): rank for rank in comparison.ranks}
        names = short_names(comparison)
        super().__init__(names, lines)
        self.headers = names

    def has_figures(self, line: Line) -> bool:
        """Whether a variant has a place in any metric."""
        return any((line.key, metric) in self._of for metric in self.columns)

    def cell(self, line: Line, column: str) -> Cell:
        """Return a place, shaded by the fifth of the field that it is in."""
        rank = self._of.get((line.key, column))
        if rank is None:
            return Cell(MISSING)
        return Cell(str(rank.rank), rank.fifth, "=" if rank.tied > 1 else " ")

    def says(self, line: Line, column: str | None) -> str:
        """Return a place in words."""
        rank = self._of.get((line.key, column or ""))
        if rank is None:
            return line.label
        return (
            f"{line.label} is {place(rank)} of {rank.trials} by {name_of(rank.metric)} ({ratio(rank.value)})"
        )


def place(rank: Rank) -> str:
    """Return ``2nd``, or ``tied 2nd``."""
    teen = rank.rank % 100 in (11, 12, 13)
    ending = "th" if teen else {1: "st", 2: "nd", 3: "rd"}.get(rank.rank % 10, "th")
    return f"{'tied ' if rank.tied > 1 else ''}{rank.rank}{ending}"


def sentences(comparison: Comparison, trials: Collection[str], *metrics: str) -> list[tuple[str, str]]:
    """Return trials that metrics rank differently, each with a sentence, the largest difference first.

    Args:
        comparison: The results.
        trials: Those that are shown.
        metrics: One: only differences between it and another; two: only differences between these.
    """
    names = labels(comparison)
    ranks = [rank for rank in comparison.ranks if rank.trial_id in trials]
    return [
        (gap.better.trial_id, f"{names[gap.better.trial_id]} {_places(gap)}") for gap in gaps(ranks, *metrics)
    ]


def _places(gap: Gap) -> str:
    better, worse = gap.better, gap.worse
    if better.trials == worse.trials:
        return f"is {place(better)} by {name_of(better.metric)} and {place(worse)} by {name_of(worse.metric)} (of {worse.trials})"
    return (
        f"is {place(better)} of {better.trials} by {name_of(better.metric)} and "
        f"{place(worse)} of {worse.trials} by {name_of(worse.metric)}"
    )
