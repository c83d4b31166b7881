"""Presets give every matrix the type that llama.cpp's own file has, and llama.cpp's blocks are its own bytes."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader

from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.vocabulary import vocabulary_matrices
from studyctl.compress.walk.walker import compress
from studyctl.contract.gguf import BlockType, Preset, Shape, mixture, shape_of
from studyctl.contract.methods import Gguf, GPTQOnGguf, RTNOnGguf
from studyctl.llama import quantize_rows
from studyctl.reporter import SilentReporter
from studyctl.sources.gguf.families import family_of
from studyctl.sources.models import LoadedModel
from tests.export.llama_quantize import quantize, random_importances
from tests.export.test_gguf import FAMILIES, IDS, divergence, loaded, write

LAYERS = 16
SHAPES: list[dict[str, Any]] = [
    {"hidden_size": 256, "intermediate_size": 512, "num_key_value_heads": 1, "tie_word_embeddings": True},
    {"hidden_size": 96, "intermediate_size": 256, "num_key_value_heads": 2, "tie_word_embeddings": False},
]


def sixteen_layers(family: str, shape: dict[str, Any]) -> dict[str, Any]:
    changes = shape | {"num_hidden_layers": LAYERS, "num_attention_heads": 4}
    if family.startswith("gemma"):
        every = 6 if family == "gemma3_text" else 2
        kinds = [
            "full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(LAYERS)
        ]
        changes |= {"layer_types": kinds, "tie_word_embeddings": True}
    return changes | ({"max_window_layers": LAYERS} if family == "qwen2" else {})


def names_of(model: LoadedModel) -> dict[str, str]:
    """Return llama.cpp's name of each matrix."""
    matrices = vocabulary_matrices(model.model) | block_linears(model.model)
    names = gguf.get_tensor_name_map(family_of(model.model.config).arch, LAYERS)
    return {name: f"{names.get_name(name)}.weight" for name in matrices}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "narrow"])
@pytest.mark.parametrize("family", FAMILIES)
def test_types_are_those_of_llama_cpp_for_every_preset(
    family: str, shape: dict[str, Any], llama: Path, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files, **sixteen_layers(family, shape))
    source, names = tmp_path / "dense.gguf", names_of(model)
    write(model, None, source)
    matrices: dict[str, Any] = vocabulary_matrices(model.model) | block_linears(model.model)
    sizes = {name: tuple(matrix.weight.shape) for name, matrix in matrices.items()}
    all_importances = random_importances(source)
    for preset in Preset:
        for importances in ({}, all_importances):
            quantize(llama, source, tmp_path / "theirs.gguf", preset, importances)
            theirs = {
                tensor.name: tensor.tensor_type.name
                for tensor in GGUFReader(tmp_path / "theirs.gguf").tensors
            }
            ours = mixture(preset, sizes, shape_of(model.model.config), has_imatrix=bool(importances))
            assert {names[name]: str(kind) for name, kind in ours.items()} == {
                name: theirs[name] for name in names.values()
            }


def test_a_mixture_by_hand() -> None:
    """The published Q4_K_M of a llama of 16 layers: Q6_K in layers 0, 1, every third from 4 on, 14 and 15, and in the tied head."""
    names = [
        f"model.layers.{layer}.{role}" for layer in range(16) for role in ("self_attn.v_proj", "mlp.up_proj")
    ]
    sizes = dict.fromkeys((*names, "model.embed_tokens"), (512, 512))
    kinds = mixture(Preset.Q4_K_M, sizes, Shape(16, 4), has_imatrix=False)
    wide = {
        int(name.split(".")[2]) for name, kind in kinds.items() if kind is BlockType.Q6_K and "v_proj" in name
    }
    assert wide == {0, 1, 4, 7, 10, 13, 14, 15}
    assert {kinds[name] for name in names if "up_proj" in name} == {BlockType.Q4_K}
    assert kinds["model.embed_tokens"] is BlockType.Q6_K


@pytest.mark.parametrize("weighted", [False, True])
def test_the_method_gguf_makes_the_bytes_of_llama_cpps_file(
    weighted: bool, llama: Path, tmp_path: Path, tokenizer_files: Path
) -> None:
    changes = sixteen_layers("qwen2", SHAPES[0]) | {"num_hidden_layers": 2}
    model = loaded("qwen2", tmp_path / "model", tokenizer_files, **changes)
    source = tmp_path / "dense.gguf"
    write(model, None, source)
    importances = random_importances(source) if weighted else {}
    quantize(llama, source, tmp_path / "theirs.gguf", "Q4_K_M", importances)
    matrices: dict[str, Any] = vocabulary_matrices(model.model) | block_linears(model.model)
    names = gguf.get_tensor_name_map(family_of(model.model.config).arch, 2)
    theirs = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "theirs.gguf").tensors}
    for name, matrix in matrices.items():
        full = f"{names.get_name(name)}.weight"
        kind = BlockType(theirs[full].tensor_type.name)
        ours = quantize_rows(kind, matrix.weight.float().numpy(), importances.get(full))
        np.testing.assert_array_equal(ours, theirs[full].data.reshape(ours.shape))


@pytest.mark.parametrize("preset", ["Q4_0", "Q4_K_M"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_blocks_is_written_read_back_and_computed_by_llama_cpp(
    family: str, preset: str, llama: Path, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files, dtype="float32")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 300, (4, 32), generator=generator)
    settings = GPTQOnGguf(grid=f"gguf:{preset}")
    made = compress(model.model, settings, ids, batch_tokens=64, reporter=SilentReporter())
    file = write(model, made, tmp_path / "ours.gguf")
    assert (file.differing, file.inexact) == (0, 0)
    assert sum(file.types.values()) - file.types["F32"] == len(made.linears)
    assert (
        divergence(model, llama, tmp_path / "ours.gguf", IDS) < 2e-3
    )  # llama.cpp rounds activations to 8 bits


def test_sizes_equal_those_of_llama_cpps_file_to_the_byte(
    llama: Path, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files)
    write(model, None, tmp_path / "dense.gguf")
    quantize(llama, tmp_path / "dense.gguf", tmp_path / "theirs.gguf", "Q4_0", {})
    made = compress(
        model.model, RTNOnGguf(grid="gguf:Q4_0"), None, batch_tokens=64, reporter=SilentReporter()
    )
    write(model, made, tmp_path / "ours.gguf")
    ours, theirs = (
        {tensor.name: (tensor.tensor_type, int(tensor.n_bytes)) for tensor in GGUFReader(path).tensors}
        for path in (tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
    )
    assert ours == theirs


def test_a_variant_of_llama_cpp_changes_the_embedding_too(
    llama: Path, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded("qwen3", tmp_path / "model", tokenizer_files)
    before = model.model.get_input_embeddings().weight.clone()  # type: ignore[operator]
    ids = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))
    made = compress(
        model.model,
        Gguf(type="Q4_0", imatrix="calibration"),
        ids,
        batch_tokens=64,
        reporter=SilentReporter(),
    )
    embedding = model.model.get_input_embeddings().weight  # type: ignore[operator]
    assert not torch.equal(embedding, before)
    assert torch.equal(embedding, made.linears["model.embed_tokens"].weight)
    assert made.bits_per_weight == 4.5
