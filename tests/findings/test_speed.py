"""Ratios of speeds within rounds, held against scipy, and the verdicts that they give."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from studyctl.contract.records import SpeedRun
from studyctl.contract.speed import Phase, SpeedVerdict
from studyctl.findings.speed import Session

DENSE, FILE = "dense", "q4"


def run(
    file: str, number: int, seconds: float, copy: int = 0, threads: int = 1, decode: float = 1.0
) -> SpeedRun:
    return SpeedRun(
        file=file, weights_key=file, weights_hash=None, file_bytes=1, copy=copy, round=number, place=0, threads=threads,
        load_seconds=0.1, resident_bytes=1, prefill_seconds=seconds, prefill_cpu_seconds=seconds, decode_seconds=decode,
        decode_cpu_seconds=decode,
    )  # fmt: skip


def session(dense: list[float], again: list[float], file: list[float]) -> Session:
    """Return a session of one thread with these seconds of the prompt, round by round."""
    runs = [run(DENSE, number, seconds) for number, seconds in enumerate(dense)]
    runs += [run(DENSE, number, seconds, copy=1) for number, seconds in enumerate(again)]
    runs += [run(FILE, number, seconds) for number, seconds in enumerate(file)]
    return Session(runs, DENSE, 1)


def test_a_ratio_is_the_mean_of_logarithms_with_students_interval() -> None:
    dense, again, file = [2.0, 2.2, 1.9, 2.1], [2.1, 2.0, 2.0, 2.2], [1.0, 1.2, 0.9, 1.1]
    ratio = session(dense, again, file).ratio(FILE, Phase.PREFILL)
    logs = np.log(np.sqrt(np.array(dense) * again) / file)
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(
        tuple(map(math.exp, (logs.mean(), low, high)))
    )


def test_a_drift_of_the_machine_that_all_files_share_costs_nothing() -> None:
    drift = np.array([1.0, 3.0, 0.5, 2.0])
    ratio = session(*((drift * seconds).tolist() for seconds in (2.0, 2.0, 1.0))).ratio(FILE, Phase.PREFILL)
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_rate_is_of_all_copies_and_rounds() -> None:
    rounds = session([1.0, 4.0, 2.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    assert rounds.rate(DENSE, Phase.PREFILL, 512) == pytest.approx(256)
    assert rounds.rate(FILE, Phase.DECODE, 64) == pytest.approx(64)


def test_dense_is_not_compared_with_itself_and_two_rounds_are_too_few() -> None:
    assert session([1.0] * 3, [1.0] * 3, [1.0] * 3).ratio(DENSE, Phase.PREFILL) is None
    assert session([1.0] * 2, [1.0] * 2, [1.0] * 2).ratio(FILE, Phase.PREFILL) is None
    assert session([1.0] * 2, [1.0] * 2, [1.0] * 2).verdict(FILE, Phase.PREFILL) is None


def test_runs_with_other_threads_and_those_that_failed_do_not_count() -> None:
    runs = [
        run(name, number, 1.0, copy)
        for number in range(3)
        for name, copy in ((DENSE, 0), (DENSE, 1), (FILE, 0))
    ]
    runs += [run(FILE, number, 9.0, threads=2) for number in range(3)]
    failed = run(FILE, 3, 1.0)
    failed.prefill_seconds, failed.error = None, "killed"
    ratio = Session([*runs, failed], DENSE, 1).ratio(FILE, Phase.PREFILL)
    assert ratio is not None
    assert ratio.value == pytest.approx(1.0)


EVEN, ABOUT = [1.0, 1.01, 0.99, 1.0, 1.0], [1.0, 1.0, 1.0, 1.01, 0.99]


@pytest.mark.parametrize(
    ("again", "file", "verdict"),
    [
        pytest.param(ABOUT, [0.5, 0.51, 0.49, 0.5, 0.5], SpeedVerdict.FASTER, id="faster"),
        pytest.param(ABOUT, [2.0, 2.1, 1.9, 2.0, 2.0], SpeedVerdict.SLOWER, id="slower"),
        pytest.param(
            ABOUT,
            [0.98, 0.99, 0.97, 0.98, 0.98],
            SpeedVerdict.SAME,
            id="surely two per cent is no difference",
        ),
        pytest.param(ABOUT, [0.8, 1.2, 1.0, 0.9, 1.1], SpeedVerdict.UNDECIDED, id="an interval that is wide"),
        pytest.param([1.0, 1.3, 0.8, 1.1, 0.9], [0.5] * 5, SpeedVerdict.BUSY, id="dense differs from itself"),
    ],
)
def test_verdicts(again: list[float], file: list[float], verdict: SpeedVerdict) -> None:
    assert session(EVEN, again, file).verdict(FILE, Phase.PREFILL) == verdict


def test_a_file_that_is_as_fast_is_called_faster_less_often_than_once_in_forty() -> None:
    """Noise of 5 % in each process, as decoding has; the upper half of the 5 % outside an interval, less those that are equal."""
    drawn = random.Random(0)
    verdicts = [
        session(*([math.exp(drawn.gauss(0, 0.05)) for _ in range(7)] for _ in range(3))).verdict(
            FILE, Phase.PREFILL
        )
        for _ in range(2000)
    ]
    assert verdicts.count(SpeedVerdict.FASTER) / len(verdicts) < 0.025
    assert verdicts.count(SpeedVerdict.BUSY) > 0
