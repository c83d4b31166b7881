"""Pruned, then quantized: what was pruned stays 0, what is left lies on a grid, and both methods do what they do alone."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from studyctl.compress.combined import compress_linears
from studyctl.compress.prune import sparsegpt
from studyctl.compress.quantize.rtn import round_to_nearest
from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed
from studyctl.contract.methods import METHODS, RTN, MethodSettings, PruneThenQuantize, SparseGPT

from .cases import correlated, linear_group, on_its_grid, output_error, random, statistics
from .tiny import Listener, tiny_model

PAIRS = list(itertools.product(("magnitude", "wanda", "sparsegpt"), ("rtn", "gptq", "awq")))


def pair(pruner: str, quantizer: str, **options: Any) -> PruneThenQuantize:
    settings = {"group_size": 16, "bits": 4, **options}
    if "pattern" not in options:
        settings.setdefault("sparsity", 0.5)
    return PruneThenQuantize(method=(pruner, quantizer), **settings)  # type: ignore[arg-type]


def walk(
    model: Any, settings: MethodSettings, ids: torch.Tensor | None, listener: Listener | None = None
) -> Compressed:
    return compress(model, settings, ids, batch_tokens=48, reporter=listener or Listener())


def pruned_alone(pruner: str, settings: PruneThenQuantize, ids: torch.Tensor, **changes: Any) -> Any:
    """Return a model that the pruner alone has been through, with the pair's settings."""
    model = tiny_model("llama", **changes)
    walk(model, settings.pruning, ids)
    assert settings.pruning.method == pruner
    return model


@pytest.mark.parametrize("share", [{"sparsity": 0.5}, {"pattern": "2:4"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("pruner", "quantizer"), PAIRS)
def test_what_the_pruner_removes_is_zero_and_the_rest_is_on_its_grid(
    pruner: str, quantizer: str, dtype: torch.dtype, share: dict[str, Any], ids: torch.Tensor
) -> None:
    """In one block: the inputs of the next one are then those of a quantized one, and the pruner sees others."""
    settings = pair(pruner, quantizer, **share)
    alone = tiny_model("llama", dtype=dtype, num_hidden_layers=1)
    walk(alone, settings.pruning, ids)
    model = tiny_model("llama", dtype=dtype, num_hidden_layers=1)
    compressed = walk(model, settings, ids)
    for name, linear in compressed.linears.items():
        gone = alone.get_submodule(name).weight == 0
        assert gone.double().mean() >= 0.5, name
        assert not linear.weight[gone].any(), name
        assert on_its_grid(linear, 4), name
        # Few of the others are so small that the grid's 0 is the nearest to them.
        assert linear.weight.count_nonzero() > 0.25 * linear.weight.numel(), name
    assert compressed.sparsity >= 0.5


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("pruner", "quantizer"), PAIRS)
def test_patterns_hold_in_every_group_of_every_block(
    pruner: str, quantizer: str, symmetric: bool, bits: int, ids: torch.Tensor
) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    compressed = walk(model, pair(pruner, quantizer, pattern="2:4", bits=bits, symmetric=symmetric), ids)
    for name, linear in compressed.linears.items():
        assert int(linear.weight.reshape(-1, 4).count_nonzero(dim=1).max()) <= 2, name
        assert on_its_grid(linear, bits), name
        assert torch.equal(linear.weight, model.get_submodule(name).weight), name


@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sparsegpt"])
def test_with_rtn_it_is_the_pruner_and_then_rounding(pruner: str, ids: torch.Tensor) -> None:
    settings = pair(pruner, "rtn")
    one, other = (
        pruned_alone(pruner, settings, ids, num_hidden_layers=1),
        tiny_model("llama", num_hidden_layers=1),
    )
    walk(one, RTN(bits=4, group_size=16), None)
    walk(other, settings, ids)
    for name, linear in block_linears(other).items():
        assert torch.equal(linear.weight, one.get_submodule(name).weight), name


def test_magnitude_with_rtn_prunes_in_every_block(ids: torch.Tensor) -> None:
    """Neither needs statistics, and yet the pruner comes first."""
    settings = pair("magnitude", "rtn")
    one, other = pruned_alone("magnitude", settings, ids), tiny_model("llama")
    walk(one, RTN(bits=4, group_size=16), None)
    compressed = walk(other, settings, ids)
    assert compressed.sparsity >= 0.5
    for name, linear in block_linears(other).items():
        assert torch.equal(linear.weight, one.get_submodule(name).weight), name


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sparsegpt"])
def test_gptq_errs_less_after_a_pruner_than_rounding_does(pruner: str, bits: int, ids: torch.Tensor) -> None:
    """Against the dense weights, in the mean over the linears of a block."""
    errors = {}
    for quantizer in ("gptq", "rtn"):
        listener = Listener()
        walk(tiny_model("llama", num_hidden_layers=1), pair(pruner, quantizer, bits=bits), ids, listener)
        errors[quantizer] = {record.linear: record.relative_error for record in listener.records}
    assert sum(errors["gptq"].values()) < sum(errors["rtn"].values())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("share", [{"sparsity": 0.5}, {"pattern": "2:4"}])
def test_where_inputs_are_correlated_sparsegpt_and_gptq_err_less_than_with_rounding(
    share: dict[str, Any], bits: int
) -> None:
    """Against the pruned weights, which gptq aims at, every time; against the dense ones, where chance has a say, in sum."""
    settings = pair("sparsegpt", "gptq", bits=bits, group_size=8, **share)
    pruning, quantization = settings.pruning, settings.quantization
    assert isinstance(pruning, SparseGPT)
    by_gptq, by_rounding = 0.0, 0.0
    for seed in range(4):
        weight, x = random(40, 32, seed=seed), correlated(400, 32, seed)
        dense = linear_group(weight, seen=statistics(x))
        pruned = sparsegpt.compress_linears(dense, pruning)[0].weight
        (result,) = compress_linears(replace(dense, weights=(pruned,), dense=(weight,)), settings)
        rounded = round_to_nearest(pruned, quantization, torch.float32).weight
        assert not result.weight[pruned == 0].any()
        assert output_error(pruned, result.weight, x) < output_error(pruned, rounded, x)
        by_gptq += output_error(weight, result.weight, x)
        by_rounding += output_error(weight, rounded, x)
    assert by_gptq < by_rounding


@pytest.mark.parametrize(("pruner", "quantizer"), PAIRS)
def test_errors_are_measured_against_the_dense_weights(
    pruner: str, quantizer: str, ids: torch.Tensor
) -> None:
    """With 8 bits next to nothing is lost to rounding, so the pruner's error is what is recorded."""
    settings, alone, both = pair(pruner, quantizer, bits=8), Listener(), Listener()
    walk(tiny_model("llama", num_hidden_layers=1), settings.pruning, ids, alone)
    walk(tiny_model("llama", num_hidden_layers=1), settings, ids, both)
    if pruner == "magnitude":  # alone it sees no data, and tells the error of the weight
        assert all(0.1 < record.relative_error < 1 for record in both.records)
        return
    for one, other in zip(alone.records, both.records, strict=True):
        assert one.linear == other.linear
        assert other.relative_error == pytest.approx(one.relative_error, rel=0.1)


@pytest.mark.parametrize("quantizer", ["rtn", "gptq"])
@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_in_the_order_of_stages_later_ones_see_the_earlier_ones_done(
    pruner: str, quantizer: str, ids: torch.Tensor
) -> None:
    by_block, by_stage = (
        walk(
            tiny_model("llama", num_hidden_layers=1), pair(pruner, quantizer, order=order, pattern="2:4"), ids
        ).linears
        for order in ("block", "stage")
    )
    first, last = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
    assert torch.equal(by_block[first].weight, by_stage[first].weight)
    assert not torch.equal(by_block[last].weight, by_stage[last].weight)
    assert all(on_its_grid(linear, 4) for linear in by_stage.values())


class TestSettings:
    def test_each_method_gets_its_own_options(self) -> None:
        settings = pair(
            "sparsegpt", "gptq", block_size=64, damping=0.05, act_order=True, bits=3, symmetric=True
        )
        assert settings.pruning.model_dump() == {
            "method": "sparsegpt",
            "sparsity": 0.5,
            "pattern": None,
            "block_size": 64,
            "damping": 0.05,
            "order": "block",
            "propagate": "compressed",
        }
        assert settings.quantization.model_dump() == {
            "method": "gptq",
            "bits": 3,
            "group_size": 16,
            "symmetric": True,
            "act_order": True,
            "static_groups": False,
            "block_size": 64,
            "damping": 0.05,
            "order": "block",
            "propagate": "compressed",
        }

    @pytest.mark.parametrize(("pruner", "quantizer"), PAIRS)
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("act_order", True),
            ("static_groups", True),
            ("objective", "block"),
            ("weight_term", True),
            ("ratios", 5),
            ("clip", False),
            ("block_size", 64),
            ("damping", 0.5),
        ],
    )
    def test_an_option_that_neither_has_is_an_error(
        self, pruner: str, quantizer: str, option: str, value: Any
    ) -> None:
        if any(option in METHODS[name].settings.model_fields for name in (pruner, quantizer)):
            assert getattr(pair(pruner, quantizer, **{option: value}), option) == value
        else:
            message = f"neither {pruner} nor {quantizer} has the option `{option}`"
            with pytest.raises(ValidationError, match=message):
                pair(pruner, quantizer, **{option: value})

    @pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sparsegpt"])
    def test_awq_has_no_order_of_stages(self, pruner: str) -> None:
        with pytest.raises(ValidationError, match="awq moves scales between the linear groups of a block"):
            pair(pruner, "awq", order="stage")
        assert pair(pruner, "gptq", order="stage").order == "stage"

    @pytest.mark.parametrize(
        "method", [("gptq", "sparsegpt"), ("wanda",), ("wanda", "sparsegpt"), ("rtn", "gptq")]
    )
    def test_a_pruner_comes_first_and_a_quantizer_second(self, method: Any) -> None:
        with pytest.raises(ValidationError):
            PruneThenQuantize(method=method, sparsity=0.5)

    def test_sparsity_or_a_pattern_is_needed_and_not_both(self) -> None:
        for options in ({}, {"sparsity": 0.5, "pattern": "2:4"}):
            with pytest.raises(ValidationError):
                PruneThenQuantize(method=("wanda", "gptq"), **options)  # type: ignore[arg-type]
