"""Blocks are found in any family, stages by table or by hooks, and absorbers absorb exactly."""

import pytest
import torch
from torch import nn

from studyctl.compress.activations import record_activations
from studyctl.compress.architectures import (
    FAMILIES,
    Block,
    StageRow,
    block_linears,
    decoder_blocks,
    known_stages,
    observed_stages,
)
from studyctl.errors import StageError

from .tiny import FAMILIES as TINY_FAMILIES
from .tiny import tiny_model


def stages_by_hooks(model: nn.Module, block: Block, ids: torch.Tensor) -> list[list[str]]:
    activations = record_activations(
        model, decoder_blocks(model), ids, batch_tokens=48, device=torch.device("cpu")
    )
    with torch.no_grad():
        stages = observed_stages(block, lambda: activations.forward(block, 0))
    return [list(stage.linears) for stage in stages]


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
    with pytest.raises(StageError, match="no decoder blocks with linear layers found in `Sequential`"):
        decoder_blocks(nn.Sequential(nn.Embedding(3, 3)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_table_says_what_hooks_see(family: str, ids: torch.Tensor) -> None:
    model = tiny_model(family)
    for block in decoder_blocks(model):
        known = known_stages(family, block)
        assert known is not None
        assert [list(stage.linears) for stage in known] == stages_by_hooks(model, block, ids)


@pytest.mark.parametrize(
    ("family", "stages"),
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
    family: str, stages: list[list[str]], ids: torch.Tensor
) -> None:
    model = tiny_model(family)
    block = decoder_blocks(model)[1]
    assert known_stages(family, block) is None
    seen = stages_by_hooks(model, block, ids)
    assert sorted(seen) == sorted([f"{block.name}.{name}" for name in names] for names in stages)


def test_a_linear_that_no_token_reaches_is_named() -> None:
    block = Block(0, "b", nn.Module(), {"b.used": nn.Linear(2, 2), "b.idle": nn.Linear(2, 2)})
    with pytest.raises(StageError, match=r"no calibration token reaches `b\.idle`"):
        observed_stages(block, lambda: block.linears["b.used"](torch.zeros(1, 2)))


def test_a_known_family_with_unknown_linears_falls_back_to_hooks() -> None:
    model = tiny_model("llama")
    decoder_blocks(model)[0].module.adapter = nn.Linear(32, 32)
    assert known_stages("llama", decoder_blocks(model)[0]) is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_what_an_absorber_takes_over_leaves_the_function_as_it_was(family: str, ids: torch.Tensor) -> None:
    model = tiny_model(family, num_key_value_heads=4)
    wanted = model(input_ids=ids).logits
    for block in decoder_blocks(model):
        for row in FAMILIES[family].stages:
            absorb(block, row, adds_one=FAMILIES[family].norm_adds_one)
    torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)


def absorb(block: Block, row: StageRow, *, adds_one: bool) -> None:
    """Multiply the stage's weights by a random scale of its inputs, and divide what precedes by it."""
    if row.absorber is None:
        return
    linears = [block.linears[f"{block.name}.{name}"] for name in row.linears]
    inputs = linears[0].in_features
    scale = torch.rand(inputs) + 0.5
    for linear in linears:
        linear.weight.mul_(scale)
    before = block.module.get_submodule(row.absorber.module)
    if isinstance(before, nn.Linear):
        assert before.out_features == row.absorber.parts * inputs
        before.weight[-inputs:].div_(scale[:, None])
        if before.bias is not None:
            before.bias[-inputs:].div_(scale)
    else:
        offset = 1.0 if adds_one else 0.0
        before.weight.copy_((before.weight + offset) / scale - offset)
