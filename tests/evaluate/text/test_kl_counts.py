"""Percentiles of KL from counts in logarithmic bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.contract.kl_counts import BINS, LOWEST, RATIO, added, quantile
from studyctl.evaluate.text import score as text

MIDDLE = RATIO**0.5


def counts_of(*kl: float) -> dict[int, int]:
    return text._counts(np.array(kl, np.float32))


class TestBins:
    def test_the_first_holds_what_is_below_the_lowest(self) -> None:
        assert counts_of(0.0, LOWEST / 2, 1e-30, 0.0) == {0: 4}

    def test_each_of_the_others_is_wider_by_a_ratio(self) -> None:
        middles = [LOWEST * RATIO**n * MIDDLE for n in range(5)]
        assert counts_of(*middles, middles[2]) == {1: 1, 2: 1, 3: 2, 4: 1, 5: 1}

    def test_the_last_has_no_end(self) -> None:
        assert LOWEST * RATIO ** (BINS - 1) > 1000
        assert counts_of(1e4, 1e30) == {BINS: 2}

    def test_what_is_not_finite_is_in_none(self) -> None:
        assert counts_of(np.inf, np.nan, 0.0) == {0: 1}


class TestAdded:
    def test_tokens_of_several_batches_are_counted_together(self) -> None:
        assert added([{0: 2, 7: 1}, {7: 3}, {}, {9: 1}]) == {0: 2, 7: 4, 9: 1}
        assert added([]) == {}

    def test_what_is_added_is_left_as_it_was(self) -> None:
        batches = [{7: 1}, {7: 3}]
        added(batches)
        assert batches == [{7: 1}, {7: 3}]


class TestQuantile:
    def test_without_tokens_there_is_none(self) -> None:
        assert quantile({}, 0.95) is None

    def test_the_first_bin_counts_as_zero(self) -> None:
        assert quantile({0: 10}, 0.95) == 0.0

    def test_any_other_is_read_at_its_geometric_middle(self) -> None:
        assert quantile({1: 1}, 0.5) == pytest.approx(LOWEST * MIDDLE, rel=1e-12)
        assert quantile({100: 3}, 0.5) == pytest.approx(LOWEST * RATIO**99 * MIDDLE, rel=1e-12)

    def test_the_rank_is_that_of_the_share_of_the_tokens(self) -> None:
        counts = {0: 95, 1: 1, 2: 4}
        # The places of 100 tokens are 0 to 99.
        assert quantile(counts, 94 / 99) == 0.0
        assert quantile(counts, 95 / 99) == pytest.approx(LOWEST * MIDDLE)
        assert quantile(counts, 96 / 99) == pytest.approx(LOWEST * RATIO * MIDDLE)
        assert quantile(counts, 0.0) == 0.0
        assert quantile(counts, 1.0) == pytest.approx(LOWEST * RATIO * MIDDLE)

    def test_the_order_of_the_bins_does_not_matter(self) -> None:
        assert quantile({9: 1, 0: 9}, 0.5) == quantile({0: 9, 9: 1}, 0.5) == 0.0


@given(
    kl=st.lists(st.floats(2**-26, 1024, width=32), min_size=1, max_size=200),
    share=st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    cut=st.integers(0, 200),
)
def test_a_quantile_is_within_2_percent_of_the_order_statistic(
    kl: list[float], share: float, cut: int
) -> None:
    counts = added([counts_of(*kl[:cut]), counts_of(*kl[cut:])])
    expected = np.quantile(np.array(kl), share, method="lower")
    assert quantile(counts, share) == pytest.approx(expected, rel=0.02)
