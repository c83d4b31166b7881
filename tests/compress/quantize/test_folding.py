"""A scale moves from linears' weights into what precedes it, and the model computes what it did."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from studyctl.compress.quantize.folding import can_fold, fold, smallest_precise
from studyctl.compress.walk.architectures import (
    FAMILIES,
    Absorber,
    Block,
    decoder_blocks,
    known_linear_groups,
)
from tests.compress.cases import random
from tests.compress.tiny import tiny_model

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in sorted(FAMILIES)),  # heads share keys and values
    *((family, {"num_key_value_heads": 4}) for family in sorted(FAMILIES)),
    ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    ("gemma2", {"num_key_value_heads": 4, "attention_bias": True}),
    ("gemma3_text", {"num_key_value_heads": 4, "attention_bias": True}),
]


def block_with(**modules: nn.Module) -> Block:
    module = nn.Module()
    for name, part in modules.items():
        module.add_module(name, part)
    return Block(0, "b", module, {})


def linear_with_bias(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    linear.weight.data, linear.bias.data = random(outputs, inputs), random(outputs, seed=1)
    return linear


def scales_for(inputs: int, seed: int) -> torch.Tensor:
    return random(inputs, seed=seed).exp()


def with_random_scales(model: Any, family: str) -> set[str]:
    """Fold random scales of all linear groups of all blocks; return the names of the parameters that changed, as in block 0."""
    changed: set[str] = set()
    for block in decoder_blocks(model):
        linear_groups = known_linear_groups(family, block)
        assert linear_groups is not None
        weights = {name: linear.weight.data.clone() for name, linear in block.linears.items()}
        parameters: dict[str, torch.Tensor] = {}
        for seed, linears in enumerate(linear_groups):
            if linears.absorber is None:
                continue
            inputs = next(iter(linears.linears.values())).in_features
            absorbed = fold(block, linears.absorber, scales_for(inputs, seed), weights, parameters)
            for name in linears.linears:
                weights[name] *= absorbed
            changed |= set(linears.linears)
        for name, value in (
            {f"{name}.weight": weight for name, weight in weights.items()} | parameters
        ).items():
            model.get_parameter(name).data.copy_(value)
        changed |= set(parameters)
    return {name.removeprefix("model.layers.0.") for name in changed if ".layers.0." in name}


def difference(model: Any, expected: Any, ids: torch.Tensor) -> float:
    """Return how far the logits of one model are from those of another, relative to their size."""
    with torch.no_grad():
        logits = expected(input_ids=ids).logits
        return float((model(input_ids=ids).logits - logits).norm() / logits.norm())


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_the_function_of_every_family_stays_as_it_was(
    family: str, changes: dict[str, Any], ids: torch.Tensor
) -> None:
    model = tiny_model(family, **changes)
    folded = copy.deepcopy(model)
    changed = with_random_scales(folded, family)
    assert difference(folded, model, ids) < 1e-5
    assert any(name.endswith("down_proj") for name in changed)


def test_without_the_other_half_the_function_would_be_another(ids: torch.Tensor) -> None:
    """Otherwise the agreement above would prove nothing."""
    model = tiny_model("llama")
    folded = copy.deepcopy(model)
    with_random_scales(folded, "llama")
    folded.model.layers[1].input_layernorm.weight.data.copy_(model.model.layers[1].input_layernorm.weight)
    assert difference(folded, model, ids) > 1e-3


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, ["input_layernorm", None, "post_attention_layernorm", "mlp.up_proj"]),
        (
            "qwen2",
            {"num_key_value_heads": 4},
            ["input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"],
        ),
        ("gemma3_text", {}, ["input_layernorm", None, "pre_feedforward_layernorm", "mlp.up_proj"]),
        ("phi3", {}, ["input_layernorm", None, "post_attention_layernorm", "mlp.gate_up_proj"]),
        (
            "phi3",
            {"num_key_value_heads": 4},
            ["input_layernorm", "self_attn.qkv_proj", "post_attention_layernorm", "mlp.gate_up_proj"],
        ),
        ("olmo2", {}, [None, None, None, "mlp.up_proj"]),
        ("olmo2", {"num_key_value_heads": 4}, [None, "self_attn.v_proj", None, "mlp.up_proj"]),
    ],
)
def test_what_can_take_over_a_scale(family: str, changes: dict[str, Any], expected: list[str | None]) -> None:
    """A head that serves several queries makes fewer channels than the output projection reads: no scale for it."""
    linear_groups = known_linear_groups(family, decoder_blocks(tiny_model(family, **changes))[1])
    assert linear_groups is not None
    assert [linears.absorber and linears.absorber.module for linears in linear_groups] == expected


def test_biases_that_absorb_change_too(ids: torch.Tensor) -> None:
    changed = with_random_scales(tiny_model("qwen2", num_key_value_heads=4), "qwen2")
    assert "self_attn.v_proj.bias" in changed
    assert not {"self_attn.q_proj.bias", "self_attn.k_proj.bias"} & changed


@pytest.mark.parametrize(("parts", "rows"), [(1, 4), (2, 8), (3, 12)])
def test_a_linear_absorbs_in_its_last_rows(parts: int, rows: int) -> None:
    linear = linear_with_bias(3, rows)
    before = linear.weight.data.clone(), linear.bias.data.clone()
    block = block_with(before=linear)
    scales = torch.tensor([1.0, 2.0, 4.0, 0.5])
    weights, parameters = {"b.before": linear.weight.data.clone()}, dict[str, torch.Tensor]()
    absorbed = fold(block, Absorber("before", parts=parts), scales, weights, parameters)
    assert torch.equal(absorbed, scales)
    assert torch.equal(weights["b.before"][:-4], before[0][:-4])
    assert torch.equal(weights["b.before"][-4:], before[0][-4:] / scales[:, None])
    assert torch.equal(parameters["b.before.bias"][:-4], before[1][:-4])
    assert torch.equal(parameters["b.before.bias"][-4:], before[1][-4:] / scales)
    assert torch.equal(linear.weight, before[0])  # the module itself is left alone
    assert torch.equal(linear.bias, before[1])


def test_a_norm_with_a_bias_absorbs_in_both() -> None:
    norm, linear, x = nn.LayerNorm(6), linear_with_bias(6, 4), random(5, 6)
    norm.weight.data, norm.bias.data = random(6, seed=2), random(6, seed=3)
    expected = linear(norm(x))
    parameters: dict[str, torch.Tensor] = {}
    absorbed = fold(block_with(norm=norm), Absorber("norm"), scales_for(6, 4), {}, parameters)
    norm.weight.data, norm.bias.data = parameters["b.norm.weight"], parameters["b.norm.bias"]
    linear.weight.data *= absorbed
    torch.testing.assert_close(linear(norm(x)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adds_one", [False, True])
def test_weights_make_up_for_what_a_norm_loses_to_rounding(dtype: torch.dtype, adds_one: bool) -> None:
    """new gain · taken = old gain, to fp32's precision, where the scale that was asked for misses by a 16-bit rounding."""
    norm = nn.RMSNorm(64, dtype=dtype)
    norm.weight.data = random(64).to(dtype)
    scales, one = scales_for(64, 1), 1.0 if adds_one else 0.0
    parameters: dict[str, torch.Tensor] = {}
    absorbed = fold(block_with(norm=norm), Absorber("norm", adds_one=adds_one), scales, {}, parameters)
    new = parameters["b.norm.weight"]
    assert new.dtype == dtype
    old_gain, new_gain = norm.weight.double() + one, new.double() + one
    torch.testing.assert_close(new_gain * absorbed.double(), old_gain, rtol=1e-6, atol=0)
    assert ((new_gain * scales.double() / old_gain - 1).abs() > 1e-4).any()
    rounding = torch.finfo(dtype).eps * (new.double().abs() + 1) / new_gain.abs()
    assert ((absorbed / scales - 1).abs() <= rounding).all()


def test_a_gain_of_zero_takes_any_scale() -> None:
    norm = nn.RMSNorm(3)
    norm.weight.data = torch.tensor([0.0, 1.0, 2.0])
    parameters: dict[str, torch.Tensor] = {}
    absorbed = fold(block_with(norm=norm), Absorber("norm"), torch.tensor([5.0, 2.0, 4.0]), {}, parameters)
    assert parameters["b.norm.weight"].tolist() == [0.0, 0.5, 0.5]
    assert absorbed.tolist() == [5.0, 2.0, 4.0]


def test_gemmas_gain_of_zero_is_a_weight_of_minus_one() -> None:
    norm = nn.RMSNorm(2)
    norm.weight.data = torch.tensor([-1.0, 1.0])
    parameters: dict[str, torch.Tensor] = {}
    absorbed = fold(
        block_with(norm=norm), Absorber("norm", adds_one=True), torch.tensor([3.0, 4.0]), {}, parameters
    )
    assert parameters["b.norm.weight"].tolist() == [-1.0, -0.5]
    assert absorbed.tolist() == [3.0, 4.0]


class TestCanFold:
    """A scale must leave what precedes the linears within the dtype's range, and with digits enough."""

    @staticmethod
    def norm(*weights: float, dtype: torch.dtype, bias: float | None = None) -> Block:
        norm = nn.LayerNorm(len(weights), bias=bias is not None, dtype=dtype)
        norm.weight.data = torch.tensor(weights, dtype=dtype)
        if bias is not None:
            norm.bias.data.fill_(bias)
        return block_with(norm=norm)

    @staticmethod
    def of_norm(block: Block, *scales: tuple[float, ...], adds_one: bool = False) -> list[bool]:
        return can_fold(block, Absorber("norm", adds_one=adds_one), torch.tensor(scales), {}, 4).tolist()

    def test_norm_weights_that_overflow(self) -> None:
        scales = [(1.0, 1.0), (1e-2, 1.0), (1e-3, 1.0)]
        assert self.of_norm(self.norm(100.0, 1.0, dtype=torch.float16), *scales) == [True, True, False]
        assert self.of_norm(self.norm(100.0, 1.0, dtype=torch.bfloat16), *scales) == [True, True, True]

    def test_norm_weights_that_lose_their_digits(self) -> None:
        """fp16 has eight of them down to 2⁻¹⁷, 7.6e-6."""
        assert smallest_precise(torch.float16) == 2.0**-17
        scales = [(1.0, 1.0), (10.0, 1.0), (20.0, 1.0), (1e4, 1.0)]
        assert self.of_norm(self.norm(1e-4, 1.0, dtype=torch.float16), *scales) == [True, True, False, False]
        assert self.of_norm(self.norm(1e-4, 1.0, dtype=torch.bfloat16), *scales) == [True] * 4
        assert self.of_norm(self.norm(1e-36, 1.0, dtype=torch.bfloat16), *scales) == [True, True, True, False]

    def test_a_weight_that_is_tiny_already_may_not_shrink_but_may_grow(self) -> None:
        block = self.norm(1e-6, 1.0, dtype=torch.float16)
        assert self.of_norm(block, (1.0, 1.0), (0.1, 1.0), (3.0, 1.0)) == [True, True, False]

    def test_a_weight_of_zero_stays_zero(self) -> None:
        assert self.of_norm(self.norm(0.0, 1.0, dtype=torch.float16), (1e4, 1.0)) == [True]

    def test_a_gemma_gain_that_would_be_rounded_to_zero(self) -> None:
        """The gain 1 is the weight 0. Divided by 100 it is −0.99; by 1,000, −0.999, which bfloat16 rounds to −1."""
        block = self.norm(0.0, 0.5, dtype=torch.bfloat16)
        assert self.of_norm(block, (100.0, 1.0), (1000.0, 1.0), adds_one=True) == [True, False]

    def test_biases_that_overflow(self) -> None:
        block = self.norm(1.0, 1.0, dtype=torch.float16, bias=3e4)
        assert self.of_norm(block, (1.0, 1.0), (0.5, 1.0)) == [True, False]

    @pytest.mark.parametrize("bits", [4, 8])
    def test_rows_of_a_linear_whose_grid_would_leave_the_dtype(self, bits: int) -> None:
        """The step of a grid is about the row's largest weight by 2^bits."""
        linear = linear_with_bias(3, 4).half()
        linear.bias.data.zero_()
        weights = {"b.before": torch.full((4, 3), 0.25)}
        block = block_with(before=linear)
        large, small = 0.25 / 30_000, 0.25 / (2.0**-17 * 2**bits)
        scales = torch.ones(4, 2)
        scales[:, 1] = torch.tensor([large * 1.1, large * 0.9, small * 0.9, small * 1.1])
        folds = can_fold(block, Absorber("before", parts=2), scales, weights, bits).tolist()
        assert folds == [True, False, True, False]

    def test_only_the_rows_that_absorb_count(self) -> None:
        linear = linear_with_bias(3, 4).half()
        linear.bias.data.zero_()
        weights = {"b.before": torch.full((4, 3), 0.25)}
        weights["b.before"][:2] = 6e4
        block = block_with(before=linear)
        assert can_fold(block, Absorber("before", parts=2), torch.full((1, 2), 0.5), weights, 4).tolist() == [
            True
        ]
