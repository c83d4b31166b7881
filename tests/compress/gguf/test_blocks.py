"""llama.cpp's blocks hold what was rounded, and feedback loses less than rounding to nearest."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from studyctl.compress.gguf.levels import CODEBOOK, LEVELS
from studyctl.compress.gguf.methods import round_with_feedback
from studyctl.compress.gguf.packing import Rounded, pack
from studyctl.compress.gguf.rounding import round_to_blocks, sweep_order
from studyctl.compress.sweep.inverse import inverse_root
from studyctl.compress.weights.blocks import Blocks
from studyctl.contract.gguf import BlockType
from studyctl.contract.methods import GPTQOnGguf
from tests.compress.cases import correlated, linear_group, output_error, random, statistics

ROWS, INPUTS = 12, 512
KINDS = list(BlockType)


def any_rounded(kind: BlockType) -> Rounded:
    """Return levels of every value, with scales and minima that the type can store."""
    form, generator = LEVELS[kind], np.random.default_rng(len(kind))
    levels = generator.integers(form.low, form.high + 1, (ROWS, INPUTS))
    if form.has_codebook:
        levels = generator.choice(CODEBOOK, (ROWS, INPUTS))
    blocks = (ROWS, INPUTS // form.inputs)
    if form.blocks == 1:
        scales, minima = generator.standard_normal((2, *blocks)).astype(np.float16).astype(np.float32)
        return Rounded(levels.astype(np.int16), scales, minima * form.has_minimum)
    shared = (generator.random((2, ROWS, INPUTS // form.span)) + 0.1).astype(np.float16).astype(np.float32)
    times = generator.integers(form.scale_low, form.scale_high + 1, (2, *blocks)).astype(np.float32)
    scales, minima = times * shared.repeat(form.blocks, axis=2)
    return Rounded(levels.astype(np.int16), scales, minima * form.has_minimum, shared[0], shared[1])


@pytest.mark.parametrize("kind", KINDS)
def test_readers_of_a_file_compute_scale_times_level_minus_minimum(kind: BlockType) -> None:
    rounded, form = any_rounded(kind), LEVELS[kind]
    data = pack(rounded, kind)
    assert data.shape == (ROWS, kind.row_bytes(INPUTS))
    scales, minima = (part.repeat(form.inputs, axis=1) for part in (rounded.scales, rounded.minima))
    np.testing.assert_array_equal(
        quants.dequantize(data, GGMLQuantizationType[kind]), scales * rounded.levels - minima
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_format(kind: BlockType) -> None:
    inputs, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    assert (kind.inputs, kind.row_bytes(inputs)) == (inputs, size)


@pytest.mark.parametrize("kind", KINDS)
def test_feedback_loses_less_of_the_output_than_rounding_to_nearest(kind: BlockType) -> None:
    weight, x = random(ROWS, INPUTS), correlated(2048, INPUTS, seed=3)
    (result,) = round_with_feedback(
        linear_group(weight, seen=statistics(x), kinds=(kind,)), GPTQOnGguf(grid="gguf:Q4_0")
    )
    nearest = round_to_blocks(weight.clone(), kind).values()
    assert result.blocks is not None
    assert torch.equal(result.weight, result.blocks.values())
    assert output_error(weight, result.weight, x) < 0.7 * output_error(weight, nearest, x)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_searched_scale_is_no_worse_than_that_of_the_reference(kind: str) -> None:
    weight = random(ROWS, INPUTS)
    reference = quants.dequantize(
        quants.quantize(weight.numpy(), GGMLQuantizationType[kind]), GGMLQuantizationType[kind]
    )
    ours = round_to_blocks(weight.clone(), BlockType(kind)).values()
    assert (ours - weight).square().sum() < np.square(reference - weight.numpy()).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_stay_zero(kind: BlockType) -> None:
    assert not round_to_blocks(torch.zeros(2, 256), kind).values().any()


def test_blocks_are_swept_whole_the_most_active_first() -> None:
    diagonal = torch.ones(512)
    diagonal[256 + 32 : 256 + 64] = torch.arange(1.0, 33)  # the second super-block, its second block
    order = sweep_order(diagonal, BlockType.Q4_K).tolist()
    assert order[:32] == list(range(256 + 63, 256 + 31, -1))
    assert order[32:64] == list(range(256, 256 + 32))
    assert sorted(order[:256]) == list(range(256, 512))
    assert order[256:] == list(range(256))


def test_inputs_without_tokens_get_weight_zero_and_widen_no_block() -> None:
    x = correlated(2048, 64, seed=5)
    x[:, 7] = 0
    weight = random(4, 64)
    weight[:, 7] = 1000
    hessian = statistics(x).hessian
    assert hessian is not None
    order = sweep_order(hessian.diagonal(), BlockType.Q4_0)
    inverse = inverse_root(hessian[order[:, None], order].clone(), 0.01, ("x",))
    values = round_to_blocks(weight.clone(), BlockType.Q4_0, inverse, order).values()
    assert not values[:, 7].any()
    assert output_error(weight, values, x) < 0.05 * output_error(weight, torch.zeros_like(weight), x)


def test_a_type_is_part_of_the_value() -> None:
    data = torch.zeros(1, 18, dtype=torch.uint8)
    assert Blocks(BlockType.Q4_0, data).values().shape == (1, 32)
    assert Blocks(BlockType.Q4_0, data).bits_per_weight == 4.5
