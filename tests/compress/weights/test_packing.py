"""Codes in the layout of compressed-tensors, held against that package's own packing."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given
from hypothesis import strategies as st

from studyctl.compress.quantize.grid import dequantize
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.compress.weights.packing import Packing, choose_packing, packed_tensors, quantization_config
from studyctl.contract.methods import GPTQ, RTN, Magnitude, MethodSettings, PruneThenQuantize
from tests.compress.tiny import tiny_model


def linear(
    out: int = 2,
    inputs: int = 8,
    group_size: int = 4,
    *,
    bits: int = 4,
    symmetric: bool = False,
    seed: int = 0,
) -> CompressedLinear:
    random = torch.Generator().manual_seed(seed)
    groups = inputs // (group_size or inputs)
    codes = torch.randint(0, 2**bits, (out, inputs), generator=random, dtype=torch.uint8)
    zeros = torch.randint(0, 2**bits, (out, groups), generator=random, dtype=torch.uint8)
    if symmetric:
        zeros = torch.full_like(zeros, 2 ** (bits - 1))
    scales = torch.rand(out, groups, generator=random) + 0.5
    return CompressedLinear(dequantize(codes, scales, zeros), codes, scales, zeros)


def compressed(settings: MethodSettings, *linears: CompressedLinear) -> Compressed:
    return Compressed(settings, {f"linear {i}": one for i, one in enumerate(linears)}, 4.0, 0.0)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]], dtype=torch.uint8)
    one = CompressedLinear(codes.float(), codes, torch.ones(1, 1), torch.tensor([[3]], dtype=torch.uint8))
    packed = packed_tensors(one, Packing(4, 8, symmetric=False, indexed=False))
    assert packed["weight_packed"].tolist() == [[0xF7654321 - 2**32]]
    assert packed["weight_zero_point"].tolist() == [[3]]
    assert packed["weight_shape"].tolist() == [1, 8]
    assert set(packed) == {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}


@given(
    out=st.integers(1, 9), columns=st.integers(1, 9), group=st.integers(1, 3), bits=st.integers(2, 8),
    symmetric=st.booleans(),
)  # fmt: skip
def test_any_shape_is_packed_as_the_package_packs_it(
    out: int, columns: int, group: int, bits: int, symmetric: bool
) -> None:
    one = linear(out, columns * group, group, bits=bits, symmetric=symmetric, seed=out * columns)
    packing, why = choose_packing(compressed(RTN(bits=bits, group_size=group, symmetric=symmetric), one))
    assert packing is not None, why
    assert packing.bits == (4 if bits <= 4 else 8)
    tensors = packed_tensors(one, packing)
    assert one.zero_point is not None
    middle = 2 ** (packing.bits - 1)
    shift = 2 ** (bits - 1) if symmetric else middle
    theirs = pack_to_int32((one.all_codes().int() - shift).to(torch.int8), packing.bits)
    assert torch.equal(tensors["weight_packed"], theirs)
    if symmetric:
        assert "weight_zero_point" not in tensors
    else:
        zeros = pack_to_int32((one.zero_point.int() - middle).to(torch.int8), packing.bits, packed_dim=0)
        assert torch.equal(tensors["weight_zero_point"], zeros)


def test_weights_without_codes_have_no_reason_to_be_packed() -> None:
    assert choose_packing(compressed(Magnitude(sparsity=0.5), CompressedLinear(torch.zeros(2, 8)))) == (
        None,
        "",
    )


def test_zeros_off_the_middle_are_stored_whatever_the_settings_say() -> None:
    settings = RTN(group_size=4, symmetric=True)
    packing, _ = choose_packing(compressed(settings, linear(symmetric=True), linear(symmetric=False)))
    assert packing == Packing(4, 4, symmetric=False, indexed=False)


def test_pruned_and_quantized_weights_are_packed() -> None:
    settings = PruneThenQuantize(method=("magnitude", "rtn"), sparsity=0.5, bits=3, group_size=4)
    assert choose_packing(compressed(settings, linear(bits=3)))[0] == Packing(4, 4, False, False)


def test_groups_that_are_not_consecutive_are_named_for_every_linear() -> None:
    groups = torch.tensor([1, 0, 1, 0, 0, 1, 1, 0], dtype=torch.int32)
    ordered, plain = linear()._replace(groups=groups), linear()
    packing, _ = choose_packing(compressed(GPTQ(group_size=4, act_order=True), ordered, plain))
    assert packing == Packing(4, 4, symmetric=False, indexed=True)
    assert packed_tensors(ordered, packing)["weight_g_idx"].tolist() == groups.tolist()
    assert packed_tensors(plain, packing)["weight_g_idx"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_one_scale_a_row_leaves_nothing_to_order() -> None:
    one = linear(group_size=0)._replace(groups=torch.zeros(8, dtype=torch.int32))
    packing, _ = choose_packing(compressed(GPTQ(group_size=0, act_order=True), one))
    assert packing == Packing(4, 0, symmetric=False, indexed=False)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (linear()._replace(groups=torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])), "groups differ in size"),
        (linear(group_size=2), "4 groups of 4 inputs are not the 8 inputs"),
    ],
)
def test_what_the_format_cannot_hold_is_said(one: CompressedLinear, why: str) -> None:
    result = choose_packing(compressed(RTN(group_size=4), linear(), one))
    assert result == (None, f"the format cannot hold linear 1: {why}")


def test_the_config_names_what_is_not_packed() -> None:
    model = tiny_model("llama")
    packed = [name for name, _ in model.named_modules() if name.endswith("_proj")]
    config = quantization_config(Packing(8, 0, symmetric=True, indexed=False), packed, model)
    assert config["ignore"] == ["lm_head"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    weights = config["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["strategy"], weights["group_size"]) == (8, "channel", None)
