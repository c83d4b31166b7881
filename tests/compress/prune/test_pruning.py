"""Which weights magnitude pruning and Wanda remove."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.prune import magnitude, wanda
from studyctl.compress.prune.masks import TIED, smallest, smallest_of_group, up_to_rank, without, zeros
from studyctl.compress.walk.statistics import Statistics
from studyctl.compress.weights.compressed import LinearGroup
from studyctl.contract.methods import Magnitude, Wanda


def by_stable_sort(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The definition: sort every row, mark the first ``count``."""
    order = scores.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


@st.composite
def scores_with_ties(draw: st.DrawFn, columns: int | None = None) -> torch.Tensor:
    rows, width = draw(st.integers(1, 5)), columns or draw(st.integers(1, 40))
    values = (
        st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]) if draw(st.booleans()) else st.floats(0, 1e4, width=16)
    )
    return torch.tensor(draw(st.lists(values, min_size=rows * width, max_size=rows * width))).reshape(
        rows, width
    )


def wanda_stage(weight: torch.Tensor, norm: torch.Tensor, **settings: Any) -> torch.Tensor:
    statistics = Statistics(1, torch.zeros(1, weight.shape[1]), norm, None, None)
    return wanda.compress_linears(
        LinearGroup(("linear",), (weight,), statistics, weight.dtype), Wanda(**settings)
    )[0].weight


def magnitude_stage(weight: torch.Tensor, **settings: Any) -> torch.Tensor:
    return magnitude.compress_linears(
        LinearGroup(("linear",), (weight,), None, weight.dtype), Magnitude(**settings)
    )[0].weight


@given(scores_with_ties(), st.data())
def test_what_is_pruned_is_a_zero_without_sign_and_the_rest_is_as_it_was(
    weight: torch.Tensor, data: st.DataObject
) -> None:
    weight = -weight.to(data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])))
    pruned = weight < data.draw(st.floats(-2, 0))
    left = without(weight, pruned)
    assert left.dtype == weight.dtype
    assert torch.equal(left, weight.masked_fill(pruned, 0))
    assert not torch.signbit(left[left == 0]).any()
    assert zeros(left) == int((pruned | (weight == 0)).sum())


@given(scores_with_ties(), st.data())
def test_smallest_is_a_stable_sort(scores: torch.Tensor, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, scores.shape[1]))
    assert torch.equal(smallest(scores, count), by_stable_sort(scores, count))


@given(st.data(), st.sampled_from([2, 4, 8, 16, 20]))
def test_of_every_group_exactly_the_smallest_go(data: st.DataObject, group: int) -> None:
    scores = data.draw(scores_with_ties(columns=2 * group))
    kept = data.draw(st.integers(1, group - 1))
    expected = by_stable_sort(scores.reshape(-1, group), group - kept).reshape(scores.shape)
    assert torch.equal(smallest_of_group(scores, kept, group), expected)


def test_wanda_weighs_by_the_norm_of_the_input_row_by_row() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [10.0, 10.0, 10.0, 10.0]])
    norm = torch.tensor([8.0, 1.0, 1.0, 0.5])
    # scores: 8, 2, 3, 2 (a tie: the first of the 2s goes first), and 80, 10, 10, 5
    assert wanda_stage(weight, norm, sparsity=0.25).tolist() == [[1, 0, 3, -4], [10, 10, 10, 0]]
    assert wanda_stage(weight, norm, sparsity=0.5).tolist() == [[1, 0, 3, 0], [10, 0, 10, 0]]


def test_wanda_2_of_4_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0]])
    norm = torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    assert wanda_stage(weight, norm, pattern="2:4").tolist() == [[1, 0, 0, 4, 4, 0, 0, 1]]


@given(scores_with_ties(), st.data())
def test_up_to_rank_is_the_threshold_of_the_published_code(scores: torch.Tensor, data: st.DataObject) -> None:
    """All up to the sorted scores' element at this index go, unless ties would take many more than were asked for."""
    rank = data.draw(st.integers(0, scores.numel() - 1))
    chosen = up_to_rank(scores, rank)
    published = scores <= scores.flatten().sort().values[rank]
    beyond = int(published.sum()) - rank
    if rank > 0 and beyond <= max(1, TIED * scores.numel()):
        assert torch.equal(chosen, published)
    else:
        assert torch.equal(chosen, by_stable_sort(scores.reshape(1, -1), rank).reshape(scores.shape))


def test_up_to_rank_takes_few_ties_along_and_no_crowd() -> None:
    scores = torch.arange(1000.0)
    assert up_to_rank(scores, 500).nonzero().flatten().tolist() == list(range(501))
    scores[500:504] = 500  # four more than the rank: 0.4 %
    assert int(up_to_rank(scores, 500).sum()) == 504
    scores[500:600] = 500
    assert up_to_rank(scores, 550).nonzero().flatten().tolist() == list(range(550))
    assert not up_to_rank(scores, 0).any()


def test_magnitude_chooses_among_all_weights_of_the_linear() -> None:
    """It goes up to the third smallest: rank int(4 · 0.5), counted from 0, as in Wanda's code."""
    weight = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    assert magnitude_stage(weight, sparsity=0.5).tolist() == [[0, 0], [0, -4]]
    assert magnitude_stage(weight, sparsity=0.2).tolist() == weight.tolist()


def test_equal_weights_do_not_all_go() -> None:
    assert torch.count_nonzero(magnitude_stage(torch.ones(4, 4), sparsity=0.25)) == 12


@given(st.integers(1, 6), st.integers(1, 30), st.floats(0, 0.99), st.integers(0, 2**16))
def test_the_sparsity_is_reached(rows: int, columns: int, sparsity: float, seed: int) -> None:
    """Wanda's exactly; magnitude's with at most one weight more, or half a percent."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).bfloat16()  # with ties
    weight[weight == 0] = 1
    pruned = wanda_stage(weight, torch.rand(columns, generator=generator), sparsity=sparsity)
    assert ((pruned == 0).sum(1) == int(columns * sparsity)).all()
    by_magnitude = magnitude_stage(weight, sparsity=sparsity)
    asked = int(rows * columns * sparsity)
    assert asked <= int((by_magnitude == 0).sum()) <= asked + max(1, TIED * rows * columns)
    assert torch.equal(by_magnitude[by_magnitude != 0], weight[by_magnitude != 0])
    assert torch.equal(pruned[pruned != 0], weight[pruned != 0])


@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8", "3:5"])
def test_patterns_hold_in_every_group(pattern: str) -> None:
    kept, group = map(int, pattern.split(":"))
    weight = torch.randn(6, group * 7)
    for pruned in (
        wanda_stage(weight, torch.rand(group * 7), pattern=pattern),
        magnitude_stage(weight, pattern=pattern),
    ):
        assert (torch.count_nonzero(pruned.reshape(-1, group), dim=1) == kept).all()


def test_without_any_activation_wanda_still_prunes_exactly() -> None:
    pruned = wanda_stage(torch.ones(2, 8), torch.zeros(8), sparsity=0.5)
    assert pruned.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
