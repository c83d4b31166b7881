"""GPTQ against the published loop, column by column in fp64, and against rounding to nearest."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.quantize import gptq, rtn
from studyctl.compress.walk.statistics import Statistics
from studyctl.compress.weights.compressed import CompressedLinear
from studyctl.contract.methods import GPTQ, RTN
from tests.compress.cases import (
    assert_equal_but_for_ties,
    correlated,
    damped,
    linear_group,
    on_its_grid,
    output_error,
    quick,
    random,
    root_of_inverse,
    statistics,
    with_hessian,
)

INPUTS = 48


def quantized(
    weight: torch.Tensor, seen: Statistics, frozen: torch.Tensor | None = None, **settings: Any
) -> CompressedLinear:
    return gptq.compress_linears(linear_group(weight, seen=seen), GPTQ(**settings), frozen)[0]


def rounded(weight: torch.Tensor, **settings: Any) -> CompressedLinear:
    return rtn.round_to_nearest(weight, RTN(**settings), weight.dtype)


def grid(values: torch.Tensor, bits: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales and zeros ``[rows]`` of the values ``[rows, group]``, as ``Quantizer.find_params`` does."""
    low, high = values.amin(1).clamp(max=0), values.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = (high - low) / (2**bits - 1)
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else (-low / scale).round()
    return scale, zero


def published(
    weight: torch.Tensor, x: torch.Tensor, settings: GPTQ
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The paper's algorithm 1 with its code's options, one column at a time.

    Returns:
        Codes and what was rounded to them, ``[rows, in]`` in the order of the sweep; that order, ``[in]``; the quantized
        weight ``[rows, in]``. All fp64.
    """
    w, hessian = weight.double().clone(), damped(x, settings.damping)
    columns, top = w.shape[1], 2**settings.bits - 1
    size = settings.group_size or columns
    order = torch.arange(columns)
    static = [grid(part, settings.bits, settings.symmetric) for part in w.split(size, dim=1)]
    if settings.act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
        w, hessian = w[:, order], hessian[order][:, order]
    root = root_of_inverse(hessian)
    entered = w.clone()  # as the sweep finds it when it enters the block
    codes, positions, result = torch.empty_like(w), torch.empty_like(w), torch.empty_like(w)
    for step in range(columns):
        if step % settings.block_size == 0:
            entered = w.clone()
        if settings.static_groups or size == columns:
            scale, zero = static[int(order[step]) // size]
        elif step % size == 0:
            scale, zero = grid(entered[:, step : step + size], settings.bits, settings.symmetric)
        positions[:, step] = w[:, step] / scale + zero
        codes[:, step] = ((w[:, step] / scale).round() + zero).clamp(0, top)
        result[:, order[step]] = (codes[:, step] - zero) * scale
        error = (w[:, step] - result[:, order[step]]) / root[step, step]
        w[:, step:] -= error[:, None] * root[step, step:]
    return codes, positions, order, result


@pytest.mark.parametrize("static_groups", [False, True])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [0, 8, 16])
@pytest.mark.parametrize("block_size", [1, 5, 16, 128])
def test_it_is_the_published_loop(
    static_groups: bool, act_order: bool, group_size: int, block_size: int
) -> None:
    settings = GPTQ(
        bits=3,
        group_size=group_size,
        act_order=act_order,
        static_groups=static_groups,
        block_size=block_size,
    )
    weight, x = random(40, INPUTS), correlated(300, INPUTS)
    result = quantized(weight, statistics(x), **settings.model_dump(exclude={"method"}))
    codes, positions, order, expected = published(weight, x, settings)
    assert result.codes is not None
    mine = result.codes[:, order]
    assert_equal_but_for_ties(mine, codes, positions)
    same = (mine == codes).all(1)
    torch.testing.assert_close(result.weight[same].double(), expected[same], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_it_is_the_published_loop_at_every_width(bits: int, symmetric: bool) -> None:
    settings = GPTQ(bits=bits, group_size=16, symmetric=symmetric, block_size=8)
    weight, x = random(40, INPUTS), correlated(300, INPUTS)
    result = quantized(weight, statistics(x), bits=bits, group_size=16, symmetric=symmetric, block_size=8)
    codes, positions, _, _ = published(weight, x, settings)
    assert result.codes is not None
    assert_equal_but_for_ties(result.codes, codes, positions)


@pytest.mark.parametrize("options", [{"group_size": 0}, {"group_size": 8, "static_groups": True}])
@pytest.mark.parametrize("act_order", [False, True])
def test_blocks_do_not_matter_where_grids_are_fixed(options: dict[str, Any], act_order: bool) -> None:
    """One loop without blocks is the measure of every block size."""
    weight, x = random(40, INPUTS), correlated(300, INPUTS)
    settings = GPTQ(bits=3, act_order=act_order, **options)
    codes, positions, order, _ = published(weight, x, settings)
    for block_size in (1, 3, 8, 20, 48, 128):
        result = quantized(
            weight, statistics(x), bits=3, act_order=act_order, block_size=block_size, **options
        )
        assert result.codes is not None
        assert_equal_but_for_ties(result.codes[:, order], codes, positions)


class TestWithoutCorrelation:
    """With H = I there is nothing to make up for."""

    @quick
    @given(
        bits=st.integers(2, 8),
        group_size=st.sampled_from([0, 1, 2, 8, 24]),
        symmetric=st.booleans(),
        static_groups=st.booleans(),
        block_size=st.sampled_from([1, 5, 24, 128]),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        seed=st.integers(0, 2**16),
    )
    def test_it_is_rounding_to_nearest_bit_for_bit(
        self, dtype: torch.dtype, seed: int, static_groups: bool, block_size: int, **settings: Any
    ) -> None:
        weight = random(6, 24, seed=seed).to(dtype)
        result = quantized(
            weight,
            with_hessian(torch.eye(24)),
            static_groups=static_groups,
            block_size=block_size,
            **settings,
        )
        expected = rounded(weight, **settings)
        assert result.groups is None
        for part in ("weight", "scales", "zero_point"):
            assert torch.equal(getattr(result, part), getattr(expected, part))
        assert torch.equal(result.all_codes(), expected.all_codes())

    def test_in_another_order_with_static_groups_too(self) -> None:
        weight, hessian = random(6, 24), torch.diag(torch.rand(24) + 0.1)
        result = quantized(
            weight, with_hessian(hessian), bits=3, group_size=8, act_order=True, static_groups=True
        )
        assert result.groups is None
        assert torch.equal(result.weight, rounded(weight, bits=3, group_size=8).weight)

    def test_in_another_order_groups_are_neighbours_in_that_order(self) -> None:
        weight, diagonal = random(6, 24), random(24).exp()
        order = diagonal.argsort(descending=True)
        result = quantized(weight, with_hessian(diagonal.diag()), bits=3, group_size=8, act_order=True)
        assert result.groups is not None
        assert result.groups.dtype == torch.int32
        assert result.groups[order].tolist() == [0] * 8 + [1] * 8 + [2] * 8
        expected = rounded(weight[:, order], bits=3, group_size=8)
        assert torch.equal(result.weight[:, order], expected.weight)
        assert on_its_grid(result, 3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [0, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_it_errs_less_than_rounding_to_nearest(
    bits: int, group_size: int, act_order: bool, seed: int
) -> None:
    weight, x = random(40, 32, seed=seed), correlated(400, 32, seed)
    mine = quantized(weight, statistics(x), bits=bits, group_size=group_size, act_order=act_order)
    nearest = rounded(weight, bits=bits, group_size=group_size)
    assert output_error(weight, mine.weight, x) < output_error(weight, nearest.weight, x)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, Statistics, dict[str, Any]]:
    seed, size = draw(st.integers(0, 2**16)), draw(st.sampled_from([1, 2, 8]))
    inputs = size * draw(st.integers(1, 4))
    weight = random(draw(st.integers(1, 6)), inputs, seed=seed) * 10.0 ** draw(st.integers(-3, 3))
    x = correlated(draw(st.integers(1, 2 * inputs)), inputs, seed)
    x[:, draw(st.lists(st.integers(0, inputs - 1), max_size=3))] = 0
    settings = {
        "bits": draw(st.integers(2, 8)),
        "group_size": draw(st.sampled_from([0, size, inputs])),
        "symmetric": draw(st.booleans()),
        "act_order": draw(st.booleans()),
        "static_groups": draw(st.booleans()),
        "block_size": draw(st.integers(1, 40)),
    }
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    return weight.to(dtype), statistics(x), settings


@quick
@given(cases())
def test_codes_scales_zeros_and_groups_give_the_weight(
    case: tuple[torch.Tensor, Statistics, dict[str, Any]],
) -> None:
    weight, seen, settings = case
    result = quantized(weight, seen, **settings)
    assert on_its_grid(result, settings["bits"])
    assert torch.isfinite(result.weight).all()
    size = settings["group_size"] or weight.shape[1]
    assert result.scales is not None
    assert result.scales.shape == (len(weight), weight.shape[1] // size)
    if result.groups is not None:
        assert settings["act_order"]
        assert not settings["static_groups"]
        assert torch.bincount(result.groups).tolist() == [size] * (weight.shape[1] // size)


@quick
@given(cases())
def test_frozen_weights_and_dead_inputs_become_zero(
    case: tuple[torch.Tensor, Statistics, dict[str, Any]],
) -> None:
    weight, seen, settings = case
    frozen = random(*weight.shape, seed=1) > 0
    result = quantized(weight, seen, frozen, **settings)
    assert on_its_grid(result, settings["bits"])
    assert not result.weight[frozen].any()
    assert seen.hessian is not None
    assert not result.weight[:, seen.hessian.diagonal() == 0].any()


def test_what_a_frozen_weight_loses_is_made_up_for() -> None:
    weight, x = random(40, 32), correlated(400, 32)
    frozen = random(40, 32, seed=1) > 0.5
    mine = quantized(weight, statistics(x), frozen, bits=4, group_size=8)
    zeroed = rounded(weight.masked_fill(frozen, 0), bits=4, group_size=8)
    assert output_error(weight, mine.weight, x) < output_error(weight, zeroed.weight, x)


@pytest.mark.parametrize("options", [{}, {"act_order": True}, {"act_order": True, "static_groups": True}])
def test_linears_of_a_stage_become_what_each_becomes_alone(options: dict[str, Any]) -> None:
    weights = [random(rows, INPUTS, seed=rows) for rows in (48, 16, 130)]
    seen, settings = (
        statistics(correlated(300, INPUTS)),
        GPTQ(bits=4, group_size=16, block_size=20, **options),
    )
    together = gptq.compress_linears(linear_group(*weights, seen=seen), settings)
    for weight, result in zip(weights, together, strict=True):
        (alone,) = gptq.compress_linears(linear_group(weight, seen=seen), settings)
        assert on_its_grid(result, 4)
        assert result.codes is not None
        assert alone.codes is not None
        # Matrix products of other sizes may round otherwise, and a tie may fall otherwise.
        assert (result.codes != alone.codes).any(1).double().mean() < 0.02


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("options", [{"group_size": 0}, {"group_size": 8, "static_groups": True}])
def test_weights_of_dead_inputs_do_not_widen_a_grid_that_is_fixed(
    options: dict[str, Any], act_order: bool
) -> None:
    """The published code zeroes them before it takes the grids of static groups."""
    weight, x = random(6, 24), correlated(200, 24)
    x[:, [3, 9]] = 0
    outliers = weight.clone()
    outliers[:, [3, 9]] = 1e3
    weight[:, [3, 9]] = 0
    one, other = (
        quantized(each, statistics(x), bits=4, act_order=act_order, **options) for each in (weight, outliers)
    )
    assert torch.equal(one.weight, other.weight)


def test_more_bits_err_less() -> None:
    weight, x = random(20, 32), correlated(300, 32)
    errors = [
        output_error(weight, quantized(weight, statistics(x), bits=bits, group_size=8).weight, x)
        for bits in range(2, 9)
    ]
    assert errors == sorted(errors, reverse=True)


def test_what_comes_in_stays_as_it_is() -> None:
    weight, seen = random(10, 32), statistics(correlated(100, 32))
    assert seen.hessian is not None
    before, hessian = weight.clone(), seen.hessian.clone()
    for act_order in (False, True):
        quantized(weight, seen, bits=4, group_size=8, act_order=act_order)
        assert torch.equal(weight, before)
        assert torch.equal(seen.hessian, hessian)
