"""The factor U of the inverse Hessian, and what happens to Hessians that have no inverse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.sweep.inverse import (
    TRIES,
    InverseRoot,
    damped_inverse,
    damping_over_median,
    inverse_root,
)
from studyctl.compress.walk.statistics import Statistics
from studyctl.errors import StepError
from tests.compress.cases import (
    correlated,
    damped,
    linear_group,
    quick,
    random,
    root_of_inverse,
    statistics,
    with_hessian,
)
from tests.compress.tiny import Listener

NAMES = ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj")


def hessian_of(x: torch.Tensor) -> torch.Tensor:
    hessian = statistics(x).hessian
    assert hessian is not None
    return hessian


def inverted(
    seen: Statistics, damping: float, listener: Listener | None = None, order: torch.Tensor | None = None
) -> InverseRoot:
    inputs = len(seen.sample[0])
    return damped_inverse(linear_group(torch.zeros(1, inputs), seen=seen, reporter=listener), damping, order)


def assert_inverts(root: torch.Tensor, matrix: torch.Tensor, tolerance: float = 1e-3) -> None:
    """UᵀU is the inverse of the matrix, and U is upper triangular with a positive diagonal."""
    identity = root.double().T @ root.double() @ matrix
    torch.testing.assert_close(identity, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=tolerance)
    assert torch.equal(root, root.triu())
    assert (root.diagonal() > 0).all()
    assert root.dtype == torch.float32


def test_two_inputs_by_hand() -> None:
    """H + λI = [[2, 1], [1, 1]] has the inverse [[1, −1], [−1, 2]] = Uᵀ U with U = [[1, −1], [0, 1]]."""
    hessian = torch.tensor([[1.5, 1.0], [1.0, 0.5]])
    result = inverse_root(hessian, 0.5, NAMES)
    assert result.root.tolist() == [pytest.approx([1.0, -1.0], abs=1e-6), [0.0, pytest.approx(1.0)]]
    assert result.damping == 0.5
    assert result.dead.tolist() == [False, False]


@quick
@given(st.integers(1, 40), st.sampled_from([0.001, 0.01, 0.5]), st.integers(0, 2**16))
def test_the_root_inverts_the_damped_hessian(inputs: int, damping: float, seed: int) -> None:
    x = correlated(3 * inputs, inputs, seed)
    result = inverse_root(hessian_of(x), damping, NAMES)
    assert_inverts(result.root, damped(x, damping), tolerance=0.02)
    assert result.damping == damping
    assert not result.dead.any()


@pytest.mark.parametrize("inputs", [48, 300, 900], ids=["one-panel", "some-panels", "reversed-in-parts"])
def test_it_is_what_the_papers_code_factors_in_three_steps(inputs: int) -> None:
    x = correlated(4 * inputs, inputs)
    expected = root_of_inverse(damped(x, 0.01))
    torch.testing.assert_close(
        inverse_root(hessian_of(x), 0.01, NAMES).root.double(), expected, rtol=1e-3, atol=1e-4
    )


def test_dead_inputs_count_as_the_mean_of_the_live_ones_and_touch_nothing_else() -> None:
    x = correlated(100, 8)
    x[:, [2, 5]] = 0
    hessian = hessian_of(x)
    result = inverse_root(hessian.clone(), 0.01, NAMES)
    assert result.dead.nonzero().flatten().tolist() == [2, 5]
    filled = hessian.double()
    mean = filled.diagonal().sum() / 6
    filled[[2, 5], [2, 5]] = mean
    filled += 0.01 * mean * torch.eye(8, dtype=torch.float64)
    assert_inverts(result.root, filled)
    for dead in (2, 5):
        others = torch.arange(8) != dead
        assert not result.root[dead, others].any()
        assert not result.root[others, dead].any()


@pytest.mark.parametrize("size", [1e-16, 1e-8, 1.0, 1e16])
@pytest.mark.parametrize("dead", [[3], [0, 1, 2, 4, 5, 6, 7]], ids=["one", "all-but-one"])
def test_live_inputs_are_inverted_as_if_the_dead_ones_were_not_there(dead: list[int], size: float) -> None:
    """Whatever the size of the activations: 1e-16 is that of H after a norm with weights of 1e-8."""
    x = correlated(100, 8)
    x[:, dead] = 0
    live = [index for index in range(8) if index not in dead]
    whole = inverse_root(hessian_of(x) * size, 0.01, NAMES).root
    alone = inverse_root(hessian_of(x[:, live]) * size, 0.01, NAMES).root
    torch.testing.assert_close(whole[live][:, live], alone, rtol=1e-5, atol=0)


def test_without_any_live_input_the_root_is_that_of_ones() -> None:
    result = inverse_root(torch.zeros(4, 4), 0.01, NAMES)
    assert result.dead.all()
    torch.testing.assert_close(result.root, torch.eye(4) / 1.01**0.5)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_damping_alone_inverts_the_hessian_of_few_tokens(tokens: int) -> None:
    x = random(tokens, 16)
    listener = Listener()
    result = inverted(statistics(x), 0.01, listener)
    assert result.damping == 0.01
    assert listener.warnings == []
    assert_inverts(result.root, damped(x, 0.01), tolerance=0.02)


def test_a_hessian_that_rounding_made_indefinite_is_damped_ten_times_as_much_and_that_is_told() -> None:
    """Its smallest eigenvalue is −0.05, beyond a damping of 0.01 and within one of 0.1."""
    hessian = torch.tensor([[1.0, 1.05], [1.05, 1.0]])
    listener = Listener()
    result = inverted(with_hessian(hessian), 0.01, listener)
    assert result.damping == pytest.approx(0.1)
    assert listener.warnings == [
        "the Hessian of `linear.0` is singular with damping 0.01: 0.1 was used",
    ]
    assert_inverts(result.root, hessian.double() + 0.1 * torch.eye(2, dtype=torch.float64))


def test_damping_rises_from_what_was_asked_for_as_often_as_it_takes() -> None:
    hessian = torch.tensor([[1.0, 6.0], [6.0, 1.0]])  # eigenvalues 7 and −5
    assert inverse_root(hessian.clone(), 0.02, NAMES).damping == pytest.approx(20)


def test_what_fp32_cannot_factor_fp64_tries_with_the_damping_that_was_asked_for() -> None:
    """[[1, a], [a, a² + 1]] is exact in fp32, but what is left for its second pivot is below what fp32 can see.

    Rounding decides whether that is more than 0. It is not for at least one of a hundred.
    """
    parts = [torch.tensor([[1.0, a], [a, a**2 + 1]]) for a in map(float, range(3996, 4096))]
    inverses = [torch.tensor([[a**2 + 1, -a], [-a, 1.0]]) for a in map(float, range(3996, 4096))]
    hessian = torch.block_diag(*parts)
    assert torch.linalg.cholesky_ex(hessian.flip(0, 1)).info
    result = inverse_root(hessian.clone(), 1e-20, NAMES)
    assert result.damping == 1e-20
    inverse = result.root.double().T @ result.root.double()
    torch.testing.assert_close(inverse, torch.block_diag(*inverses).double(), rtol=1e-6, atol=0)


def test_a_hopeless_hessian_is_an_error_that_names_the_linears() -> None:
    with pytest.raises(StepError) as caught:
        inverse_root(torch.tensor([[1.0, 1e9], [1e9, 1.0]]), 0.01, NAMES)
    (problem,) = caught.value.problems
    assert problem.what == (
        "the Hessian of `model.layers.0.mlp.gate_proj`, `model.layers.0.mlp.up_proj` cannot be inverted, "
        f"even with damping {0.01 * 10 ** (TRIES - 1):g}"
    )
    assert problem.hint


def test_nothing_is_warned_of_where_the_damping_was_enough() -> None:
    listener = Listener()
    inverted(statistics(correlated(60, 8)), 0.01, listener)
    assert listener.warnings == []


def test_the_stage_keeps_its_hessian() -> None:
    seen = statistics(correlated(60, 8))
    assert seen.hessian is not None
    before = seen.hessian.clone()
    inverted(seen, 0.01)
    inverted(seen, 0.01, order=torch.arange(8).flip(0))
    assert torch.equal(seen.hessian, before)


def test_in_another_order_it_is_the_root_of_the_reordered_hessian() -> None:
    x = correlated(100, 12)
    x[:, 7] = 0
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    result = inverted(statistics(x), 0.01, order=order)
    expected = inverse_root(hessian_of(x[:, order]), 0.01, NAMES)
    torch.testing.assert_close(result.root, expected.root, rtol=1e-4, atol=1e-5)
    assert torch.equal(result.dead, order == 7)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e8, 1e30])
def test_the_size_of_the_activations_does_not_matter(size: float) -> None:
    x = correlated(60, 8)
    hessian = hessian_of(x)
    result = inverse_root(hessian * size, 0.01, NAMES)
    expected = inverse_root(hessian.clone(), 0.01, NAMES).root
    torch.testing.assert_close(result.root * size**0.5, expected, rtol=1e-3, atol=1e-5)


def test_damping_is_compared_with_the_median_of_the_live_inputs() -> None:
    """0.1 · (1 + 2 + 3 + 94) / 4 = 2.5 is as much as the median of 1, 2, 3 and 94."""
    hessian = torch.diag(torch.tensor([0.0, 94.0, 1.0, 0.0, 3.0, 2.0]))
    assert damping_over_median(hessian, 0.1) == pytest.approx(1.0)
    assert damping_over_median(hessian * 1e-9, 0.2) == pytest.approx(2.0)
    assert damping_over_median(torch.zeros(3, 3), 0.1) == 0.0
