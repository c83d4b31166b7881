"""Experts in 3-D parameters and Conv1D are linears like all others; what cannot be walked is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from studyctl.compress.quantize import gptq
from studyctl.compress.walk.activations import check_walk
from studyctl.compress.walk.architectures import (
    block_linears,
    block_matrices,
    check_linears_hold_most,
    decoder_blocks,
)
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import CompressedLinear, LinearGroup
from studyctl.compress.weights.stored import apply, save, weights_hash
from studyctl.contract.methods import AWQ, GPTQ, RTN, Magnitude, MethodSettings, SparseGPT, Wanda
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from tests.compress.tiny import MIXTURES, Listener, tiny_model

SETTINGS: dict[str, MethodSettings] = {
    "rtn": RTN(bits=3, group_size=16),
    "gptq": GPTQ(bits=3, group_size=16),
    "awq": AWQ(bits=3, group_size=16, ratios=4),
    "magnitude": Magnitude(sparsity=0.5),
    "wanda": Wanda(sparsity=0.5),
    "sparsegpt": SparseGPT(sparsity=0.5),
}


def walk(model: Any, settings: MethodSettings, ids: torch.Tensor) -> dict[str, CompressedLinear]:
    return compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter()).linears


@pytest.mark.parametrize("family", MIXTURES)
def test_every_expert_has_linears_and_the_router_stays_dense(family: str) -> None:
    model = tiny_model(family)
    names = [name for name in block_linears(model) if ".experts." in name]
    assert len(names) == 2 * 4 * 2
    assert all(name.endswith(("gate_up_proj", "down_proj")) for name in names)
    assert not any("router" in name or name.endswith((".gate", "_gate")) for name in block_linears(model))
    hidden = {
        linear.in_features for name, linear in block_linears(model).items() if name.endswith("gate_up_proj")
    }
    assert hidden == {32}


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("family", [*MIXTURES, "gpt2"])
def test_every_method_changes_every_linear_and_stores_it(
    family: str, method: str, ids: torch.Tensor, tmp_path: Path
) -> None:
    model, dense, restored = tiny_model(family), tiny_model(family), tiny_model(family)
    compressed = compress(model, SETTINGS[method], ids, batch_tokens=48, reporter=SilentReporter())
    before = block_linears(dense)
    for name, linear in block_linears(model).items():
        assert torch.equal(linear.weight, compressed.linears[name].weight), name
        assert not torch.equal(linear.weight, before[name].weight), name
    assert torch.isfinite(model(input_ids=ids).logits).all()
    save(tmp_path / "weights.safetensors", compressed)
    apply(restored, tmp_path / "weights.safetensors")
    assert weights_hash(restored) == weights_hash(model)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_what_stays_dense_counts(family: str, ids: torch.Tensor) -> None:
    model = tiny_model(family)
    compressed = compress(model, Magnitude(sparsity=0.5), ids, batch_tokens=48, reporter=SilentReporter())
    routers = (
        2 * 32 * (4 if family == "mixtral" else 4 + 1)
    )  # that of qwen2_moe's shared expert has one output
    weights = sum(parameter.numel() for parameter in block_matrices(model).values())
    assert compressed.bits_per_weight == pytest.approx(9 + 7 * routers / weights)
    zeros = sum(int((parameter == 0).sum()) for parameter in block_matrices(model).values())
    assert compressed.sparsity == zeros / weights


@pytest.fixture
def hessians(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What GPTQ is given, by the first name of each group."""
    given: dict[str, torch.Tensor] = {}
    own = gptq.compress_linears

    def note(linears: LinearGroup, settings: GPTQ) -> list[CompressedLinear]:
        given.update(dict.fromkeys(linears.names, linears.hessian.clone()))
        return own(linears, settings)

    monkeypatch.setattr(gptq, "compress_linears", note)
    return given


def routed(experts: Any, args: tuple[torch.Tensor, ...], number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs of both matrices of an expert, by the formulas of the family."""
    if (
        len(args) == 1
    ):  # llama4_text: all tokens times the score of each expert, which is 0 where they are not routed
        mine = args[0].reshape(4, -1, 32)[number]
        gate, up = (mine @ experts.gate_up_proj[number]).chunk(2, -1)
        return mine, up * functional.silu(gate)
    hidden, chosen = args[0], args[1]
    mine = hidden[(chosen == number).any(-1)]
    if not experts.is_transposed:
        gate, up = (mine @ experts.gate_up_proj[number].T).chunk(2, -1)
        return mine, functional.silu(gate) * up
    both = mine @ experts.gate_up_proj[number] + experts.gate_up_proj_bias[number]
    gate, up = both[:, ::2].clamp(max=7), both[:, 1::2].clamp(-7, 7)
    return mine, (up + 1) * gate * torch.sigmoid(1.702 * gate)


@pytest.mark.parametrize("family", MIXTURES)
@torch.no_grad()
def test_an_experts_hessian_is_that_of_its_tokens(
    family: str, ids: torch.Tensor, hessians: dict[str, torch.Tensor]
) -> None:
    model = tiny_model(family)
    seen: dict[str, tuple[Any, tuple[torch.Tensor, ...]]] = {}
    for name, part in model.named_modules():
        if name.endswith(".experts"):
            part.register_forward_hook(lambda one, args, _, name=name: seen.update({name: (one, args)}))
    model(input_ids=ids)
    expected = {}
    for name, (experts, args) in seen.items():
        for number in range(4):
            for part, x in zip(("gate_up_proj", "down_proj"), routed(experts, args, number), strict=True):
                expected[f"{name}.{number}.{part}"] = 2 / len(ids) * x.T @ x
    walk(model, GPTQ(group_size=16, order="block", propagate="dense"), ids)
    assert expected.keys() == {name for name in hessians if ".experts." in name}
    for name, hessian in expected.items():
        torch.testing.assert_close(hessians[name], hessian, rtol=1e-5, atol=1e-5 * float(hessian.abs().max()))


def test_all_experts_of_a_block_are_measured_in_one_pass(ids: torch.Tensor) -> None:
    model = tiny_model("mixtral")
    calls = []
    last = decoder_blocks(model)[-1].module
    last.mlp.experts.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    walk(model, GPTQ(group_size=16, order="stage"), ids)
    chunks, stages = 3, 4  # q, k, v; o; the first projections; the second ones
    assert len(calls) == 1 + stages * chunks  # one chunk shows which linears share an input


class Separate(nn.Module):
    """The same experts as modules of linears, each run on its tokens in turn."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        for number in range(len(fused.gate_up_proj)):
            pair = nn.Module()
            for name in ("gate_up_proj", "down_proj"):
                weight = getattr(fused, name)[number].detach().clone()
                linear = nn.Linear(*weight.shape[::-1], bias=False)
                linear.weight = nn.Parameter(weight)
                setattr(pair, name, linear)
            self.add_module(str(number), pair)

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        result = torch.zeros_like(hidden)
        for number, pair in self.named_children():
            tokens, place = torch.where(chosen == int(number))
            if len(tokens) == 0:
                continue
            gate, up = pair.gate_up_proj(hidden[tokens]).chunk(2, -1)
            outputs = pair.down_proj(functional.silu(gate) * up) * weights[tokens, place, None]
            result.index_add_(0, tokens, outputs)
        return result


@pytest.mark.parametrize("method", SETTINGS)
def test_experts_in_modules_get_the_same_weights(method: str, ids: torch.Tensor) -> None:
    fused, separate = tiny_model("mixtral"), tiny_model("mixtral")
    for block in decoder_blocks(separate):
        block.module.mlp.experts = Separate(block.module.mlp.experts)  # type: ignore[union-attr]
    one, other = walk(fused, SETTINGS[method], ids), walk(separate, SETTINGS[method], ids)
    assert set(one) == set(other)
    for name, linear in one.items():
        torch.testing.assert_close(linear.weight, other[name].weight, rtol=1e-4, atol=1e-5)


@pytest.fixture
def lazy() -> Iterator[Any]:
    """A mixture whose router never chooses experts 1 and 2."""
    model = tiny_model("mixtral")
    for block in decoder_blocks(model):
        gate: Any = block.module.mlp.gate  # type: ignore[union-attr]
        logits = gate.forward

        def forward(*args: Any, _own: Any = logits, **kwargs: Any) -> Any:
            scores, weights, chosen = _own(*args, **kwargs)
            return scores, weights, torch.where((chosen == 1) | (chosen == 2), 3 * (chosen - 1), chosen)

        gate.forward = forward
    return model


@pytest.mark.parametrize(
    ("settings", "instead", "done"),
    [
        (GPTQ(bits=3, group_size=16), RTN(bits=3, group_size=16), "rounded to nearest"),
        (AWQ(bits=3, group_size=16), RTN(bits=3, group_size=16), "rounded to nearest"),
        (SparseGPT(sparsity=0.5), Magnitude(sparsity=0.5), "pruned by magnitude"),
        (Wanda(pattern="2:4"), Magnitude(pattern="2:4"), "pruned by magnitude"),
    ],
    ids=str,
)
def test_experts_without_tokens_need_none_and_are_counted_once(
    settings: MethodSettings,
    instead: MethodSettings,
    done: str,
    lazy: Any,
    ids: torch.Tensor,
    listener: Listener,
) -> None:
    compressed = compress(lazy, settings, ids, batch_tokens=48, reporter=listener)
    expected = walk(tiny_model("mixtral"), instead, ids)
    idle = [name for name in expected if ".experts.1." in name or ".experts.2." in name]
    assert len(idle) == 8
    for name in idle:
        assert torch.equal(compressed.linears[name].weight, expected[name].weight), name
    (warning,) = [warning for warning in listener.warnings if "no calibration token" in warning]
    assert warning.startswith("no calibration token reaches 8 of 24 linears")
    assert warning.endswith(done)


@pytest.mark.parametrize("family", ["mamba", "gpt2", "llama4_text", "gpt_oss"])
def test_blocks_that_compute_what_the_model_computes_can_be_walked(family: str) -> None:
    check_walk(tiny_model(family))


def test_a_weight_that_is_read_without_calling_its_module_is_seen(ids: torch.Tensor) -> None:
    """Mamba's mixer multiplies by the weight of `dt_proj` itself."""
    assert any("dt_proj" in name for name in walk(tiny_model("mamba"), Wanda(sparsity=0.5), ids))


def test_blocks_that_share_weights_are_refused() -> None:
    with pytest.raises(
        StepError, match="`Zamba2ForCausalLM` cannot be walked one at a time: its blocks share"
    ):
        check_walk(tiny_model("zamba2"))


def test_blocks_that_depend_on_what_ran_before_are_refused() -> None:
    model = tiny_model("llama")
    first, last = (block.module for block in (decoder_blocks(model)[0], decoder_blocks(model)[-1]))
    own: Any = last.forward
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda *call: seen.append(call[-1]))
    last.forward = lambda *args, **kwargs: own(*args, **kwargs) + 0.5 ** len(seen)  # type: ignore[method-assign]
    with pytest.raises(StepError, match="compute something else than the model"):
        check_walk(model)


def test_weights_in_no_linear_are_named() -> None:
    model = tiny_model("llama")
    check_linears_hold_most(model)
    for block in decoder_blocks(model):
        block.module.mlp.mixing = nn.Parameter(torch.ones(8, 32, 48))  # type: ignore[union-attr]
    with pytest.raises(
        StepError, match=r"of the weights of the blocks are in no linear .*`model\.layers\.0\.mlp\.mixing`"
    ):
        check_linears_hold_most(model)
