"""One definition of each statistic, whatever the chunks and the dtype."""

import pytest
import torch

from studyctl.compress.statistics import SAMPLE_TOKENS, Accumulator, relative_error

ALL = frozenset({"norm", "mean_abs", "hessian"})


def accumulated(inputs: torch.Tensor, chunk: int, wanted: frozenset = ALL):  # type: ignore[no-untyped-def, type-arg]
    accumulator = Accumulator(wanted, inputs.shape[0])
    for part in inputs.split(chunk):
        accumulator.add(part)
    return accumulator.finish()


def test_two_tokens_by_hand() -> None:
    statistics = accumulated(torch.tensor([[3.0, -1.0], [4.0, 1.0]]), chunk=1)
    assert statistics.tokens == 2
    assert statistics.norm.tolist() == pytest.approx([5.0, 2.0**0.5])
    assert statistics.mean_abs.tolist() == [3.5, 1.0]
    assert statistics.hessian.tolist() == [[25.0, 1.0], [1.0, 2.0]]  # 2/2 · Σ x xᵀ


@pytest.mark.parametrize("width", [7, 512, 1300])
def test_the_hessian_is_the_full_symmetric_product(width: int) -> None:
    inputs = torch.randn(60, width, generator=torch.Generator().manual_seed(0))
    hessian = accumulated(inputs, chunk=25).hessian
    assert torch.equal(hessian, hessian.T)
    torch.testing.assert_close(
        hessian, (inputs.double().T @ inputs.double() / 30).float(), rtol=1e-4, atol=1e-5
    )


def test_leading_dimensions_are_tokens() -> None:
    inputs = torch.randn(2, 3, 4, 5)
    accumulator = Accumulator(ALL, 24)
    accumulator.add(inputs)
    assert torch.equal(accumulator.finish().norm, accumulated(inputs.reshape(24, 5), chunk=24).norm)


def test_only_what_was_asked_for_is_computed() -> None:
    statistics = accumulated(torch.ones(4, 3), 2, frozenset({"norm"}))
    assert statistics.norm is not None
    assert statistics.mean_abs is None
    assert statistics.hessian is None


def test_small_values_after_many_large_ones_are_not_lost() -> None:
    """In fp32 a sum of 1e8 does not change by adding 1."""
    statistics = accumulated(torch.tensor([[1e4]] + [[1.0]] * 1000), chunk=1)
    assert statistics.norm.double().square().item() == pytest.approx(1e8 + 1000, rel=1e-7)


def test_bfloat16_inputs_with_large_outliers_stay_finite() -> None:
    inputs = torch.randn(50, 8)
    inputs[:, 3] = 1e4
    assert accumulated(inputs.bfloat16(), chunk=20).is_finite()


def test_what_is_not_finite_is_noticed() -> None:
    assert not accumulated(torch.tensor([[1.0, float("nan")]]), 1).is_finite()
    assert not accumulated(torch.tensor([[1.0, float("inf")]]), 1, frozenset({"hessian"})).is_finite()


@pytest.mark.parametrize("chunk", [100, 999, 5000])
def test_the_sample_is_every_kth_token_whatever_the_chunks(chunk: int) -> None:
    inputs = torch.arange(5000.0)[:, None]
    sample = accumulated(inputs, chunk).sample
    assert torch.equal(sample, inputs[:: 5000 // SAMPLE_TOKENS])


def test_relative_error_by_hand() -> None:
    dense, compressed = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.0]])
    assert relative_error(dense, compressed, None) == pytest.approx(3 / 5)
    assert relative_error(dense, compressed, torch.tensor([[1.0, 1.0]])) == pytest.approx(3 / 7)
    assert relative_error(dense, compressed, torch.tensor([[0.0, 1.0]])) == 0.0
    assert relative_error(dense, compressed, torch.zeros(1, 2)) == 0.0
