"""GGUF files as checkpoints: the weights are those that gguf's own package makes of the file, in the base's model."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, quants

from studyctl.contract import gguf as contract
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StepError
from studyctl.reporter import SilentReporter
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.gguf import families
from studyctl.sources.models import LoadedModel
from studyctl.sources.unpacking import ComparedModel, checkpoint_bits, load_checkpoint
from tests.export.llama_quantize import FILE_TYPES, quantize
from tests.export.test_gguf import FAMILIES, IDS, divergence, loaded, write

WIDE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
"""Rows of whole blocks of 256 inputs."""
SLOW = [kind for kind in FILE_TYPES if kind.startswith(("IQ1", "IQ2", "IQ3"))]
"""llama.cpp takes seconds to make the tables of their grids."""


def wide(family: str) -> dict[str, Any]:
    return WIDE | ({"query_pre_attn_scalar": 64} if family.startswith("gemma") else {})


def read(path: Path, base: LoadedModel, dtype: str = "float32") -> LoadedModel:
    return load_checkpoint(
        identify_checkpoint(Checkpoint(id=str(path), of="base"), path.parent),
        ComparedModel(base.identity, base.tokenizer, "auto", chat_template=False),
        dtype=dtype,
        device="cpu",
        reporter=SilentReporter(),
    )


def weights_in(path: Path, config: Any, state: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return a file's tensors by transformers' names, in its order of rows, without what llama.cpp adds to norms."""
    arch = gguf.MODEL_ARCH[config.model_type.removesuffix("_text").upper()]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    split = {name: name.rpartition(".") for name in state}
    sources = {f"{names.get_name(base)}.{part}": name for name, (base, _, part) in split.items()}
    weights = {}
    for tensor in GGUFReader(path).tensors:
        values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).copy())
        part = tensor.name.split(".")[-2]
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
        if config.model_type == "llama" and heads is not None:
            values = values.unflatten(0, (heads, -1, 2)).swapaxes(1, 2).flatten(0, 2)
        if config.model_type.startswith("gemma") and "norm" in part:
            values -= 1
        weights[sources[tensor.name]] = values
    return weights


def test_the_families_of_a_plan_are_those_that_are_read() -> None:
    assert set(contract.FAMILIES) == families.FAMILIES.keys() == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_back(family: str, tmp_path: Path, tokenizer_files: Path) -> None:
    # Biases are permuted, too.
    changes = {"attention_bias": True} if family == "llama" else {}
    base = loaded(family, tmp_path / "model", tokenizer_files, **changes)
    write(base, None, tmp_path / "x.gguf")
    one = read(tmp_path / "x.gguf", base, "bfloat16")
    expected, seen = base.model.state_dict(), one.model.state_dict()
    assert seen.keys() == expected.keys()
    for name, values in expected.items():
        if family.startswith("gemma") and "norm" in name:  # float32 rounds what llama.cpp adds to
            values = (values.float() + 1 - 1).bfloat16()
        assert torch.equal(seen[name], values), name
    assert (checkpoint_bits(one), one.model.dtype) == (16.0, torch.bfloat16)
    assert one.tokenizer is base.tokenizer
    assert not one.model.training
    with torch.no_grad():
        ids = torch.tensor([IDS])
        torch.testing.assert_close(one.model(ids).logits, base.model(ids).logits)


@pytest.mark.parametrize(
    ("family", "kind", "dtype"),
    [
        *((family, "Q4_K", "bfloat16") for family in FAMILIES),
        *(("llama", kind, "bfloat16") for kind in FILE_TYPES if kind not in ("Q4_K", *SLOW)),
        *(pytest.param("llama", kind, "bfloat16", marks=pytest.mark.slow) for kind in SLOW),
        ("llama", "Q4_K", "float16"),
        ("llama", "Q4_K", "float32"),
    ],
)
def test_every_weight_is_the_dequantized_one_rounded_once(
    family: str, kind: str, dtype: str, tmp_path: Path, tokenizer_files: Path, llama: Path
) -> None:
    few = {} if family.startswith("gemma") else {"num_hidden_layers": 1, "intermediate_size": 256}
    base = loaded(family, tmp_path / "model", tokenizer_files, "float32", **wide(family) | few)
    write(base, None, tmp_path / "x.gguf")
    quantize(llama, tmp_path / "x.gguf", tmp_path / "q.gguf", kind)
    stored = GGUFReader(tmp_path / "q.gguf").tensors
    assert kind in {tensor.tensor_type.name for tensor in stored}
    one = read(tmp_path / "q.gguf", base, dtype)
    seen = one.model.state_dict()
    expected = weights_in(tmp_path / "q.gguf", base.model.config, seen)
    if base.model.config.tie_word_embeddings:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert expected.keys() == seen.keys()
    for name, values in expected.items():
        assert torch.equal(seen[name], values.to(getattr(torch, dtype))), name
    sizes = [(t.n_bytes, t.n_elements) for t in stored if t.name.startswith("blk.") and len(t.shape) == 2]
    assert checkpoint_bits(one) == 8 * sum(size for size, _ in sizes) / sum(count for _, count in sizes)
    assert one.identity.weight_bytes == (tmp_path / "q.gguf").stat().st_size


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "Q4_K") for family in FAMILIES), ("llama", "IQ4_XS"), ("llama", "Q2_K"), ("llama", "IQ2_S"), ("qwen2", "Q8_0")],
)  # fmt: skip
def test_llama_cpp_computes_the_same_from_the_file(
    family: str, kind: str, tmp_path: Path, tokenizer_files: Path, llama: Path
) -> None:
    base = loaded(family, tmp_path / "model", tokenizer_files, "float32", **wide(family))
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(0.5 if parameter.dim() == 2 else 1)  # blunter logits, as those of trained models
    write(base, None, tmp_path / "x.gguf")
    quantize(llama, tmp_path / "x.gguf", tmp_path / "q.gguf", kind)
    one = read(tmp_path / "q.gguf", base)
    # llama.cpp rounds activations to 8 bits.
    kl = divergence(one, llama, tmp_path / "q.gguf", IDS)
    assert kl < 5e-4
    assert kind == "Q8_0" or divergence(base, llama, tmp_path / "q.gguf", IDS) > 20 * kl, (
        "it sees a difference"
    )


def change(path: Path, target: Path, fields: dict[str, Any], drop: str = "") -> Path:
    """Copy a file with other values of some keys, and without one tensor."""
    source = GGUFReader(path)
    writer = GGUFWriter(target, str(source.fields["general.architecture"].contents()))
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, fields.get(name, field.contents()), field.types[0], sub_type=inner)
    for tensor in source.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize(
    ("fields", "drop", "reason"),
    [
        ({"llama.rope.freq_base": 5e5}, "", "llama.rope.freq_base = 500000, not the 10000 of `base`: the two compute"),
        ({"llama.attention.layer_norm_rms_epsilon": 1e-4}, "", "layer_norm_rms_epsilon = 0.0001, not the 1e-06"),
        ({}, "blk.1.attn_norm.weight", "lacks blk.1.attn_norm.weight"),
        ({"tokenizer.ggml.tokens": [f"t{number}" for number in range(320)]}, "", "token 0 is 't0', not '<s>'"),
    ],
)  # fmt: skip
def test_a_file_of_another_model_is_refused(
    fields: dict[str, Any], drop: str, reason: str, tmp_path: Path, tokenizer_files: Path
) -> None:
    base = loaded("llama", tmp_path / "model", tokenizer_files)
    base = replace(base, identity=replace(base.identity, id="base"))
    write(base, None, tmp_path / "x.gguf")
    path = change(tmp_path / "x.gguf", tmp_path / "y.gguf", fields, drop)
    with pytest.raises(StepError, match=re.escape(reason)):
        read(path, base)
    # A maximum of positions says nothing about the weights.
    read(change(tmp_path / "x.gguf", tmp_path / "z.gguf", {"llama.context_length": 64}), base)


def test_other_stretched_rotations_are_refused(tmp_path: Path, tokenizer_files: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    base = loaded("llama", tmp_path / "model", tokenizer_files, rope_parameters=rope)
    other = loaded("llama", tmp_path / "other", tokenizer_files, rope_parameters=rope | {"factor": 4.0})
    write(base, None, tmp_path / "x.gguf")
    read(tmp_path / "x.gguf", base)
    with pytest.raises(StepError, match=r"rope_freqs\.weight"):
        read(tmp_path / "x.gguf", other)


def test_rows_that_no_token_has_are_unused_in_the_file(tmp_path: Path, tokenizer_files: Path) -> None:
    base = loaded("llama", tmp_path / "model", tokenizer_files, vocab_size=336)
    write(base, None, tmp_path / "x.gguf")
    assert read(tmp_path / "x.gguf", base).model.get_input_embeddings().weight.shape[0] == 336


def test_a_file_that_changed_since_the_plan_is_not_read(tmp_path: Path, tokenizer_files: Path) -> None:
    base = loaded("llama", tmp_path / "model", tokenizer_files)
    write(base, None, tmp_path / "x.gguf")
    identity = identify_checkpoint(Checkpoint(id="x.gguf", of="base"), tmp_path)
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    data[-5] ^= 1
    (tmp_path / "x.gguf").write_bytes(data)
    compared = ComparedModel(base.identity, base.tokenizer, "auto", chat_template=False)
    with pytest.raises(StepError, match="changed since the study was planned"):
        load_checkpoint(identity, compared, dtype="float32", device="cpu", reporter=SilentReporter())
