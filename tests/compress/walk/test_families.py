"""Every method on every family: finite, changed, stored and restored bit for bit, and the same every time."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import CompressedLinear
from studyctl.compress.weights.stored import apply, save, weights_hash
from studyctl.contract.methods import (
    AWQ,
    GPTQ,
    RTN,
    Magnitude,
    MethodSettings,
    PruneThenQuantize,
    SparseGPT,
    Wanda,
)
from studyctl.reporter import SilentReporter
from tests.compress.cases import on_its_grid
from tests.compress.tiny import FAMILIES, tiny_model

SETTINGS: dict[str, MethodSettings] = {
    "magnitude": Magnitude(sparsity=0.5),
    "wanda": Wanda(sparsity=0.5),
    "sparsegpt": SparseGPT(sparsity=0.5, block_size=20),
    "sparsegpt-2:4": SparseGPT(pattern="2:4"),
    "rtn": RTN(bits=3, group_size=16),
    "gptq": GPTQ(bits=3, group_size=16),
    "gptq-act-order": GPTQ(bits=3, group_size=16, act_order=True),
    "gptq-act-order-static": GPTQ(bits=3, group_size=16, act_order=True, static_groups=True),
    "awq": AWQ(bits=3, group_size=16, ratios=4),
    "awq-block": AWQ(bits=3, group_size=16, objective="block", ratios=4),
    "sparsegpt+gptq": PruneThenQuantize(method=("sparsegpt", "gptq"), sparsity=0.5, group_size=16),
    "wanda+awq": PruneThenQuantize(method=("wanda", "awq"), sparsity=0.5, group_size=16, ratios=4),
}
LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}


def model_of(family: str) -> Any:
    """Two blocks of the tiny model: an error of the first reaches the second, and more would tell nothing new."""
    changes: dict[str, Any] = {"num_hidden_layers": 2}
    if family in ("qwen2", "gemma2", "gemma3_text"):
        changes["layer_types"] = ["sliding_attention", "full_attention"]
    return tiny_model(family, **({"n_layer": 2} if family == "bloom" else changes))


@functools.cache
def dense_logits(family: str) -> torch.Tensor:
    return logits_of(model_of(family))


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 51).reshape(2, 24)
    logits: torch.Tensor = model(input_ids=ids).logits
    return logits


def parts_equal(one: CompressedLinear, other: CompressedLinear) -> bool:
    return all(
        (mine is None and theirs is None)
        or (mine is not None and theirs is not None and torch.equal(mine, theirs))
        for mine, theirs in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(family: str, method: str, ids: torch.Tensor, tmp_path: Path) -> None:
    settings = SETTINGS[method]
    models = [model_of(family), model_of(family)]
    compressed, again = (
        compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter()) for model in models
    )
    model = models[0]

    logits = logits_of(model)
    assert torch.isfinite(logits).all()
    change = (logits - dense_logits(family)).norm() / dense_logits(family).norm()
    assert 1e-3 < change < 1.5

    assert list(compressed.linears) == list(block_linears(model))
    for name, linear in compressed.linears.items():
        assert torch.equal(linear.weight, model.get_submodule(name).weight), name
        assert linear.scales is None or on_its_grid(linear, getattr(settings, "bits", 0)), name
        assert parts_equal(linear, again.linears[name]), name
    assert compressed.parameters.keys() == again.parameters.keys()
    assert weights_hash(models[1]) == weights_hash(model)

    save(tmp_path / "weights.safetensors", compressed)
    restored = model_of(family)
    applied = apply(restored, tmp_path / "weights.safetensors")
    assert weights_hash(restored) == weights_hash(model)
    assert torch.equal(logits_of(restored), logits)
    assert applied.settings == settings
    assert applied.parameters.keys() == compressed.parameters.keys()
    for name, value in applied.parameters.items():
        assert torch.equal(value, compressed.parameters[name]), name
    for name, linear in applied.linears.items():
        assert parts_equal(linear, compressed.linears[name]), name


@pytest.mark.parametrize("method", SETTINGS)
def test_everything_but_the_blocks_stays_as_it_is(method: str, ids: torch.Tensor) -> None:
    model, dense = model_of("qwen2"), model_of("qwen2")
    compressed = compress(model, SETTINGS[method], ids, batch_tokens=48, reporter=SilentReporter())
    mine = {f"{name}.weight" for name in compressed.linears} | set(compressed.parameters)
    for name, parameter in model.named_parameters():
        assert name in mine or torch.equal(parameter, dense.get_parameter(name)), name
    assert bool(compressed.parameters) == ("awq" in method)


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_method_in_16_bits(method: str, dtype: torch.dtype, ids: torch.Tensor, tmp_path: Path) -> None:
    model, other = tiny_model("llama", dtype=dtype), tiny_model("llama", dtype=dtype)
    compressed = compress(model, SETTINGS[method], ids, batch_tokens=48, reporter=SilentReporter())
    assert all(linear.weight.dtype == dtype for linear in compressed.linears.values())
    assert all(
        linear.scales is None or linear.scales.dtype == dtype for linear in compressed.linears.values()
    )
    assert all(value.dtype == dtype for value in compressed.parameters.values())
    assert torch.isfinite(logits_of(model)).all()
    save(tmp_path / "weights.safetensors", compressed)
    apply(other, tmp_path / "weights.safetensors")
    assert weights_hash(other) == weights_hash(model)
