"""Rows of the views that compare variants with each other, and the trials on which metrics disagree."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from studyctl.backends import OWN
from studyctl.contract.steps import StepId, StepKind

LEAST_GAP = 2.0
"""A trial is worth a sentence if two metrics rank it at least so many places apart."""

_OF_TEXT = frozenset({"kl_nats_per_byte", "bits_per_byte_change", "worst_bits_per_byte_change"})


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
        """Mean place of the trials that share this rank."""
        return self.rank + (self.tied - 1) / 2

    @property
    def fifth(self) -> int:
        """The fifth of the trials that it is in: 0 for the best, 4 for the last."""
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
    bits_per_weight: float | None
    size_mib: float | None
    value: float
    file_mib: float | None


class Agreement(NamedTuple):
    """A row of the view ``agreement``: the result of one backend for a setting that other backends compress, too."""

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
    """KL of studyctl / of this backend: below 1, studyctl's is closer to dense."""
    speedup: float | None
    """Seconds of this backend / of studyctl: above 1, studyctl is faster."""
    memory_ratio: float | None
    """Memory of studyctl / of this backend: below 1, studyctl needs less."""

    @property
    def ours(self) -> bool:
        """Whether it is studyctl's, which the others are compared with."""
        return self.backend == OWN

    @property
    def measured(self) -> bool:
        """Whether it has a figure to compare."""
        return self.compress_seconds is not None or self.kl_nats is not None or self.ppl_ratio is not None

    @property
    def maker(self) -> str:
        """The backend with its version, if that is known."""
        return f"{self.backend} {self.backend_version}" if self.backend_version else self.backend


class Gap(NamedTuple):
    """The ranks of a trial by two metrics."""

    better: Rank
    worse: Rank

    @property
    def places(self) -> float:
        """How many places they are apart: between middles of ties or between ranks, whichever is less."""
        return min(self.worse.middle - self.better.middle, float(self.worse.rank - self.better.rank))

    @property
    def weight(self) -> tuple[float, bool, bool]:
        """Sort key of the gaps of a trial: places, then whether text and tasks disagree, then whether KL is involved."""
        metrics = {self.better.metric, self.worse.metric}
        return self.places, len(metrics & _OF_TEXT) == 1, "kl_nats_per_byte" in metrics


def gaps(ranks: Iterable[Rank], metric: str | None = None, other_metric: str | None = None) -> list[Gap]:
    """Return the largest gap of each trial on which metrics disagree, the largest first.

    Args:
        ranks: of one model.
        metric: only gaps between this metric and another one.
        other_metric: only gaps between ``metric`` and this one.
    """
    by_trial: dict[str, list[Rank]] = {}
    for rank in ranks:
        if rank.tied == rank.trials:
            continue  # a metric in which all trials are equal does not rank them
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
