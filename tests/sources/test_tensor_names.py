"""What is refused by the names of tensors is what transformers cannot load, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from studyctl.contract.identity import ModelIdentity
from studyctl.errors import StudyError
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import read_weights
from studyctl.spec.models import Model
from tests.compress.tiny import FAMILIES, tiny_model

Tensors = dict[str, torch.Tensor]


def saved(folder: Path, family: str, **changes: Any) -> Path:
    tiny_model(family, **changes).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    made = {family: saved(root / family, family) for family in FAMILIES}
    return made | {"tied": saved(root / "tied", "llama", tie_word_embeddings=True)}


def changed(folder: Path, target: Path, change: Callable[[Tensors], Tensors], **config: Any) -> Path:
    shutil.copytree(folder, target)
    save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def identity_of(folder: Path) -> ModelIdentity:
    return identify_model(Model(id=str(folder)), folder)


def loads(folder: Path) -> bool:
    """Whether transformers loads the folder with all weights and no others."""
    config = json.loads((folder / "config.json").read_text())
    identity = ModelIdentity(id=folder.name, kind="folder", key="key", config=config)
    try:
        read_weights(folder, identity, "float32", allow_pickle=False)
    except StudyError:
        return False
    return True


def renamed(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rename(name): tensor.clone() for name, tensor in tensors.items()}


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {
        name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_as_transformers_saves_it_has_no_caveat(folders: dict[str, Path], family: str) -> None:
    identity = identity_of(folders[family])
    assert identity.caveats == ()
    assert (identity.storage, identity.vocab_size) == ("plain", 61)


@pytest.mark.parametrize(
    ("family", "change", "what"),
    [
        ("llama", renamed("module.{}".format), "names of a wrapper, `module.lm_head.weight`"),
        ("gpt_neox", renamed("_orig_mod.{}".format), "names of a wrapper"),
        ("llama", renamed(lambda name: name.replace(".1.", ".1._orig_mod.")), "names of a wrapper, `model.layers.1._orig_mod."),
        ("qwen2", renamed("base_model.model.{}".format), "names of a wrapper"),
        ("llama", renamed(lambda name: name.replace("q_proj", "q_proj.base_layer")), "has a LoRA adapter beside its weights"),
        ("llama", without(".1."), "has 2 of 3 blocks; missing: 1 (`model.layers.1`)"),
        ("opt", without(".0.", ".2."), "has 1 of 3 blocks; missing: 0, 2 (`model.decoder.layers.0`)"),
        ("tied", without("embed"), "has no embedding"),
        ("llama", without("embed"), "one matrix for its vocabulary, `lm_head.weight`"),
        ("llama", without("lm_head"), "one matrix for its vocabulary, `model.embed_tokens.weight`"),
        ("tied", lambda tensors: {name: tensor[:60].clone() if "embed" in name else tensor for name, tensor in tensors.items()}, "has 60 rows, but its config says `vocab_size` 61"),
    ],
)  # fmt: skip
def test_what_transformers_cannot_load_is_refused(
    folders: dict[str, Path], tmp_path: Path, family: str, change: Callable[[Tensors], Tensors], what: str
) -> None:
    tie = {"tie_word_embeddings": False} if family == "llama" else {}  # a config may leave out its default
    folder = changed(folders[family], tmp_path / "changed", change, **tie)
    assert not loads(folder)
    with pytest.raises(StudyError) as caught:
        identity_of(folder)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", renamed(lambda name: name.removeprefix("model."))),
        ("llama", renamed(lambda name: f"model.{name}" if name.startswith("model.") else name)),
        ("bloom", renamed(lambda name: name.removeprefix("transformer."))),
        ("gpt_neox", renamed(lambda name: name.removeprefix("gpt_neox."))),
        ("tied", lambda tensors: {"lm_head.weight" if "embed" in name else name: tensor for name, tensor in tensors.items()}),
        ("llama", lambda tensors: {name: tensor.to(torch.float8_e4m3fn) if "_proj" in name else tensor for name, tensor in tensors.items()}),
    ],
)  # fmt: skip
def test_what_it_loads_all_the_same_is_not(
    folders: dict[str, Path], tmp_path: Path, family: str, change: Callable[[Tensors], Tensors]
) -> None:
    folder = changed(folders[family], tmp_path / "changed", change)
    assert loads(folder)
    identity = identity_of(folder)
    assert identity.caveats == ()
    assert len(identity.linears) == len(identity_of(folders[family]).linears)


def test_what_only_loading_can_settle_is_a_caveat(folders: dict[str, Path], tmp_path: Path) -> None:
    def caveat(name: str, change: Callable[[Tensors], Tensors]) -> str:
        (sentence,) = identity_of(changed(folders["llama"], tmp_path / name, change)).caveats
        return sentence

    def another(tensors: Tensors) -> Tensors:
        return tensors | {name.replace(".2.", ".3."): tensor.clone() for name, tensor in tensors.items()}

    own = renamed(lambda name: name.replace("model.", "student."))
    assert "are named `student.layers`, which is not usual" in caveat("own", own)
    assert "has 1 more blocks than its config says (3)" in caveat("another", another)
    assert "block 1 of " in caveat("gap", without("layers.1.mlp.up_proj"))
    assert "has no `mlp.up_proj.weight`" in caveat("gap again", without("layers.1.mlp.up_proj"))


def test_an_index_may_name_tensors_that_no_file_has(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(folders["llama"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    weight_map = dict.fromkeys([*tensors, "model.rotary_emb.inv_freq"], "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    assert loads(folder)
    (caveat,) = identity_of(folder).caveats
    assert "names 1 tensors that its files do not have, such as `model.rotary_emb.inv_freq`" in caveat


class TestTokensBeyondTheEmbedding:
    def caveats(self, folder: Path, tmp_path: Path, **files: Any) -> tuple[str, ...]:
        shutil.copytree(folder, tmp_path / "model")
        for name, content in files.items():
            (tmp_path / "model" / f"{name}.json").write_text(json.dumps(content))
        return identity_of(tmp_path / "model").caveats

    @pytest.mark.parametrize(
        "files",
        [
            {"tokenizer": {"model": {"vocab": {"a": 0, "[PAD]": 61}}}},
            {"tokenizer": {"model": {"vocab": [["a", -1.0]] * 61 + [["[PAD]", -2.0]]}}},
            {"tokenizer": {"added_tokens": [{"id": 61, "content": "[PAD]"}, {"id": 3, "content": "<s>"}]}},
            {"tokenizer_config": {"added_tokens_decoder": {"61": {"content": "[PAD]"}}}},
            {"added_tokens": {"[PAD]": 61}},
        ],
    )
    def test_are_named(self, folders: dict[str, Path], tmp_path: Path, files: dict[str, Any]) -> None:
        (caveat,) = self.caveats(folders["llama"], tmp_path, **files)
        assert "has ids up to 61 (`[PAD]`), its embedding 61 rows" in caveat

    def test_an_embedding_with_more_rows_than_tokens_is_usual(
        self, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        tokenizer = {"model": {"vocab": {"a": 0, "b": 40}}}
        assert self.caveats(folders["llama"], tmp_path, tokenizer=tokenizer) == ()


def test_an_adapter_beside_a_model_is_a_caveat(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llama"], tmp_path / "merged")
    (tmp_path / "merged" / "adapter_config.json").write_text("{}")
    (caveat,) = identity_of(tmp_path / "merged").caveats
    assert "holds an adapter as well (adapter_config.json)" in caveat


def test_a_folder_with_an_adapter_only_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"is an adapter \(adapter_config.json\), not a model"):
        identity_of(tmp_path)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}, "gptq"),
        ({"qweight": "I32", "qzeros": "I32", "scales": "F16"}, "awq"),
        ({"weight_packed": "I32", "weight_scale": "BF16", "weight_shape": "I64"}, "compressed-tensors"),
        ({"weight": "I8", "weight_scale": "BF16"}, "compressed-tensors"),
        ({"weight": "F8_E4M3", "weight_scale": "F32"}, "fp8"),
        ({"weight": "F8_E4M3", "weight_scale_inv": "F32"}, "fp8"),
        ({"weight": "U8", "weight.absmax": "F32", "weight.quant_map": "F32"}, "bitsandbytes"),
        ({"weight": "I8", "SCB": "F32"}, "bitsandbytes"),
        ({"gate_up_proj_blocks": "U8", "gate_up_proj_scales": "U8"}, "mxfp4"),
        ({"W_q": "U8", "meta": "F16"}, "hqq"),
        ({"weight": "U8"}, "unnamed"),
    ],
)
def test_packed_weights_are_named_even_where_the_config_lacks_them(
    folders: dict[str, Path], tmp_path: Path, parts: dict[str, str], expected: str
) -> None:
    dtypes = {"I32": torch.int32, "I64": torch.int64, "I8": torch.int8, "U8": torch.uint8, "F16": torch.half,
              "BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}  # fmt: skip

    def packed(tensors: Tensors) -> Tensors:
        own = {name: torch.zeros(4, 4).to(dtypes[dtype]) for name, dtype in parts.items()}
        others = {name: tensor for name, tensor in tensors.items() if "_proj" not in name}
        return others | {f"model.layers.0.mlp.up_proj.{name}": tensor for name, tensor in own.items()}

    identity = identity_of(changed(folders["llama"], tmp_path / "packed", packed))
    assert identity.storage == expected
    assert identity.linears == {}


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_plain_weights_are_loaded_plain_whatever_their_config_says(
    folders: dict[str, Path], tmp_path: Path, method: str
) -> None:
    """A model that was unpacked, or merged with what was trained on it, often keeps the config of the packed one."""
    settings = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    folder = changed(
        folders["llama"], tmp_path / "unpacked", lambda tensors: tensors, quantization_config=settings
    )
    identity = identity_of(folder)
    assert identity.storage == "plain"
    (caveat,) = identity.caveats
    assert "says that its weights are quantized, but they are plain" in caveat
    model = read_weights(folder, identity, "float32", allow_pickle=False)
    plain = load_file(folders["llama"] / "model.safetensors")
    assert torch.equal(model.get_parameter("model.embed_tokens.weight"), plain["model.embed_tokens.weight"])
    assert not hasattr(model.config, "quantization_config")


def test_masks_of_old_gpt2_files_are_no_packed_weights() -> None:
    from studyctl.sources.safetensors_files import TensorInfo
    from studyctl.sources.storage import storage_format

    masks = {"h.0.attn.bias": TensorInfo((1, 1, 8, 8), "U8"), "h.0.attn.masked_bias": TensorInfo((), "F32")}
    assert storage_format({}, masks) == "plain"
