"""SparseGPT against brute force: least squares for single weights, the published loop for whole matrices."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.prune import magnitude, sparsegpt, wanda
from studyctl.compress.prune.masks import smallest_of_group
from studyctl.compress.sweep.columns import blocks, pass_on, prune_block
from studyctl.compress.sweep.inverse import inverse_root
from studyctl.contract.methods import Magnitude, SparseGPT, Wanda
from tests.compress.cases import (
    correlated,
    damped,
    linear_group,
    output_error,
    quick,
    random,
    root_of_inverse,
    statistics,
    with_hessian,
)


def pruned(weight: torch.Tensor, x: torch.Tensor, **settings: Any) -> torch.Tensor:
    return sparsegpt.compress_linears(linear_group(weight, seen=statistics(x)), SparseGPT(**settings))[
        0
    ].weight


def pruned_with_identity(weight: torch.Tensor, **settings: Any) -> torch.Tensor:
    seen = with_hessian(torch.eye(weight.shape[1]))
    return sparsegpt.compress_linears(linear_group(weight, seen=seen), SparseGPT(**settings))[0].weight


def minimiser(weight: torch.Tensor, hessian: torch.Tensor, changes: dict[int, float], free: Any) -> Any:
    """Return ``w + d`` with the smallest ``d H dᵀ`` where d is given for some columns and others are free; fp64.

    Args:
        weight: ``[in]``.
        hessian: damped, ``[in, in]``.
        changes: d of the columns that are given; all columns neither given nor free stay.
        free: the columns that may change.
    """
    change = torch.zeros(len(weight), dtype=torch.float64)
    for column, value in changes.items():
        change[column] = value
    free = list(free)
    if free:  # the gradient 2 H d is 0 in every free column
        change[free] = torch.linalg.solve(hessian[free][:, free], -(hessian[free] @ change))
    return weight.double() + change


def up_to_threshold(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """As in the published code, the element of this index counts, so one more than a fraction of the scores goes."""
    rank = int(scores.numel() * sparsity)
    return (
        scores <= scores.flatten().sort().values[rank] if rank else torch.zeros_like(scores, dtype=torch.bool)
    )


def published(
    weight: torch.Tensor, x: torch.Tensor, sparsity: float, block: int, group: tuple[int, int] | None
) -> torch.Tensor:
    """The paper's algorithm 1, column by column in fp64."""
    w = weight.double().clone()
    root = root_of_inverse(damped(x, 0.01))
    for start in range(0, w.shape[1], block):
        end = min(start + block, w.shape[1])
        mask = torch.zeros(len(w), end - start, dtype=torch.bool)
        if group is None:
            mask = up_to_threshold((w[:, start:end] / root.diagonal()[start:end]) ** 2, sparsity)
        for column in range(start, end):
            if group is not None and column % group[1] == 0:
                columns = slice(column, column + group[1])
                scores = (w[:, columns] / root.diagonal()[columns]) ** 2
                gone = scores.argsort(dim=1, stable=True)[:, : group[1] - group[0]]
                mask[:, column - start : column - start + group[1]].scatter_(1, gone, True)
            error = torch.where(mask[:, column - start], w[:, column] / root[column, column], 0)
            w[:, column:] -= error[:, None] * root[column, column:]
            w[mask[:, column - start], column] = 0
    return w


class TestOptimalBrainSurgeon:
    def test_the_first_weight_goes_and_the_others_are_its_exact_least_squares_answer(self) -> None:
        """It is the cheapest and the only one of eight that goes, so all others may make up for it."""
        x = correlated(200, 8)
        weight = random(1, 8, seed=5)
        weight[0, 0] = 1e-2
        result = pruned(weight, x, pattern="7:8")
        expected = minimiser(weight[0], damped(x, 0.01), {0: -weight[0, 0].item()}, range(1, 8))
        assert result[0, 0] == 0
        torch.testing.assert_close(result[0].double(), expected, rtol=1e-4, atol=1e-7)
        assert not torch.allclose(result[0, 1:], weight[0, 1:], rtol=1e-3)

    def test_that_answer_is_the_formula_of_the_paper(self) -> None:
        """δ = −w_0 / [H⁻¹]_00 · [H⁻¹]_0: (equation 3)."""
        x, weight = correlated(200, 8), random(1, 8, seed=5)
        weight[0, 0] = 1e-2
        inverse = torch.linalg.inv(damped(x, 0.01))
        expected = weight[0].double() - weight[0, 0].double() / inverse[0, 0] * inverse[0]
        torch.testing.assert_close(
            pruned(weight, x, pattern="7:8")[0].double(), expected, rtol=1e-4, atol=1e-7
        )

    @pytest.mark.parametrize("column", range(8))
    @pytest.mark.parametrize("size", [3, 8])
    def test_any_other_weight_is_made_up_for_by_those_after_it_only(self, column: int, size: int) -> None:
        x, weights = correlated(200, 8), random(6, 8)
        mask = torch.zeros(6, 8, dtype=torch.bool)
        mask[:, column] = True
        result = swept(weights, mask, x, size)
        for row, before in zip(result, weights, strict=True):
            expected = minimiser(
                before, damped(x, 0.01), {column: -before[column].item()}, range(column + 1, 8)
            )
            torch.testing.assert_close(row.double(), expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("count", range(1, 8))
    @pytest.mark.parametrize("size", [3, 8])
    def test_the_first_weights_together_are_made_up_for_exactly(self, count: int, size: int) -> None:
        """One after the other is as good as at once, for every later weight is free all the time."""
        x, weights = correlated(200, 8), random(6, 8)
        mask = (torch.arange(8) < count).expand(6, 8)
        for row, before in zip(swept(weights, mask, x, size), weights, strict=True):
            changes = {column: -before[column].item() for column in range(count)}
            expected = minimiser(before, damped(x, 0.01), changes, range(count, 8))
            torch.testing.assert_close(row.double(), expected, rtol=1e-3, atol=1e-4)

    def test_what_a_weight_costs_is_its_score(self) -> None:
        """``w² / U_jj²`` is what the error grows by when it goes and those after it make up for it."""
        x, weight = correlated(200, 8), random(8)
        hessian, root = damped(x, 0.01), root_of_inverse(damped(x, 0.01))
        for column in range(8):
            change = (
                minimiser(weight, hessian, {column: -weight[column].item()}, range(column + 1, 8)) - weight
            )
            cost = (change @ hessian @ change).item()
            assert cost == pytest.approx((weight[column].double() / root[column, column]).square().item())


def swept(weights: torch.Tensor, mask: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """Return the weights after a sweep with this mask in blocks of ``size`` columns."""
    weights = weights.clone()
    hessian = statistics(x).hessian
    assert hessian is not None
    root = inverse_root(hessian, 0.01, ("linear",)).root
    for block in blocks(weights.shape[1], size):
        weights[:, block], errors = prune_block(weights[:, block], root[block, block], mask[:, block], None)
        pass_on(weights, errors, root, block)
    return weights


class TestThePublishedLoop:
    @pytest.mark.parametrize("block", [1, 5, 16, 48, 128])
    @pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
    def test_unstructured(self, block: int, sparsity: float) -> None:
        weight, x = random(20, 48), correlated(300, 48)
        result = pruned(weight, x, sparsity=sparsity, block_size=block)
        expected = published(weight, x, sparsity, block, None)
        assert torch.equal(result == 0, expected == 0)
        torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("pattern", ["1:2", "2:3", "2:4", "1:4", "4:8", "3:8", "8:16"])
    @pytest.mark.parametrize("block", [5, 16, 128])
    def test_n_of_m(self, pattern: str, block: int) -> None:
        weight, x = random(20, 48), correlated(300, 48)
        kept, size = map(int, pattern.split(":"))
        result = pruned(weight, x, pattern=pattern, block_size=block)
        expected = published(weight, x, 0.0, max(size, block - block % size), (kept, size))
        assert torch.equal(result == 0, expected == 0)
        torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-4)


class TestWithoutCorrelation:
    """With H = I nothing can be made up for, and the smallest weights go."""

    @pytest.mark.parametrize("block", [1, 7, 16, 40, 128])
    @pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
    def test_it_is_magnitude_pruning_of_every_block_of_columns(self, block: int, sparsity: float) -> None:
        weight = random(10, 40)
        expected = weight.clone()
        for columns in weight.split(block, dim=1):
            start = columns.storage_offset()
            gone = up_to_threshold(columns.abs(), sparsity)
            expected[:, start : start + columns.shape[1]].masked_fill_(gone, 0)
        result = pruned_with_identity(weight, sparsity=sparsity, block_size=block)
        assert torch.equal(result, expected)

    def test_in_one_block_it_is_magnitude_pruning(self) -> None:
        weight = random(10, 40)
        (expected,) = magnitude.compress_linears(
            linear_group(weight, seen=statistics(weight)), Magnitude(sparsity=0.5)
        )
        assert torch.equal(pruned_with_identity(weight, sparsity=0.5), expected.weight)

    @pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8", "2:5"])
    def test_n_of_m_is_that_of_magnitude(self, pattern: str) -> None:
        weight = random(10, 40)
        kept, size = map(int, pattern.split(":"))
        expected = weight.masked_fill(smallest_of_group(weight.abs(), kept, size), 0)
        assert torch.equal(pruned_with_identity(weight, pattern=pattern), expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_weights_that_stay_come_back_in_their_dtype_unchanged(self, dtype: torch.dtype) -> None:
        weight = random(10, 40).to(dtype)
        result = pruned_with_identity(weight, sparsity=0.5)
        assert result.dtype == dtype
        assert torch.equal(result[result != 0], weight[result != 0])


class TestWhatIsPruned:
    @quick
    @given(st.sampled_from([2, 3, 4, 5, 8, 16]), st.integers(1, 4), st.data())
    def test_the_pattern_holds_in_every_group(self, size: int, groups: int, data: st.DataObject) -> None:
        kept, block = data.draw(st.integers(1, size - 1)), data.draw(st.integers(1, 64))
        seed = data.draw(st.integers(0, 2**16))
        columns = size * groups
        result = pruned(
            random(5, columns, seed=seed),
            correlated(columns + 5, columns, seed),
            pattern=f"{kept}:{size}",
            block_size=block,
        )
        assert (torch.count_nonzero(result.reshape(-1, size), dim=1) == kept).all()

    @quick
    @given(
        st.integers(1, 6), st.integers(1, 40), st.floats(0, 0.99), st.integers(1, 50), st.integers(0, 2**16)
    )
    def test_the_sparsity_of_every_block_is_reached_exactly_and_one_more_goes(
        self, rows: int, columns: int, sparsity: float, block: int, seed: int
    ) -> None:
        weight = random(rows, columns, seed=seed)
        result = pruned(weight, correlated(columns + 5, columns, seed), sparsity=sparsity, block_size=block)
        for part in result.split(block, dim=1):
            rank = int(part.numel() * sparsity)
            assert int((part == 0).sum()) == (rank + 1 if rank else 0)

    def test_a_linear_has_its_own_sparsity_beside_larger_ones(self) -> None:
        small, large = random(6, 16), 100 * random(10, 16, seed=1)
        results = sparsegpt.compress_linears(
            linear_group(small, large, seen=statistics(correlated(90, 16))), SparseGPT(sparsity=0.5)
        )
        assert [int((result.weight == 0).sum()) for result in results] == [49, 81]

    @pytest.mark.parametrize("settings", [SparseGPT(sparsity=0.5, block_size=16), SparseGPT(pattern="2:4")])
    def test_linears_of_a_stage_become_what_each_becomes_alone(self, settings: SparseGPT) -> None:
        weights = [random(rows, 48, seed=rows) for rows in (48, 16, 130)]
        seen = statistics(correlated(300, 48))
        together = sparsegpt.compress_linears(linear_group(*weights, seen=seen), settings)
        for weight, result in zip(weights, together, strict=True):
            (alone,) = sparsegpt.compress_linears(linear_group(weight, seen=seen), settings)
            assert torch.equal(result.weight == 0, alone.weight == 0)
            torch.testing.assert_close(result.weight, alone.weight, rtol=1e-4, atol=1e-5)

    def test_dead_inputs_lose_their_weights_and_disturb_nothing(self) -> None:
        """They are the cheapest, so they are what goes first; the others are pruned as if these were not there."""
        weight, x = random(10, 12), correlated(100, 12)
        x[:, [3, 8]] = 0
        alive = [column for column in range(12) if column not in (3, 8)]
        result = pruned(weight, x, sparsity=0.5)
        assert not result[:, [3, 8]].any()
        assert int((result == 0).sum()) == 61
        assert torch.isfinite(result).all()
        assert output_error(weight, result, x) < output_error(weight, torch.zeros_like(weight), x)
        assert output_error(weight[:, alive], result[:, alive], x[:, alive]) == pytest.approx(
            output_error(weight, result, x)
        )

    def test_the_weights_that_come_in_stay_as_they_are(self) -> None:
        weight, seen = random(10, 12), statistics(correlated(100, 12))
        assert seen.hessian is not None
        before, hessian = weight.clone(), seen.hessian.clone()
        sparsegpt.compress_linears(linear_group(weight, seen=seen), SparseGPT(sparsity=0.5))
        assert torch.equal(weight, before)
        assert torch.equal(seen.hessian, hessian)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{"sparsity": 0.3}, {"sparsity": 0.5}, {"pattern": "2:4"}])
def test_it_errs_less_than_methods_that_do_not_make_up_for_anything(
    options: dict[str, Any], seed: int
) -> None:
    """At 80 % that is no law: greedy choices then cost more than compensation gains, in the published loop just so."""
    weight, x = random(40, 32, seed=seed), correlated(400, 32, seed)
    seen = linear_group(weight, seen=statistics(x))
    ours = output_error(weight, sparsegpt.compress_linears(seen, SparseGPT(**options))[0].weight, x)
    assert ours < output_error(weight, wanda.compress_linears(seen, Wanda(**options))[0].weight, x)
    assert ours < output_error(weight, magnitude.compress_linears(seen, Magnitude(**options))[0].weight, x)


def test_a_float16_weight_that_makes_up_for_others_ends_at_the_largest_float16() -> None:
    """Weights of up to 6e4 after a norm of 1e-5 or so: they fit, and what compensation adds to some of them does not."""
    weight = ((torch.rand(16, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1) * 6e4).half()
    x = correlated(300, 64)
    free, stored = pruned(weight.float(), x, sparsity=0.5), pruned(weight, x, sparsity=0.5)
    assert free.abs().max() > 65_504
    assert torch.equal(stored, free.clamp(-65_504, 65_504).half())


def test_what_is_not_finite_is_not_hidden() -> None:
    weight, seen = random(3, 2).half(), with_hessian(torch.eye(2))
    weight[0, 0] = torch.inf
    (result,) = sparsegpt.compress_linears(linear_group(weight, seen=seen), SparseGPT(sparsity=0.5))
    assert not torch.isfinite(result.weight).all()
