"""Published checkpoints are measured with exactly the weights that their files stand for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from studyctl.compress.walk.walker import zero_fraction
from studyctl.contract.identity import Bos, ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StepError
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.models import LoadedModel, load_tokenizer
from studyctl.sources.unpacking import (
    ComparedModel,
    load_checkpoint,
    stored_bits,
    unpack,
)
from tests.compress.tiny import Listener
from tests.sources.packed import FP8, change_config, int_weights, pack, pack_by_hand, unpacked
from tests.sources.test_loading import block_linears, model_folder
from tests.sources.tokenizers_made import byte_level, metaspace, saved

LINEARS = {"Linear": int_weights(4)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The model that checkpoints are made of."""
    return model_folder(tmp_path / "base")


def load(
    folder: Path,
    base: Path,
    dtype: str = "float32",
    listener: Listener | None = None,
    *,
    bos: Bos = "auto",
    chat_template: bool = False,
) -> LoadedModel:
    return load_checkpoint(
        identify_checkpoint(Checkpoint(id=str(folder), of="base"), folder),
        ComparedModel(ModelIdentity("base", "folder", None), load_tokenizer(base), bos, chat_template),
        dtype=dtype,
        device="cpu",
        reporter=listener or Listener(),
    )


def weights(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in loaded.model.state_dict().items() if "_proj" in name}


def assert_same(differences: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert differences.keys() == expected.keys()
    assert [
        name
        for name in differences
        if not torch.equal(differences[name], expected[name].to(differences[name].dtype))
    ] == []


def test_a_plain_checkpoint_is_loaded_as_a_model(base: Path) -> None:
    loaded = load(base, base)
    assert_same(loaded.model.state_dict(), load_file(base / "model.safetensors") | tied(loaded))
    assert stored_bits(loaded.model, loaded.folder) == 32
    assert zero_fraction(loaded.model) == 0


def tied(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Weights that are not stored by themselves."""
    state = loaded.model.state_dict()
    return {"lm_head.weight": state["lm_head.weight"]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_weights_are_what_their_codes_and_scales_say(base: Path, symmetric: bool, dtype: str) -> None:
    schemes = {"Linear": int_weights(4, symmetric=symmetric)}
    folder = pack(base, base.with_name("packed"), schemes, torch.bfloat16)
    loaded = load(folder, base, dtype)
    # Unpacked in bfloat16, whatever dtype is measured in: that is what users of the checkpoint compute with.
    expected = {name: weight.bfloat16() for name, weight in unpacked(folder, {"": 4}).items()}
    assert_same(weights(loaded), expected)


def test_each_linear_is_unpacked_by_its_own_scheme(base: Path) -> None:
    schemes = {"re:.*self_attn[.].*_proj": int_weights(4), "re:.*mlp[.].*_proj": int_weights(8)}
    folder = pack(base, base.with_name("packed"), schemes, torch.float32)
    assert_same(weights(load(folder, base)), unpacked(folder, {"self_attn": 4, "mlp": 8}))


def test_groups_of_columns_in_any_order(base: Path) -> None:
    schemes = {"Linear": int_weights(4, act_order=True)}
    folder = pack(base, base.with_name("packed"), schemes, torch.float32)
    assert_same(weights(load(folder, base)), unpacked(folder, {"": 4}))


def test_eight_bit_floats(base: Path) -> None:
    folder = pack(base, base.with_name("packed"), {"Linear": FP8}, torch.float32)
    stored = load_file(folder / "model.safetensors")
    floats = {name: tensor for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    expected = {name: tensor.float() * stored[f"{name}_scale"] for name, tensor in floats.items()}
    loaded = load(folder, base)
    assert_same(weights(loaded), expected)
    sizes = [tensor.numel() for tensor in floats.values()]
    rows = sum(len(tensor) for tensor in floats.values())
    assert stored_bits(loaded.model, loaded.folder) == pytest.approx(8 + 32 * rows / sum(sizes))


def test_what_is_loaded_is_a_plain_model(base: Path) -> None:
    schemes = {"Linear": int_weights(8, activations=True)}
    folder = pack(base, base.with_name("packed"), schemes, torch.float32)
    listener = Listener()
    loaded = load(folder, base, listener=listener)
    assert block_linears(loaded.model).keys() == {
        name.removesuffix(".weight") for name in load_file(base / "model.safetensors") if "_proj" in name
    }
    assert {name.rpartition(".")[2] for name in loaded.model.state_dict()} == {"weight"}
    assert "quantization_config" not in loaded.model.config.to_dict()  # type: ignore[operator, union-attr]
    assert listener.warnings == [
        f"{folder}: activations are quantized to 8 bits as well; only its weights are measured"
    ]
    # Nothing rounds activations: the linear computes what its weight says.
    linear, inputs = loaded.model.get_submodule("model.layers.0.mlp.up_proj"), torch.randn(3, 32)
    assert torch.equal(linear(inputs), inputs @ linear.weight.T)


def test_buffers_keep_their_precision(base: Path) -> None:
    folder = pack(base, base.with_name("packed"), LINEARS, torch.float32)
    loaded = load(folder, base, "bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in loaded.model.buffers()} == {torch.float32}


def test_size_and_zeros_are_counted_as_stored(base: Path) -> None:
    folder = pack(base, base.with_name("packed"), LINEARS, torch.bfloat16)
    loaded = load(folder, base)
    sizes = [linear.weight.numel() for linear in map(loaded.model.get_submodule, block_linears(loaded.model))]
    # A code of 4 bits, a scale of 16 for 16 weights, and a shape of two int64 a linear.
    assert stored_bits(loaded.model, loaded.folder) == pytest.approx(
        4 + 16 / 16 + len(sizes) * 128 / sum(sizes)
    )
    values = torch.cat([weight.flatten() for weight in unpacked(folder, {"": 4}).values()])
    assert zero_fraction(loaded.model) == pytest.approx((values == 0).double().mean().item())


def test_a_size_that_the_files_do_not_tell_is_unknown(base: Path) -> None:
    loaded = load(base, base)
    path = base / "model.safetensors"
    save_file({name.replace("layers", "stages"): tensor for name, tensor in load_file(path).items()}, path)
    assert stored_bits(loaded.model, loaded.folder) is None


def test_missing_scales_are_named(base: Path) -> None:
    folder = pack(base, base.with_name("packed"), LINEARS, torch.bfloat16)
    path = folder / "model.safetensors"
    kept = {
        name: tensor for name, tensor in load_file(path).items() if "0.mlp.up_proj.weight_scale" not in name
    }
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(StepError, match=r"lack model\.layers\.0\.mlp\.up_proj\.weight_scale"):
        load(folder, base)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_formats_of_other_packages(base: Path, method: str) -> None:
    pytest.importorskip("gptqmodel", reason="these formats are read with gptqmodel, which is not installed")
    pytest.importorskip("optimum")
    expected = pack_by_hand(base, base.with_name(method), method)
    assert_same(weights(load(base.with_name(method), base)), expected)


class PackedLinear(nn.Module):
    """Stands for a linear of gptqmodel: packed, with its weight the other way round."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("qweight", weight.int())
        self.register_buffer("bias", bias)
        self.unpacked = weight

    def dequantize_weight(self) -> torch.Tensor:
        return self.unpacked.T


def test_packed_linears_become_plain_ones() -> None:
    weight, bias = torch.randn(3, 5).half(), torch.randn(3)
    model: Any = nn.Sequential(PackedLinear(weight, bias), nn.ReLU())
    model.config = type("Config", (), {})()
    model.config.quantization_config = {}
    unpack(model, "gptq")
    assert type(model[0]) is nn.Linear
    assert torch.equal(model[0].weight, weight)
    assert torch.equal(model[0].bias, bias.half())


def test_without_tokenizer_the_models_is_used_and_that_is_said(base: Path) -> None:
    folder = pack(base, base.with_name("packed"), LINEARS, torch.float32)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    listener = Listener()
    loaded = load(folder, base, listener=listener)
    assert loaded.tokenizer("the cat").input_ids == load_tokenizer(base)("the cat").input_ids
    assert listener.warnings == [f"{folder} has no tokenizer: that of base is used"]


def copy_with(base: Path, tokenizer: Any) -> Path:
    folder = model_folder(base.with_name("other"))
    return saved(tokenizer, folder)


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (metaspace, "gives other token ids than that of base"),
        (lambda: byte_level(adds_bos=True), "gives other token ids than that of base"),
    ],
)
def test_a_tokenizer_that_gives_other_tokens_is_refused(base: Path, tokenizer: Any, reason: str) -> None:
    with pytest.raises(StepError, match=reason):
        load(copy_with(base, tokenizer()), base)


def test_a_tokenizer_written_otherwise_with_the_same_tokens_is_taken(base: Path) -> None:
    folder = copy_with(base, byte_level())
    path = folder / "tokenizer.json"
    before = path.read_text()
    path.write_text(before.replace('"trim_offsets": true', '"trim_offsets": false', 1))
    assert path.read_text() != before
    listener = Listener()
    load(folder, base, listener=listener)
    assert listener.warnings == []


def test_a_bos_is_compared_where_it_is_prepended(base: Path) -> None:
    folder = copy_with(base, byte_level(bos="</s>"))
    load(folder, base)
    with pytest.raises(StepError, match="another begin-of-sequence token"):
        load(folder, base, bos="prepend")


def test_a_chat_template_is_compared_where_it_is_used(base: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ messages }}"
    folder = copy_with(base, tokenizer)
    load(folder, base)
    with pytest.raises(StepError, match="another chat template"):
        load(folder, base, chat_template=True)


def test_weights_of_another_model_are_named(base: Path) -> None:
    change_config(base, num_hidden_layers=2)
    with pytest.raises(StepError, match=r"besides those of the model.*model\.layers\.2"):
        load(base, base)
