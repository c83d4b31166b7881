"""Where metrics disagree: Kendall's tau between them, the places of variants, and sentences about both."""

from collections.abc import Collection, Iterable

from studyctl.contract.steps import StepId
from studyctl.report.layout import MISSING, ratio
from studyctl.store.comparison import Gap, Rank, gaps, task_metric
from studyctl_tui.compare.data import Comparison, Line, labels
from studyctl_tui.compare.scale import Scale
from studyctl_tui.compare.sheets import Cell, Sheet, shared_start

NAMES = {
    "kl_nats": "KL",
    "ppl_ratio": "ppl ratio",
    "worst_ppl_ratio": "worst language",
    "acc_change": "mean accuracy",
}
"""How people call the metrics, in the order in which they are shown; tasks follow."""
_SHORT = {"worst_ppl_ratio": "worst lang.", "acc_change": "mean acc"}
ANY = "*"
"""Key of the line that stands for all metrics."""
_AGREEMENT = Scale((0.9, 0.7, 0.4, 0.0))


def name_of(metric: str) -> str:
    """Return how people call a metric."""
    return NAMES[metric] if metric in NAMES else str(StepId.parse(metric).subject)


def short_names(comparison: Comparison) -> dict[str, str]:
    """Return what stands above a column for each metric."""
    shared = shared_start(list(comparison.tasks))
    tasks = {task_metric(task): task.removeprefix(shared) for task in comparison.tasks}
    return NAMES | _SHORT | tasks


def metrics_of(comparison: Comparison) -> list[str]:
    """Return the metrics that rank something, tasks in the order of the spec."""
    there = {rank.metric for rank in comparison.ranks}
    return [metric for metric in (*NAMES, *map(task_metric, comparison.tasks)) if metric in there]


class TauSheet(Sheet):
    """Metrics by metrics."""

    def __init__(self, comparison: Comparison) -> None:
        metrics = metrics_of(comparison)
        self._short = short_names(comparison)
        self._of = {(one.metric, one.other_metric): one for one in comparison.disagreement}
        any_metric = [Line(ANY, "any metric")] if metrics else []
        super().__init__(
            metrics, any_metric + [Line(metric, NAMES.get(metric, self._short[metric])) for metric in metrics]
        )
        self.title = "Kendall's tau-b"
        self.legend = f"{_AGREEMENT.legend(ratio)}  1: same order"
        self.empty = "too few variants are measured to rank them"

    def has_figures(self, line: Line) -> bool:
        """Show all: a metric that ranks nothing is no line to begin with."""
        return True

    def header(self, column: str) -> str:
        """Return the name of a metric."""
        return self._short[column]

    def cell(self, line: Line, column: str) -> Cell:
        """Return tau; the more two metrics disagree, the worse it looks."""
        one = self._of.get((line.key, column))
        if line.key == ANY:
            return Cell("")
        if one is None or one.kendall_tau is None:
            return Cell("·" if line.key == column else MISSING)
        text = f"{one.kendall_tau:+.2f}".replace("-", "−")
        return Cell(text, _AGREEMENT.step(one.kendall_tau))

    def says(self, line: Line, column: str | None) -> str:
        """Return tau with how many variants it is about."""
        if line.key == ANY:
            return "where any two metrics place a variant most differently, below"
        one, name = self._of.get((line.key, column or "")), name_of(line.key)
        if one is None:
            return f"{name}: where it places variants otherwise than other metrics do, below"
        tau = MISSING if one.kendall_tau is None else f"{one.kendall_tau:+.3f}".replace("-", "−")
        return f"{name} and {name_of(one.other_metric)}: tau-b {tau} over {one.variants} variants"


class RankSheet(Sheet):
    """Variants by metrics: places."""

    def __init__(self, comparison: Comparison, lines: Iterable[Line]) -> None:
        self._short = short_names(comparison)
        self._of = {(rank.trial_id, rank.metric): rank for rank in comparison.ranks}
        super().__init__(metrics_of(comparison), lines)
        self.title = "places"
        self.legend = "1 is the best  = shared"
        self.empty = "too few variants are measured to rank them"

    def has_figures(self, line: Line) -> bool:
        """Leave out what has no place in any metric."""
        return any((line.key, metric) in self._of for metric in self.columns)

    def header(self, column: str) -> str:
        """Return the name of a metric."""
        return self._short[column]

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
        return f"{line.label} is {place(rank)} of {rank.trials} by {name_of(rank.metric)} ({ratio(rank.value).plain})"


def place(rank: Rank) -> str:
    """Return ``2nd``, or ``tied 2nd``."""
    ending = (
        "th" if rank.rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank.rank % 10, "th")
    )
    return f"{'tied ' if rank.tied > 1 else ''}{rank.rank}{ending}"


def sentences(
    comparison: Comparison, trials: Collection[str], metric: str | None = None, other: str | None = None
) -> list[tuple[str, str]]:
    """Return trials with what is odd about their places, the largest difference first.

    Args:
        comparison: The results.
        trials: Those that are shown.
        metric: Only differences between this metric and another one.
        other: Only differences between these two.
    """
    names = labels(comparison)
    shown = [rank for rank in comparison.ranks if rank.trial_id in trials]
    return [
        (gap.better.trial_id, f"{names[gap.better.trial_id]} {_places(gap)}")
        for gap in gaps(shown, metric, other)
    ]


def _places(gap: Gap) -> str:
    better, worse = gap.better, gap.worse
    if better.trials == worse.trials:
        return f"is {place(better)} by {name_of(better.metric)} and {place(worse)} by {name_of(worse.metric)} (of {worse.trials})"
    return (
        f"is {place(better)} of {better.trials} by {name_of(better.metric)} and "
        f"{place(worse)} of {worse.trials} by {name_of(worse.metric)}"
    )
