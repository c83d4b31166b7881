"""Rows of the views that compare variants with each other, and what is remarkable about them."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from studyctl.backends import OWN
from studyctl.contract.steps import StepId, StepKind

LEAST_GAP = 2.0
"""Places between two metrics from which on a trial is worth a sentence."""

_OF_TEXT = frozenset({"kl_nats", "ppl_ratio", "worst_ppl_ratio"})


class Rank(NamedTuple):
    """A row of the view ``ranks``."""

    trial_id: str
    model: str
    method: str
    variant: str
    metric: str
    value: float
    rank: int
    tied: int
    trials: int

    @property
    def middle(self) -> float:
        """Place in the middle of those that tie: what a tie of all is worth, whichever way it is read."""
        return self.rank + (self.tied - 1) / 2

    @property
    def fifth(self) -> int:
        """Part of the field that it is in: 0 for the best fifth, 4 for the last."""
        return min(4, 5 * (self.rank - 1) // max(1, self.trials - 1))


def task_metric(task: str) -> str:
    """Return what the view ``ranks`` calls the main metric of a task."""
    return str(StepId(StepKind.TASK, task))


class Disagreement(NamedTuple):
    """A row of the view ``disagreement``."""

    model: str
    metric: str
    other_metric: str
    kendall_tau: float | None
    variants: int


class ParetoPoint(NamedTuple):
    """A row of the view ``pareto``."""

    trial_id: str
    model: str
    method: str
    variant: str
    measure: str
    bits_per_weight: float
    value: float


class Agreement(NamedTuple):
    """A row of the view ``agreement``: what one backend made of a setting that another one compresses too."""

    trial_id: str
    model: str
    method: str
    variant: str
    setting: str
    backend: str
    backend_version: str | None
    seed: int | None
    state: str
    kl_nats: float | None
    ppl_ratio: float | None
    acc_change: float | None
    bits_per_weight: float | None
    sparsity: float | None
    compress_seconds: float | None
    peak_memory_bytes: int | None
    """Of the compress step."""
    kl_ratio: float | None
    """KL of ours / of this one: below 1 where ours is nearer to dense."""
    speedup: float | None
    """Seconds of this one / of ours: above 1 where ours is faster."""
    memory_ratio: float | None
    """Memory of ours / of this one: below 1 where ours needs less."""

    @property
    def ours(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.backend == OWN

    @property
    def measured(self) -> bool:
        """Whether it has a figure to compare."""
        return self.compress_seconds is not None or self.kl_nats is not None or self.ppl_ratio is not None

    @property
    def maker(self) -> str:
        """The backend with its version, where that is known."""
        return f"{self.backend} {self.backend_version}" if self.backend_version else self.backend


class Gap(NamedTuple):
    """Two metrics that place a trial differently."""

    better: Rank
    worse: Rank

    @property
    def places(self) -> float:
        """How far apart they are, whichever place of a tie one takes."""
        return min(self.worse.middle - self.better.middle, float(self.worse.rank - self.better.rank))

    @property
    def weight(self) -> tuple[float, bool, bool]:
        """What decides between gaps of a trial: places, then whether text and tasks disagree, then KL."""
        metrics = {self.better.metric, self.worse.metric}
        return self.places, len(metrics & _OF_TEXT) == 1, "kl_nats" in metrics


def gaps(ranks: Iterable[Rank], metric: str | None = None, other_metric: str | None = None) -> list[Gap]:
    """Return where metrics disagree about a trial, the largest difference first, one a trial.

    Args:
        ranks: Of one model.
        metric: Only gaps between this metric and another one.
        other_metric: Only gaps between ``metric`` and this one.
    """
    by_trial: dict[str, list[Rank]] = {}
    for rank in ranks:
        if rank.tied == rank.trials:
            continue  # a metric in which all trials are equal ranks none
        by_trial.setdefault(rank.trial_id, []).append(rank)
    metrics = {name for name in (metric, other_metric) if name is not None}
    widest = []
    for places in by_trial.values():
        pairs = (sorted(pair, key=lambda rank: rank.middle) for pair in combinations(places, 2))
        candidates = [
            Gap(better, worse) for better, worse in pairs if metrics <= {better.metric, worse.metric}
        ]
        if candidates:
            widest.append(max(candidates, key=lambda gap: gap.weight))
    remarkable = [gap for gap in widest if gap.places >= LEAST_GAP]
    return sorted(remarkable, key=lambda gap: -gap.places)
