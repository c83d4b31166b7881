"""How fast a model's files are, against dense: ratios within rounds, and what they prove.

In every round each file is timed once, in a process of its own, and dense twice. A file's ratio of a round is its speed over the
geometric mean of both dense ones; its interval is Student's, over the logarithms of all rounds. Dense against itself (A/A) shows what the
machine lets one see: a verdict needs that interval to lie within :data:`~studyctl.contract.speed.BAND`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, variance

from studyctl.contract.records import SpeedRun
from studyctl.contract.speed import BAND, Phase, SpeedVerdict
from studyctl.findings.estimates import student

LEAST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of speeds with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def fits_band(self) -> bool:
        """Whether the whole interval is no difference."""
        return BAND[0] <= self.low and self.high <= BAND[1]


def seconds_of(run: SpeedRun, phase: Phase) -> float | None:
    """Return the seconds of a phase; None if the file could not be timed."""
    return run.prefill_seconds if phase is Phase.PREFILL else run.decode_seconds


class Session:
    """The rounds of one session, with so many threads."""

    def __init__(self, runs: Iterable[SpeedRun], dense: str, threads: int) -> None:
        """Take the runs; ``dense``: the trial that the others are compared with."""
        self._dense = dense
        self._seconds: dict[tuple[str, int, Phase], dict[int, float]] = defaultdict(dict)
        """By file, copy and phase: seconds by round."""
        for run in runs:
            for phase in Phase if run.threads == threads else ():
                if seconds := seconds_of(run, phase):
                    self._seconds[run.file, run.copy, phase][run.round] = seconds

    def against_itself(self, phase: Phase) -> Ratio | None:
        """Return the speed of one copy of dense over that of the other; None: fewer than :data:`LEAST_ROUNDS` rounds."""
        first, second = self._of_dense(phase)
        return _ratio({at: first[at] / second[at] for at in first.keys() & second.keys()})

    def ratio(self, file: str, phase: Phase) -> Ratio | None:
        """Return the speed of a file over that of dense; None: too few rounds, or dense itself."""
        first, second = self._of_dense(phase)
        seconds = self._seconds.get((file, 0, phase), {}) if file != self._dense else {}
        rounds = seconds.keys() & first.keys() & second.keys()
        return _ratio({at: math.sqrt(first[at] * second[at]) / seconds[at] for at in rounds})

    def rate(self, file: str, phase: Phase, tokens: int) -> float | None:
        """Return tokens a second: the geometric mean over rounds."""
        copies = [self._seconds.get((file, copy, phase), {}).values() for copy in (0, 1)]
        logarithms = [math.log(tokens / seconds) for copy in copies for seconds in copy]
        return math.exp(fmean(logarithms)) if logarithms else None

    def verdict(self, file: str, phase: Phase) -> SpeedVerdict | None:
        """Return what the ratio of a file proves; None if there is none."""
        ratio, itself = self.ratio(file, phase), self.against_itself(phase)
        if ratio is None or itself is None:
            return None
        if not itself.fits_band:
            return SpeedVerdict.BUSY
        if ratio.fits_band:
            return SpeedVerdict.SAME
        if ratio.low <= 1 <= ratio.high:
            return SpeedVerdict.UNDECIDED
        return SpeedVerdict.FASTER if ratio.low > 1 else SpeedVerdict.SLOWER

    def _of_dense(self, phase: Phase) -> tuple[Mapping[int, float], Mapping[int, float]]:
        first, second = (self._seconds.get((self._dense, copy, phase), {}) for copy in (0, 1))
        return first, second


def _ratio(ratios: Mapping[int, float]) -> Ratio | None:
    if len(ratios) < LEAST_ROUNDS:
        return None
    logarithms = list(map(math.log, ratios.values()))
    mean = fmean(logarithms)
    ends = student(mean, variance(logarithms) / len(logarithms), len(logarithms) - 1)
    return Ratio(math.exp(mean), *map(math.exp, ends))
