"""One definition of each statistic, whatever the chunks and the dtype."""

import pytest
import torch

from studyctl.compress.quantize import grid
from studyctl.compress.walk.statistics import Accumulator, relative_error

ALL = frozenset({"norm", "mean_abs", "hessian"})


def accumulated(inputs: torch.Tensor, chunk: int, names: frozenset = ALL):  # type: ignore[no-untyped-def, type-arg]
    accumulator = Accumulator(names, inputs.shape[0])
    for part in inputs.split(chunk):
        accumulator.add(part)
    return accumulator.finish()


def test_two_tokens_by_hand() -> None:
    """As one sample they add up; as two samples, sums are means over them."""
    tokens = torch.tensor([[3.0, -1.0], [4.0, 1.0]])
    for samples in (1, 2):
        statistics = accumulated(tokens, chunk=2 // samples)
        assert statistics.tokens == 2
        assert statistics.norm.tolist() == pytest.approx([(25 / samples) ** 0.5, (2 / samples) ** 0.5])
        assert statistics.mean_abs.tolist() == [3.5, 1.0]
        assert statistics.peak.tolist() == [4.0, 1.0]
        hessian = torch.tensor([[25.0, 1.0], [1.0, 2.0]]) * 2 / samples  # 2/n · Σ x xᵀ
        torch.testing.assert_close(statistics.hessian, hessian)


@pytest.mark.parametrize("width", [7, 512, 1300])
def test_the_hessian_is_the_full_symmetric_product(width: int) -> None:
    inputs = torch.randn(60, width, generator=torch.Generator().manual_seed(0))
    hessian = accumulated(inputs, chunk=25).hessian  # three samples
    assert torch.equal(hessian, hessian.T)
    torch.testing.assert_close(
        hessian, (2 / 3 * inputs.double().T @ inputs.double()).float(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_does_not_matter_how_many_samples_pass_at_once(at_once: int, dtype: torch.dtype) -> None:
    samples = torch.randn(7, 24, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = accumulated(samples.flatten(0, 1), chunk=24)
    accumulator = Accumulator(ALL, 7 * 24)
    for part in samples.split(at_once):
        accumulator.add(part)
    statistics = accumulator.finish()
    assert statistics.tokens == expected.tokens == 7 * 24
    assert torch.equal(statistics.norm, expected.norm)
    assert torch.equal(statistics.hessian, expected.hessian)
    assert torch.equal(statistics.sample, expected.sample)
    torch.testing.assert_close(statistics.mean_abs, expected.mean_abs)
    assert torch.equal(statistics.peak, samples.flatten(0, 1).float().abs().amax(0))


def test_a_linear_that_a_block_calls_twice_has_its_error_told_from_the_first_tokens() -> None:
    tokens = torch.arange(24.0).reshape(8, 3)
    accumulator = Accumulator(ALL, expected_tokens=4)
    accumulator.add(tokens[:3])
    accumulator.add(tokens[3:])
    statistics = accumulator.finish()
    assert statistics.tokens == 8
    assert torch.equal(statistics.sample, tokens[:4])


def test_only_what_was_asked_for_is_computed() -> None:
    statistics = accumulated(torch.ones(4, 3), 2, frozenset({"norm"}))
    assert statistics.norm is not None
    assert statistics.mean_abs is None
    assert statistics.hessian is None


def test_small_values_after_many_large_ones_are_not_lost_in_a_mean() -> None:
    """In fp32 a sum of 1e8 does not change by adding 1."""
    statistics = accumulated(torch.tensor([[1e8]] + [[1.0]] * 1000), chunk=1)
    assert statistics.mean_abs.item() == pytest.approx((1e8 + 1000) / 1001, rel=1e-7)


def test_norms_err_by_no_more_than_a_rounding_a_sample() -> None:
    """They are running means in fp32, as in the published code, so that near ties fall as they do there."""
    samples = torch.randn(500, 8, 4, generator=torch.Generator().manual_seed(0))
    samples[0] *= 1e3
    statistics = accumulated(samples.flatten(0, 1), chunk=8)
    exact = samples.double().square().sum((0, 1)) / 500
    torch.testing.assert_close(statistics.norm.double().square(), exact, rtol=500 * 2**-23, atol=0)


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
    assert torch.equal(sample, inputs[::19])


def test_relative_error_by_hand() -> None:
    dense, compressed = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.0]])
    assert relative_error(dense, compressed, None) == pytest.approx(3 / 5)
    assert relative_error(dense, compressed, torch.tensor([[1.0, 1.0]])) == pytest.approx(3 / 7)
    assert relative_error(dense, compressed, torch.tensor([[0.0, 1.0]])) == 0.0
    assert relative_error(dense, compressed, torch.zeros(1, 2)) == 0.0


@pytest.mark.parametrize("at_once", [1, 9, 21, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relative_error_is_that_of_all_rows_however_many_are_told_at_once(
    at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "ROW_BLOCK", at_once)
    generator = torch.Generator().manual_seed(0)
    dense, compressed, sample = (torch.randn(rows, 7, generator=generator).to(dtype) for rows in (5, 5, 11))
    outputs = (sample.double() @ part.double().T for part in (dense - compressed.float(), dense))
    difference, size = (output.norm().item() for output in outputs)
    assert relative_error(dense, compressed, sample) == pytest.approx(difference / size)


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, 1), (64, 64), (500, 72), (2048, 128), (3071, 192), (8192, 256)]
)
def test_errors_are_told_from_a_part_of_the_tokens(tokens: int, expected: int) -> None:
    sample = accumulated(torch.arange(float(tokens))[:, None], tokens, frozenset()).sample[:, 0]
    assert len(sample) == expected
    assert len(set(sample.diff().tolist())) <= 1, "evenly spread"
