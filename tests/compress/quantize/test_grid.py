"""The quantization grid, by hand and by its properties."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.quantize.grid import (
    codes_come_back,
    codes_of,
    dequantize,
    grid_of,
    paired,
    round_to_codes,
    smallest_scale,
    unpaired,
)
from studyctl.compress.quantize.rtn import compress_linears
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.contract.methods import RTN

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rtn(weight: torch.Tensor, **settings: Any) -> CompressedLinear:
    (result,) = compress_linears(LinearGroup(("linear",), (weight,), None, weight.dtype), RTN(**settings))
    return result


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, Any]]:
    """Weights from tiny to large, of one sign or both, with zeros and outliers, and settings that fit them."""
    rows, groups, size = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 8, 16])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(rows, groups * size, generator=generator) * 10.0 ** draw(st.integers(-6, 3))
    weight += draw(st.sampled_from([0.0, 0.0, 3.0, -3.0])) * weight.abs().mean()
    weight[torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
    if draw(st.booleans()):
        weight[0, 0] = 1e4
    settings = {
        "bits": draw(st.integers(2, 8)),
        "group_size": draw(st.sampled_from([0, size])),
        "symmetric": draw(st.booleans()),
    }
    return weight.to(draw(st.sampled_from(DTYPES))), settings


def test_asymmetric_by_hand() -> None:
    result = rtn(torch.tensor([[-1.0, 0.0, 0.26, 2.0]]), bits=2, group_size=4)
    assert result.scales.tolist() == [[1.0]]  # (2 − −1) / 3
    assert result.zero_point.tolist() == [[1]]
    assert result.all_codes().tolist() == [[0, 1, 1, 3]]
    assert result.weight.tolist() == [[-1.0, 0.0, 0.0, 2.0]]


def test_the_range_always_holds_zero() -> None:
    result = rtn(torch.tensor([[1.5, 3.0], [-1.5, -3.0]]), bits=2, group_size=2)
    assert result.scales.tolist() == [[1.0], [1.0]]
    assert result.zero_point.tolist() == [[0], [3]]
    assert result.all_codes().tolist() == [[2, 3], [1, 0]]  # 1.5 is halfway: to even


def test_symmetric_by_hand() -> None:
    result = rtn(torch.tensor([[-3.0, 1.0, 0.2, 3.0]]), bits=2, group_size=4, symmetric=True)
    assert result.scales.tolist() == [[2.0]]  # 6 / 3
    assert result.zero_point.tolist() == [[2]]
    assert result.weight.tolist() == [[-4.0, 0.0, 0.0, 2.0]]  # 3 would be code 4; the largest is 3


def test_group_size_zero_is_one_scale_an_output_channel() -> None:
    weight = torch.randn(3, 8)
    result = rtn(weight, bits=4, group_size=0)
    assert result.scales.shape == (3, 1)
    assert torch.equal(result.weight, rtn(weight, bits=4, group_size=8).weight)


def test_groups_are_consecutive_inputs() -> None:
    weight = torch.tensor([[0.0, 3.0, 0.0, 300.0]])
    result = rtn(weight, bits=2, group_size=2)
    assert result.scales.tolist() == [[1.0, 100.0]]
    assert torch.equal(result.weight, weight)


def test_scales_are_rounded_before_weights() -> None:
    """(1 − 0) / 15 is no bfloat16: codes and weights belong to the rounded scale."""
    weight = torch.linspace(0, 1, 16).bfloat16()[None]
    result = rtn(weight, bits=4, group_size=16)
    scale = result.scales.float().item()
    assert scale == torch.tensor(1 / 15).bfloat16().item() != pytest.approx(1 / 15, rel=1e-4)
    assert torch.equal(result.all_codes().float(), (weight.float() / scale).round().clamp(0, 15))


@given(cases())
def test_codes_are_in_range_and_give_the_weight_bit_for_bit(
    case: tuple[torch.Tensor, dict[str, Any]],
) -> None:
    weight, settings = case
    result = rtn(weight, **settings)
    assert result.all_codes().dtype == result.zero_point.dtype == torch.uint8
    assert int(result.all_codes().max()) < 2 ** settings["bits"]
    assert int(result.zero_point.max()) < 2 ** settings["bits"]
    assert result.scales.dtype == result.weight.dtype == weight.dtype
    assert torch.isfinite(result.scales).all()
    assert (result.scales > 0).all()
    assert torch.equal(dequantize(result.all_codes(), result.scales, result.zero_point), result.weight)
    by_fp32 = dequantize(result.all_codes(), result.scales.float(), result.zero_point).to(weight.dtype)
    assert torch.equal(by_fp32, result.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(bits=st.integers(1, 8), scale=st.floats(0, 1), seed=st.integers(0, 99), in_order=st.booleans())
def test_a_weight_gives_its_codes_back(
    bits: int, scale: float, seed: int, in_order: bool, dtype: torch.dtype
) -> None:
    """From the smallest scale to the largest: in fp16 products may be subnormal."""
    smallest, largest = smallest_scale(dtype), torch.finfo(dtype).max / 2**bits
    random = torch.Generator().manual_seed(seed)
    scales = (smallest * (largest / smallest) ** (scale * torch.rand(64, 2, generator=random).double())).to(
        dtype
    )
    codes, zeros = (
        torch.randint(2**bits, shape, generator=random, dtype=torch.uint8) for shape in ((64, 32), (64, 2))
    )
    groups = None if in_order else torch.arange(32, dtype=torch.int32) % 2
    again = codes_of(dequantize(codes, scales, zeros, groups), scales, zeros, groups)
    assert codes_come_back(bits, dtype) == (bits < 8 or dtype != torch.bfloat16)
    assert torch.equal(again, codes) or not codes_come_back(bits, dtype)


def test_two_codes_share_a_byte_and_the_first_is_in_its_lower_half() -> None:
    codes = torch.tensor([[1, 2, 15], [0, 7, 3]], dtype=torch.uint8)  # of an odd number the last is alone
    assert paired(codes).tolist() == [[0x21, 0x0F], [0x70, 0x03]]
    assert torch.equal(unpaired(paired(codes), 3), codes)


def test_eight_bits_do_not_come_back_from_bfloat16() -> None:
    codes, zeros = torch.arange(256, dtype=torch.uint8)[None], torch.zeros(1, 1, dtype=torch.uint8)
    scales = torch.tensor([[0.0126953125]], dtype=torch.bfloat16)
    assert not torch.equal(codes_of(dequantize(codes, scales, zeros), scales, zeros), codes)


@given(cases())
def test_the_error_is_at_most_half_a_step_inside_the_range(case: tuple[torch.Tensor, dict[str, Any]]) -> None:
    weight, settings = case
    result = rtn(weight, **settings)
    groups = weight.double().reshape(*result.scales.shape, -1)
    scales, zeros = result.scales.double()[..., None], result.zero_point.double()[..., None]
    lowest, highest = -zeros * scales, (2 ** settings["bits"] - 1 - zeros) * scales
    errors = (result.weight.double().reshape(groups.shape) - groups.clamp(lowest, highest)).abs()
    rounding = torch.finfo(weight.dtype).eps * groups.abs().amax() + torch.finfo(weight.dtype).smallest_normal
    assert (errors <= scales * 0.5001 + rounding).all()


@given(cases())
def test_weights_on_the_grid_stay_where_they_are(case: tuple[torch.Tensor, dict[str, Any]]) -> None:
    weight, settings = case
    result = rtn(weight, **settings)
    groups = result.weight.reshape(*result.scales.shape, -1)
    again = round_to_codes(groups, result.scales[..., None], result.zero_point[..., None], settings["bits"])
    moved = (again.reshape(weight.shape).int() - result.all_codes().int()).abs()
    # bfloat16 has 8 digits: of a product of 255 steps it rounds off up to half a one.
    assert moved.max() <= (weight.dtype == torch.bfloat16 and settings["bits"] == 8)


@given(cases())
def test_zero_stays_zero(case: tuple[torch.Tensor, dict[str, Any]]) -> None:
    weight, settings = case
    assert (rtn(weight, **settings).weight[weight == 0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_largest_weights_of_a_dtype_do_not_overflow(dtype: torch.dtype, symmetric: bool) -> None:
    largest = torch.finfo(dtype).max / 4
    result = rtn(
        torch.tensor([[largest, -largest, 1.0, 0.0]]).to(dtype), bits=2, group_size=4, symmetric=symmetric
    )
    assert torch.isfinite(result.weight).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("low", [0.0, -1.0, -21845.0, -65504.0])
def test_the_grid_of_the_largest_fp16_weights_ends_within_fp16(
    low: float, symmetric: bool, bits: int
) -> None:
    """65,504 / 15 rounds up to 4,368, and 15 · 4,368 = 65,520 would already be infinite."""
    weight = torch.tensor([[low, 100.0, 40_000.0, 65_504.0]], dtype=torch.float16)
    result = rtn(weight, bits=bits, group_size=4, symmetric=symmetric)
    assert torch.isfinite(result.weight).all()
    step = result.scales.double().item()
    # The upper end of a symmetric grid is a step nearer to 0 than its lower one.
    assert (result.weight.double() - weight.double()).abs().max() <= 1.2 * step


@pytest.mark.parametrize("units", [1.3, 1.45, 2.4, 10.4, 50.4])
def test_weights_of_fp16_that_are_tiny_are_not_cut_off(units: float) -> None:
    """A step of 1.45 units of 2⁻²⁴ rounds to one unit, and with 255 steps a third of the range would be off the grid."""
    weight = torch.linspace(-1, 1, 64)[None] * units * 255 / 2 * 2.0**-24
    result = rtn(weight.half(), bits=8, group_size=64)
    step = result.scales.double().item()
    assert (result.weight.double() - weight.half().double()).abs().max() <= 1.01 * step
    assert step <= (units + 1) * 2.0**-24


def test_a_row_of_fp16_whose_step_would_be_zero_keeps_its_largest_weight() -> None:
    weight = torch.tensor([[1.2e-7, 0.0, -6e-8, 6e-8], [0.5, -0.5, 0.1, 0.0]], dtype=torch.float16)
    result = rtn(weight, bits=4, group_size=0)
    assert torch.equal(result.weight[0], weight[0])


def test_groups_say_which_scale_a_column_has() -> None:
    """Columns 0 and 3 are in the second group, 1 and 2 in the first."""
    codes = torch.tensor([[3, 1, 0, 2]], dtype=torch.uint8)
    scales, zeros = torch.tensor([[1.0, 10.0]]), torch.tensor([[1, 2]], dtype=torch.uint8)
    groups = torch.tensor([1, 0, 0, 1], dtype=torch.int32)
    assert dequantize(codes, scales, zeros, groups).tolist() == [[10.0, 0.0, -1.0, 0.0]]


@given(cases(), st.integers(0, 2**16))
def test_groups_in_another_order_are_consecutive_groups_of_reordered_columns(
    case: tuple[torch.Tensor, dict[str, Any]], seed: int
) -> None:
    weight, settings = case
    result = rtn(weight, **settings)
    inputs = weight.shape[1]
    consecutive = torch.arange(inputs, dtype=torch.int32) // (inputs // result.scales.shape[1])
    order = torch.randperm(inputs, generator=torch.Generator().manual_seed(seed))
    reordered = dequantize(result.all_codes()[:, order], result.scales, result.zero_point, consecutive[order])
    assert torch.equal(reordered, result.weight[:, order])
    assert torch.equal(
        dequantize(result.all_codes(), result.scales, result.zero_point, consecutive), result.weight
    )


def test_a_group_of_zeros_has_scale_one() -> None:
    grid = grid_of(torch.zeros(1, 4), 4, symmetric=False, dtype=torch.float16)
    assert (grid.scales.item(), grid.zero_point.item()) == (1.0, 0)
