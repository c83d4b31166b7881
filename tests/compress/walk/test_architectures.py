"""Blocks are found in any family, linear groups by table or by hooks, and absorbers absorb exactly."""

from typing import Any

import pytest
import torch
from torch import nn

from studyctl.compress.quantize.folding import fold
from studyctl.compress.walk.activations import record_activations
from studyctl.compress.walk.architectures import (
    FAMILIES,
    Block,
    LinearModules,
    block_linears,
    decoder_blocks,
    known_linear_groups,
    observed_linear_groups,
)
from studyctl.errors import StepError
from tests.compress.tiny import FAMILIES as TINY_FAMILIES
from tests.compress.tiny import tiny_model


def linear_groups_by_hooks(model: nn.Module, block: Block, ids: torch.Tensor) -> list[list[str]]:
    activations = record_activations(
        model, decoder_blocks(model), ids, batch_tokens=48, device=torch.device("cpu")
    )
    with torch.no_grad():
        linear_groups = observed_linear_groups(block, lambda: activations.forward(block, 0))
    return [list(linears.linears) for linears in linear_groups]


def test_blocks_are_named_as_in_the_model() -> None:
    model = tiny_model("llama")
    blocks = decoder_blocks(model)
    assert [block.name for block in blocks] == ["model.layers.0", "model.layers.1", "model.layers.2"]
    assert list(blocks[1].linears) == [
        f"model.layers.1.{name}"
        for name in (
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        )
    ]
    assert len(block_linears(model)) == 21
    for name, linear in block_linears(model).items():
        assert model.get_submodule(name) is linear


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_family_has_three_blocks_and_the_head_is_in_none(family: str) -> None:
    model = tiny_model(family)
    assert len(decoder_blocks(model)) == 3
    assert model.get_output_embeddings() not in block_linears(model).values()


def test_a_model_without_linears_is_refused() -> None:
    with pytest.raises(StepError, match="no decoder blocks with linear layers found in `Sequential`"):
        decoder_blocks(nn.Sequential(nn.Embedding(3, 3)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_table_says_what_hooks_see(family: str, ids: torch.Tensor) -> None:
    model = tiny_model(family)
    for block in decoder_blocks(model):
        in_table = known_linear_groups(family, block)
        assert in_table is not None
        assert [list(linears.linears) for linears in in_table] == linear_groups_by_hooks(model, block, ids)


@pytest.mark.parametrize(
    ("family", "linear_groups"),
    [
        (
            "gpt_neox",
            [
                ["attention.query_key_value"],
                ["attention.dense"],
                ["mlp.dense_h_to_4h"],
                ["mlp.dense_4h_to_h"],
            ],
        ),
        (
            "opt",
            [
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                ["self_attn.out_proj"],
                ["fc1"],
                ["fc2"],
            ],
        ),
        (  # attention and MLP side by side behind one norm
            "falcon",
            [
                ["self_attention.query_key_value", "mlp.dense_h_to_4h"],
                ["self_attention.dense"],
                ["mlp.dense_4h_to_h"],
            ],
        ),
    ],
)
def test_families_outside_the_table_are_observed(
    family: str, linear_groups: list[list[str]], ids: torch.Tensor
) -> None:
    model = tiny_model(family)
    block = decoder_blocks(model)[1]
    assert known_linear_groups(family, block) is None
    seen = linear_groups_by_hooks(model, block, ids)
    assert sorted(seen) == sorted([f"{block.name}.{name}" for name in names] for names in linear_groups)


def test_a_linear_that_no_token_reaches_is_named() -> None:
    block = Block(0, "b", nn.Module(), {"b.used": nn.Linear(2, 2), "b.idle": nn.Linear(2, 2)})
    with pytest.raises(StepError, match=r"no calibration token reaches `b\.idle`"):
        observed_linear_groups(block, lambda: block.linears["b.used"](torch.zeros(1, 2)))


def test_a_known_family_with_unknown_linears_falls_back_to_hooks() -> None:
    model = tiny_model("llama")
    decoder_blocks(model)[0].module.adapter = nn.Linear(32, 32)
    assert known_linear_groups("llama", decoder_blocks(model)[0]) is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_what_an_absorber_takes_over_leaves_the_function_as_it_was(family: str, ids: torch.Tensor) -> None:
    """Of one linear group after the other, so that a wrong absorber cannot hide behind a right one."""
    model = tiny_model(family, num_key_value_heads=4)
    expected = model(input_ids=ids).logits
    for block in decoder_blocks(model):
        linear_groups = known_linear_groups(family, block)
        assert linear_groups is not None
        for linears in linear_groups:
            if linears.absorber is not None:
                absorb(model, block, linears)
                logits = model(input_ids=ids).logits
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def absorb(model: Any, block: Block, linears: LinearModules) -> None:
    """Multiply the group's weights by a random scale of its inputs, and fold that into what precedes it."""
    assert linears.absorber is not None
    scales = torch.rand(next(iter(linears.linears.values())).in_features) + 0.5
    parameters: dict[str, torch.Tensor] = {}
    # In fp32 nothing is copied: what a linear absorbs changes the model's own weight.
    weights = {name: linear.weight.data for name, linear in block.linears.items()}
    absorbed = fold(block, linears.absorber, scales, weights, parameters)
    for linear in linears.linears.values():
        linear.weight.mul_(absorbed)
    for name, value in parameters.items():
        model.get_parameter(name).copy_(value)
