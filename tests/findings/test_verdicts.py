"""Verdicts: the first that holds, on the side of the claim, after Holm's correction."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from studyctl.contract.hypotheses import Alternative, Measure, Verdict
from studyctl.findings.estimates import Estimate
from studyctl.findings.items import Flips
from studyctl.findings.verdicts import claim_p, holds_alone, holm, is_same, judge, on_side

BETTER, WORSE, DIFFERENT, NO_WORSE = Alternative
SUPPORTED, CONTRADICTED, SAME, UNDECIDED = (
    Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.SAME, Verdict.UNDECIDED,
)  # fmt: skip
BITS, SNR, PPL = Measure.BITS_PER_BYTE, Measure.SNR, Measure.PPL_RATIO


def about(value: float, error: float) -> Estimate:
    """A mean with a normal distribution: its interval is ± 1.96 errors."""
    return Estimate(value, error**2, math.inf, 100)


def verdict(
    tested: Estimate | Flips, measure: Measure, alternative: Alternative, margin: float | None = None
) -> Verdict:
    """Return the verdict on a hypothesis that is alone in its family."""
    return judge(tested, measure, alternative, margin, claim_p(tested, measure, alternative, margin))


class TestHolm:
    @pytest.mark.parametrize("count", [1, 2, 5, 12])
    def test_is_that_of_statsmodels(self, count: int) -> None:
        values = [*np.random.default_rng(count).beta(0.5, 4, count), 0.02, 0.02]
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())

    def test_by_hand(self) -> None:
        """0.01 · 3, 0.02 · 2, and 0.03 · 1 is not under the one before."""
        assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])

    def test_nothing_is_corrected_alone(self) -> None:
        assert holm([0.04]) == [0.04]
        assert holm([]) == []


class TestSides:
    @pytest.mark.parametrize("measure", list(Measure))
    def test_less_is_better_of_losses_and_sizes_and_more_of_all_else(self, measure: Measure) -> None:
        less = {Measure.BITS_PER_BYTE, Measure.PPL_RATIO, Measure.KL_RATIO, Measure.SIZE_MIB}
        gain = -1.0 if measure in less else 1.0
        assert on_side(about(gain, 0.1), measure, BETTER)
        assert not on_side(about(gain, 0.1), measure, WORSE)
        assert on_side(about(-gain, 0.1), measure, WORSE)
        assert on_side(about(gain, 0.1), measure, DIFFERENT)

    @pytest.mark.parametrize(
        ("value", "alternative", "expected"),
        [
            (-1.0, BETTER, SUPPORTED), (1.0, BETTER, CONTRADICTED), (-0.1, BETTER, UNDECIDED),
            (1.0, WORSE, SUPPORTED), (-1.0, WORSE, CONTRADICTED), (0.1, WORSE, UNDECIDED),
            (1.0, DIFFERENT, SUPPORTED), (-1.0, DIFFERENT, SUPPORTED), (0.1, DIFFERENT, UNDECIDED),
        ],
    )  # fmt: skip
    def test_each_claim(self, value: float, alternative: Alternative, expected: Verdict) -> None:
        """Of bits per byte, in which less is better; with a standard error of 0.2."""
        assert verdict(about(value, 0.2), BITS, alternative) is expected
        assert verdict(about(-value, 0.2), SNR, alternative) is expected


class TestOrder:
    def test_an_interval_within_the_margin_comes_first(self) -> None:
        """A difference that is sure but does not matter neither supports nor contradicts."""
        small = about(-0.001, 0.0001)
        assert verdict(small, BITS, BETTER) is SUPPORTED
        for alternative in (BETTER, WORSE, DIFFERENT):
            assert verdict(small, BITS, alternative, 0.002) is SAME

    def test_the_whole_interval_must_lie_within(self) -> None:
        """-0.001 ± 1.96 · 0.0005 reaches to -0.00198, ± 1.96 · 0.00052 to -0.00202."""
        assert verdict(about(-0.001, 0.00050), BITS, WORSE, 0.002) is SAME
        assert verdict(about(-0.001, 0.00052), BITS, WORSE, 0.002) is UNDECIDED

    def test_the_adjusted_p_decides(self) -> None:
        tested = about(-0.5, 0.2)
        assert tested.p() == pytest.approx(0.0124, abs=1e-4)
        assert judge(tested, BITS, BETTER, None, 0.0124) is SUPPORTED
        assert judge(tested, BITS, BETTER, None, 0.0496) is SUPPORTED
        assert judge(tested, BITS, BETTER, None, 0.0620) is UNDECIDED


class TestNoWorse:
    """Not worse than by the margin of 0.1."""

    @pytest.mark.parametrize("gain", [(BITS, -1), (SNR, 1)])
    @pytest.mark.parametrize(
        ("gained", "error", "expected"),
        [
            (0.0, 0.05, SUPPORTED),  # z = 2 from the margin: one-sided p = 0.023
            (0.0, 0.07, UNDECIDED),  # z = 1.43
            (-0.2, 0.05, CONTRADICTED),  # z = -2: twice 0.023
            (-0.2, 0.052, UNDECIDED),  # z = -1.92: twice 0.027
            (5.0, 0.05, SUPPORTED),  # what is better is not worse
            (0.0, 0.001, SUPPORTED),  # never "no difference"
        ],
    )
    def test_is_tested_at_the_margin(
        self, gain: tuple[Measure, int], gained: float, error: float, expected: Verdict
    ) -> None:
        measure, sign = gain
        assert verdict(about(sign * gained, error), measure, NO_WORSE, 0.1) is expected

    def test_its_p_is_one_sided(self) -> None:
        assert claim_p(about(0.0, 0.05), BITS, NO_WORSE, 0.1) == pytest.approx(0.02275, abs=1e-5)
        assert claim_p(about(0.0, 0.05), SNR, NO_WORSE, 0.1) == pytest.approx(0.02275, abs=1e-5)

    def test_of_a_task_it_is_tangos_score_at_the_margin(self) -> None:
        flips = Flips(20, 26, 400)
        assert claim_p(flips, Measure.ACCURACY, NO_WORSE, 0.05) == flips.p_above(-0.05) < 0.05
        assert verdict(flips, Measure.ACCURACY, NO_WORSE, 0.05) is SUPPORTED

    def test_it_is_contradicted_by_a_p_of_its_own_for_all_claims_together(self) -> None:
        tested = about(0.2, 0.05)
        assert judge(tested, BITS, NO_WORSE, 0.1, 1.0, tests=1) is CONTRADICTED
        assert judge(tested, BITS, NO_WORSE, 0.1, 1.0, tests=2) is UNDECIDED


class TestRatios:
    """Margins of a perplexity ratio are distances from 1, those of a ratio of KLs are logarithms."""

    def test_a_perplexity_ratio(self) -> None:
        narrow = math.log(1.01) / 10
        for value, expected in ((0.008, SAME), (0.012, SUPPORTED)):
            assert verdict(about(math.log1p(value), narrow), PPL, WORSE, 0.01) is expected
        assert claim_p(about(math.log(1.01), narrow), PPL, NO_WORSE, 0.01) == pytest.approx(0.5)

    def test_a_ratio_of_kls(self) -> None:
        assert verdict(about(0.04, 0.005), Measure.KL_RATIO, WORSE, 0.05) is SAME
        assert verdict(about(0.06, 0.005), Measure.KL_RATIO, WORSE, 0.05) is SUPPORTED
        assert claim_p(about(0.05, 0.01), Measure.KL_RATIO, NO_WORSE, 0.05) == pytest.approx(0.5)


class TestHoldsAlone:
    """In one model: its own interval, here ± 0.196."""

    @pytest.mark.parametrize(
        ("gained", "alternative", "expected"),
        [
            (0.2, BETTER, True), (0.19, BETTER, False), (-0.2, BETTER, False),
            (-0.2, WORSE, True), (0.2, WORSE, False),
            (0.2, DIFFERENT, True), (-0.2, DIFFERENT, True), (0.1, DIFFERENT, False),
            (0.1, NO_WORSE, True), (0.09, NO_WORSE, False),
        ],
    )  # fmt: skip
    def test_each_claim(self, gained: float, alternative: Alternative, expected: bool) -> None:
        margin = 0.1
        assert holds_alone(about(gained, 0.1), SNR, alternative, margin) is expected
        assert holds_alone(about(-gained, 0.1), BITS, alternative, margin) is expected


@given(
    st.floats(-1, 1),
    st.floats(0.001, 1),
    st.sampled_from([BETTER, WORSE]),
    st.sampled_from([None, 0.05]),
    st.sampled_from(list(Measure)),
)
def test_the_opposite_claim_has_the_opposite_verdict(
    value: float, error: float, alternative: Alternative, margin: float | None, measure: Measure
) -> None:
    other = WORSE if alternative is BETTER else BETTER
    opposite = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
    first, second = (verdict(about(value, error), measure, one, margin) for one in (alternative, other))
    assert second is opposite.get(first, first)
    assert is_same(about(value, error), measure, alternative, margin) is (first is SAME)
