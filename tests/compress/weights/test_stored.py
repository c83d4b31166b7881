"""Saved weights come back bit for bit, or not at all."""

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
    Dense,
    GPTQOnGguf,
    Magnitude,
    MethodSettings,
    PruneThenQuantize,
    RTNOnGguf,
    SparseGPT,
    Wanda,
)
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from tests.compress.tiny import tiny_model

SETTINGS = [
    RTN(bits=3, group_size=16),
    RTN(bits=4, group_size=0, symmetric=True),
    Wanda(sparsity=0.5),
    Magnitude(pattern="2:4"),
    SparseGPT(sparsity=0.5),
    GPTQ(bits=4, group_size=16),
    GPTQ(bits=4, group_size=16, act_order=True),
    AWQ(bits=4, group_size=16, ratios=4),
    PruneThenQuantize(method=("wanda", "gptq"), sparsity=0.5, group_size=16, act_order=True),
    RTNOnGguf(grid="gguf:Q5_1"),
    GPTQOnGguf(grid="gguf:Q4_K_M"),
    Dense(),
]


def made(settings: MethodSettings, ids: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    model = tiny_model("llama", dtype=dtype, intermediate_size=64)
    return model, compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())


def parts_of(linear: CompressedLinear) -> list[Any]:
    blocks = linear.blocks
    return [*linear[:5], None if blocks is None else blocks.data]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_what_is_applied_is_what_was_made(
    settings: MethodSettings, dtype: torch.dtype, ids: torch.Tensor, tmp_path: Path
) -> None:
    model, compressed = made(settings, ids, dtype)
    save(tmp_path / "weights.safetensors", compressed)
    other = tiny_model("llama", dtype=dtype, intermediate_size=64)
    applied = apply(other, tmp_path / "weights.safetensors")
    assert weights_hash(other) == weights_hash(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert (applied.settings, applied.bits_per_weight, applied.sparsity) == (
        *(compressed.settings, compressed.bits_per_weight, compressed.sparsity),
    )
    assert list(applied.linears) == list(compressed.linears)
    for name, linear in applied.linears.items():
        assert linear.weight.data_ptr() == other.get_submodule(name).weight.data_ptr()
        for mine, stored in zip(parts_of(compressed.linears[name]), parts_of(linear), strict=True):
            assert (mine is None and stored is None) or torch.equal(mine, stored)
    assert applied.parameters.keys() == compressed.parameters.keys()
    for name, value in applied.parameters.items():
        assert value.data_ptr() == other.get_parameter(name).data_ptr()
        assert torch.equal(value, compressed.parameters[name])


def test_groups_in_the_order_of_activations_are_stored(ids: torch.Tensor, tmp_path: Path) -> None:
    """Linears of a group share them in memory, not on disk."""
    _, compressed = made(GPTQ(bits=4, group_size=16, act_order=True), ids)
    save(tmp_path / "weights", compressed)
    applied = apply(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64), tmp_path / "weights")
    for name, linear in applied.linears.items():
        groups = compressed.linears[name].groups
        assert groups is not None
        assert linear.groups is not None
        assert linear.groups.dtype == torch.int32
        assert torch.equal(linear.groups, groups)
        assert (groups != torch.arange(len(groups)) // 16).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 12},  # by name, block 10 comes before block 2
        {"num_key_value_heads": 4, "attention_bias": True},  # the bias of v absorbs a scale too
    ],
)
def test_what_absorbed_scales_comes_back_whatever_its_order(
    changes: dict[str, Any], ids: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_model("llama", **changes)
    settings = AWQ(group_size=16, ratios=4)
    compressed = compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    save(tmp_path / "weights", compressed)
    other = tiny_model("llama", **changes)
    applied = apply(other, tmp_path / "weights")
    assert applied.parameters.keys() == compressed.parameters.keys()
    assert weights_hash(other) == weights_hash(model)
    assert torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)


def test_what_was_applied_can_be_saved_again(ids: torch.Tensor, tmp_path: Path) -> None:
    model, compressed = made(AWQ(group_size=16, ratios=4), ids)
    save(tmp_path / "one", compressed)
    save(
        tmp_path / "two",
        apply(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64), tmp_path / "one"),
    )
    other = tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64)
    apply(other, tmp_path / "two")
    assert weights_hash(other) == weights_hash(model)


def test_a_parameter_that_the_model_does_not_have_is_refused(ids: torch.Tensor, tmp_path: Path) -> None:
    """The linears of both families have the same names, but olmo2's blocks begin without a norm."""
    path = tmp_path / "weights"
    model = tiny_model("llama")
    save(path, compress(model, AWQ(group_size=16, ratios=4), ids, batch_tokens=48, reporter=SilentReporter()))
    other = tiny_model("olmo2")
    with pytest.raises(StepError, match=r"this model has no parameter `model\.layers\.0\.input_layernorm"):
        apply(other, path)
    assert weights_hash(other) == weights_hash(tiny_model("olmo2"))


def test_a_changed_norm_is_noticed(ids: torch.Tensor, tmp_path: Path) -> None:
    """The file ends with some parameter or linear; here a norm is looked for by its bits."""
    path = tmp_path / "weights"
    _, compressed = made(AWQ(group_size=16, ratios=4), ids)
    save(path, compressed)
    name = "model.layers.1.post_attention_layernorm.weight"
    bits = compressed.parameters[name].view(torch.uint8).numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(bits)] ^= 1
    path.write_bytes(content)
    with pytest.raises(StepError, match="cannot be used"):
        apply(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64), path)


def test_quantized_linears_are_stored_as_codes(ids: torch.Tensor, tmp_path: Path) -> None:
    for settings in (RTN(group_size=16), Magnitude(sparsity=0.5)):
        save(tmp_path / settings.method, made(settings, ids, torch.float32)[1])
    assert (tmp_path / "rtn").stat().st_size < 0.5 * (tmp_path / "magnitude").stat().st_size


def test_files_that_cannot_be_used_leave_the_model_alone(ids: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(path, made(Magnitude(sparsity=0.5), ids)[1])
    content = path.read_bytes()
    torn, other, text = tmp_path / "torn", tmp_path / "other", tmp_path / "text"
    torn.write_bytes(content[:-100])
    text.write_text("not a file of weights")
    save(
        other,
        compress(tiny_model("opt"), RTN(group_size=16), None, batch_tokens=1, reporter=SilentReporter()),
    )
    for bad, reason in [
        (tmp_path / "missing", "No such file"),
        (torn, "not fully covered"),
        (text, "cannot be used"),
        (tmp_path, "cannot be used"),
        (other, "this model has no linear `model.decoder"),
    ]:
        model = tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64)
        with pytest.raises(StepError, match=reason):
            apply(model, bad)
        assert weights_hash(model) == weights_hash(
            tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64)
        )


def test_another_dtype_or_shape_is_refused(ids: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for settings in (Magnitude(sparsity=0.5), RTN(group_size=16)):
        save(path, made(settings, ids)[1])
        with pytest.raises(StepError, match=r"was made for BF16 and this model is torch\.float32"):
            apply(tiny_model("llama", intermediate_size=64), path)
        with pytest.raises(StepError, match=r"is \[32, 64\] there and \[32, 80\] in this model"):
            apply(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=80), path)


def test_changed_content_is_noticed(ids: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(path, made(Magnitude(sparsity=0.5), ids)[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StepError, match="cannot be used"):
        apply(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64), path)


def test_a_failed_save_leaves_the_old_file(
    ids: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    _, compressed = made(Magnitude(sparsity=0.5), ids)
    save(path, compressed)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("studyctl.compress.weights.stored.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save(path, compressed)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_hash_names_every_parameter_of_the_blocks_and_nothing_else() -> None:
    model = tiny_model("qwen2")
    before = weights_hash(model)
    seen = {before}
    for name, parameter in model.named_parameters():
        own = parameter.data.flatten()[0].item()
        parameter.data.flatten()[0] = own + 1
        changed = weights_hash(model)
        parameter.data.flatten()[0] = own
        assert (changed not in seen) == (".layers." in name), name
        seen.add(changed)
    assert weights_hash(model) == before


def test_the_hash_names_bits_not_values() -> None:
    model = tiny_model("llama")
    before = weights_hash(model)
    assert before == weights_hash(tiny_model("llama"))
    assert len(before) == 64
    weight = next(iter(block_linears(model).values())).weight.data
    weight[0, 0] = 0.0
    zero = weights_hash(model)
    weight[0, 0] = -0.0
    assert len({before, zero, weights_hash(model)}) == 3
    assert weights_hash(tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64)) != before


def test_a_pruned_linear_takes_a_bit_for_each_weight_and_the_values_that_are_left(
    ids: torch.Tensor, tmp_path: Path
) -> None:
    _, compressed = made(Wanda(sparsity=0.75), ids)
    for linear in compressed.linears.values():
        linear.weight[0, :2] = torch.tensor([-0.0, torch.finfo(torch.bfloat16).tiny])  # neither is lost
    save(tmp_path / "weights.safetensors", compressed)
    values = sum(int((linear.weight.view(torch.int16) != 0).sum()) for linear in compressed.linears.values())
    bitmaps = sum(
        len(linear.weight) * -(-linear.weight.shape[1] // 8) for linear in compressed.linears.values()
    )
    with (tmp_path / "weights.safetensors").open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    assert (tmp_path / "weights.safetensors").stat().st_size == 8 + header + 2 * values + bitmaps
    applied = apply(
        tiny_model("llama", dtype=torch.bfloat16, intermediate_size=64), tmp_path / "weights.safetensors"
    )
    for name, linear in compressed.linears.items():
        assert torch.equal(applied.linears[name].weight.view(torch.int16), linear.weight.view(torch.int16))
