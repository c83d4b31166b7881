"""An exported folder loads in plain transformers, with the same weights bit for bit and the same logits."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from studyctl.compress.quantize.grid import dequantize
from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.methods import (
    AWQ,
    GPTQ,
    RTN,
    Dense,
    Magnitude,
    MethodSettings,
    PruneThenQuantize,
    SparseGPT,
)
from studyctl.errors import StepError
from studyctl.export.folder import Exported, export_model, keys_of_older_loaders, verify
from studyctl.plan.saved import stored_bytes
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.spec.models import Model
from tests.compress.tiny import FAMILIES, VOCABULARY, Listener, tiny_model

TOKENS = torch.arange(12)[None] + 3
NO_PACKED_LOADER = {"falcon"}
"""Families whose code in transformers cannot load packed linears."""


def loaded(family: str, folder: Path, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Any:
    """Return a tiny model as a worker has it: loaded from a folder in its dtype."""
    tiny_model(family, **changes).save_pretrained(folder)
    attention = "eager" if family in ("gemma2", "bloom") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.requires_grad_(False).eval()


def compressed(model: Any, settings: MethodSettings, ids: torch.Tensor | None = None) -> Compressed:
    return compress(model, settings, ids, batch_tokens=48, reporter=SilentReporter())


def export(
    model: Any,
    made: Compressed | None,
    target: Path,
    *,
    files: list[Path] | None = None,
    texts: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Exported:
    return export_model(
        model, made, target,
        files=files or [], describe=lambda exported: texts or {}, replace=overwrite, reporter=SilentReporter(),
    )  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(TOKENS).logits
    return result


def read_back(model: Any, folder: Path) -> Any:
    """Load with nothing but transformers, hold all weights and logits against the model's."""
    attention = model.config._attn_implementation
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    assert torch.equal(logits(again), logits(model))
    for name, linear in block_linears(model).items():
        assert torch.equal(again.get_submodule(name).weight, linear.weight), name
    return again


PACKED = [
    (RTN(bits=4, group_size=16), 4),
    (RTN(bits=4, group_size=16, symmetric=True), 4),
    (RTN(bits=4, group_size=0), 4),
    (RTN(bits=4, group_size=0, symmetric=True), 4),
    (RTN(bits=2, group_size=8), 4),
    (RTN(bits=3, group_size=16), 4),
    (RTN(bits=3, group_size=16, symmetric=True), 4),
    (RTN(bits=5, group_size=16), 8),
    (RTN(bits=6, group_size=16, symmetric=True), 8),
    (RTN(bits=8, group_size=16), 8),
    (RTN(bits=8, group_size=0, symmetric=True), 8),
    (PruneThenQuantize(method=("wanda", "rtn"), sparsity=0.5, bits=4, group_size=16), 4),
]


def name_of(settings: object) -> str | None:
    if not isinstance(settings, MethodSettings):
        return None
    symmetric = "sym" if getattr(settings, "symmetric", False) else "asym"
    return "-".join(["+".join(settings.method) if isinstance(settings.method, tuple) else settings.method,
                     *settings.name_parts(), symmetric])  # fmt: skip


@pytest.mark.parametrize(("settings", "bits"), PACKED, ids=name_of)
def test_quantized_weights_are_packed(
    settings: MethodSettings, bits: int, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = loaded("llama", tmp_path / "base")
    exported = export(model, compressed(model, settings, ids), tmp_path / "out")
    assert (exported.format, exported.why_plain, exported.logit_difference) == ("pack-quantized", "", 0.0)
    assert exported.packing is not None
    assert exported.packing.bits == bits
    assert exported.packing.symmetric is getattr(settings, "symmetric", False)
    read_back(model, tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_packed_as_well(dtype: torch.dtype, tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base", dtype)
    exported = export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    assert exported.dtype == str(dtype).removeprefix("torch.")
    assert read_back(model, tmp_path / "out").dtype is dtype


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_groups_that_are_not_consecutive(symmetric: bool, in_order: bool, tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    made = compressed(model, RTN(group_size=16, symmetric=symmetric))
    for name, one in list(made.linears.items()):
        if in_order and name.endswith("q_proj"):
            continue  # some linears may have consecutive groups all the same
        inputs = one.weight.shape[1]
        groups = (torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs)) // 16).int()
        assert one.scales is not None
        assert one.zero_point is not None
        one.weight.copy_(dequantize(one.all_codes(), one.scales, one.zero_point, groups))
        made.linears[name] = one._replace(groups=groups)
    made = replace(made, settings=GPTQ(group_size=16, symmetric=symmetric, act_order=True))
    exported = export(model, made, tmp_path / "out")
    assert exported.packing is not None
    assert exported.packing.indexed
    read_back(model, tmp_path / "out")


@pytest.mark.parametrize(
    "settings",
    [
        GPTQ(bits=4, group_size=16, act_order=True),
        GPTQ(bits=3, group_size=16, act_order=True, static_groups=True),
        AWQ(bits=4, group_size=16),
    ],
    ids=name_of,
)
def test_methods_with_data(settings: MethodSettings, ids: torch.Tensor, tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    exported = export(model, compressed(model, settings, ids), tmp_path / "out")
    assert exported.format == "pack-quantized"
    read_back(model, tmp_path / "out")  # AWQ: with the norms that took over its scales


@pytest.mark.parametrize(
    "settings",
    [Magnitude(sparsity=0.5), Magnitude(pattern="2:4"), SparseGPT(sparsity=0.5, block_size=16), None],
    ids=name_of,
)
def test_pruned_and_dense_weights_are_plain(
    settings: MethodSettings | None, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = loaded("llama", tmp_path / "base")
    made = compressed(model, settings, ids) if settings else None
    exported = export(model, made, tmp_path / "out")
    assert (exported.format, exported.packing, exported.why_plain) == ("safetensors", None, "")
    assert exported.block_bits_per_weight == 16
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    read_back(model, tmp_path / "out")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    model = loaded(family, tmp_path / "base")
    exported = export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    if family in NO_PACKED_LOADER:
        assert exported.format == "safetensors"
        assert exported.why_plain.startswith("plain transformers does not load this family packed")
    else:
        assert exported.format == "pack-quantized"
    read_back(model, tmp_path / "out")


def test_what_the_format_cannot_hold_is_plain_and_says_so(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    made = compressed(model, RTN(group_size=16))
    name = next(iter(made.linears))
    uneven = torch.tensor([0] * 20 + [1] * 12, dtype=torch.int32)
    made.linears[name] = made.linears[name]._replace(groups=uneven)
    exported = export(model, made, tmp_path / "out")
    assert (exported.format, exported.packing) == ("safetensors", None)
    assert exported.why_plain == f"the format cannot hold {name}: groups differ in size"
    read_back(model, tmp_path / "out")


@pytest.mark.parametrize("settings", [RTN(group_size=16), Magnitude(sparsity=0.5)], ids=name_of)
def test_tied_embeddings_stay_tied_and_are_stored_once(settings: MethodSettings, tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base", tie_word_embeddings=True)
    export(model, compressed(model, settings), tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    again = read_back(model, tmp_path / "out")
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()


def test_bits_are_those_of_the_files(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    exported = export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    shapes = [tuple(linear.weight.shape) for linear in block_linears(model).values()]
    weights = sum(out * inputs for out, inputs in shapes)
    # Codes of 4 bits, a scale of 16 and a zero of 4 for each 16 weights, and two int64 that tell the shape.
    assert exported.block_bits_per_weight == 4 + 20 / 16 + len(shapes) * 128 / weights
    (file,) = (tmp_path / "out").glob("*.safetensors")
    assert (exported.weight_files, exported.weight_bytes) == (1, file.stat().st_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert exported.model_bits_per_weight == 8 * file.stat().st_size / parameters


@pytest.mark.parametrize(
    "settings",
    [
        Magnitude(sparsity=0.5),
        RTN(bits=3, group_size=16),
        RTN(bits=8, group_size=0, symmetric=True),
        GPTQ(bits=4, group_size=16, act_order=True),
        GPTQ(bits=4, group_size=16, act_order=True, static_groups=True),
        PruneThenQuantize(method=("magnitude", "rtn"), sparsity=0.5, bits=5, group_size=16),
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_planned_size_is_that_of_the_tensors(
    settings: MethodSettings, tied: bool, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = loaded("llama", tmp_path / "base", tie_word_embeddings=tied)
    export(model, None, tmp_path / "dense")
    export(model, compressed(model, settings, ids), tmp_path / "out")
    identity = identify_model(Model(id=str(tmp_path / "dense")), tmp_path, needs_tokenizer=False)
    for folder, of in (("dense", Dense()), ("out", settings)):
        tensors = load_file(tmp_path / folder / "model.safetensors").values()
        assert stored_bytes(identity, of) == sum(tensor.nbytes for tensor in tensors)


def test_large_models_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.export.folder.SHARD_BYTES", 20_000)
    model = loaded("llama", tmp_path / "base")
    exported = export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert exported.weight_files == len(set(index["weight_map"].values())) > 1
    read_back(model, tmp_path / "out")


def test_files_of_the_base_model_come_along(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    generation = tmp_path / "base" / "generation_config.json"
    generation.write_text(
        '{"eos_token_id": 2, "temperature": 0.6}'
    )  # which transformers itself refuses to save
    tokenizer = tmp_path / "tokenizer_config.json"
    tokenizer.write_text('{"tokenizer_class": "TokenizersBackend", "bos_token": "«s»"}')
    export(model, None, tmp_path / "out", files=[generation, tokenizer], texts={"README.md": "a card"})
    assert (tmp_path / "out" / "generation_config.json").read_text() == generation.read_text()
    assert (tmp_path / "out" / "README.md").read_text() == "a card"
    # The name that transformers before 5 knows.
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8"))
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "«s»"}


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "rope", "older"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 100000.0}, {"rope_theta": 100000.0}),
        (
            "llama",
            LLAMA3,
            {"rope_theta": 500000.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
        ),
        (
            "gemma3_text",
            {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        ),
    ],
)
def test_older_loaders_find_rope_and_dtype(
    family: str, rope: dict[str, Any], older: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded(family, tmp_path / "base", rope_parameters=rope)
    export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert older.items() <= config.items()
    assert config["torch_dtype"] == "bfloat16"
    again = AutoConfig.from_pretrained(tmp_path / "out")
    for key, value in rope.items():
        assert again.rope_parameters[key] == value  # newer loaders are not misled by it


def test_a_model_without_rotary_positions_has_no_such_keys() -> None:
    assert keys_of_older_loaders({"dtype": "float32"}) == {"torch_dtype": "float32"}
    assert keys_of_older_loaders({"dtype": "float32", "torch_dtype": "float32"}) == {}


# -- what differs does not count


def damage_after_writing(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Change the written tensors or config before they are read back."""
    from studyctl.export import folder as module

    write = module._write

    def write_and_damage(model: Any, made: Any, packing: Any, folder: Path) -> None:
        write(model, made, packing, folder)
        tensors = load_file(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        change(tensors, config)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(module, "_write", write_and_damage)


def flip_code(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight_packed"][0, 0] ^= 1


def change_norm(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors["model.norm.weight"][3] += 0.5


def change_theta(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["rope_parameters"]["rope_theta"] = 77.0


def change_epsilon(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["rms_norm_eps"] = 10.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip_code, r"`model\.layers\.1\.mlp\.up_proj\.weight` is not the same .* off by up to 0\.0"),
        (change_norm, r"`model\.norm\.weight` is not the same .* off by up to 0\."),
        (change_theta, r"`model\.rotary_emb\.inv_freq` is not the same"),
        (change_epsilon, "gives other logits"),
    ],
)
def test_a_difference_is_named_and_nothing_is_left(
    change: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("llama", tmp_path / "base")
    damage_after_writing(monkeypatch, change)
    with pytest.raises(StepError, match=says):
        export(model, compressed(model, RTN(group_size=16)), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_a_plain_folder_that_does_not_load_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("llama", tmp_path / "base")
    damage_after_writing(monkeypatch, lambda tensors, config: tensors.pop("model.norm.weight"))
    with pytest.raises(StepError, match=r"cannot be read back: missing keys model\.norm\.weight"):
        export(model, None, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_minus_zero_is_not_zero(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    export(model, None, tmp_path / "out")
    weight = next(iter(block_linears(model).values())).weight
    weight[0, 0] = 0.0
    export(model, None, tmp_path / "zero")
    weight[0, 0] = -0.0
    with pytest.raises(StepError, match="not the same"):
        verify(model, tmp_path / "zero")


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    model, listener = loaded("llama", tmp_path / "base"), Listener()
    listener.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        export_model(
            model, None, tmp_path / "out",
            files=[], describe=lambda exported: {}, replace=False, reporter=listener,
        )  # fmt: skip
    assert listener.done == [(0, 2, "step")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_no_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import _ntuple_diskusage as usage  # type: ignore[attr-defined]

    model = loaded("llama", tmp_path / "base")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1000, 1000, 0))
    with pytest.raises(StepError, match=r"takes 0\.00 GB and 0\.00 GB are free"):
        export(model, None, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    with pytest.raises(FileExistsError, match="not empty"):
        export(model, None, tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine"]
    export(model, None, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_the_model_in_memory_is_as_it_was(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path / "base")
    made = compressed(model, RTN(group_size=16))
    before = logits(model)
    export(model, made, tmp_path / "out")
    assert torch.equal(logits(model), before)
    assert not hasattr(model.config, "quantization_config")
    assert int(TOKENS.max()) < VOCABULARY
    assert all(isinstance(one, CompressedLinear) for one in made.linears.values())
