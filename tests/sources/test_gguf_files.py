"""GGUF files as checkpoints, before anything is loaded: headers, identity, and what is not of the model."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.gguf.files import differences, tokens_differ
from studyctl.sources.gguf.header import BLOCK_KINDS, read_header
from studyctl.sources.model_files import identify_model
from studyctl.spec.models import Model
from tests.sources.conftest import CONFIG, tensors

TOKENS = [f"t{number}" for number in range(32)]
NUMBERS = {
    "block_count": 2, "context_length": 64, "embedding_length": 8, "feed_forward_length": 16, "attention.head_count": 2,
    "attention.head_count_kv": 1,
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
}  # fmt: skip


def write_gguf(
    path: Path, arch: str = "llama", tokens: list[str] = TOKENS, **numbers: int | list[str]
) -> Path:
    """Write the model of ``conftest`` in float16."""
    writer = gguf.GGUFWriter(path, arch)
    for name, number in (NUMBERS | numbers).items():
        writer.add_uint32(name if name.startswith("split") else f"{arch}.{name}", number)
    writer.add_token_list(tokens)
    for name, values in tensors().items():
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, values.astype(np.float16) if values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def identify(path: Path) -> ModelIdentity:
    return identify_checkpoint(Checkpoint(id=path.name, of="m"), path.parent)


def refusal(path: Path) -> str:
    with pytest.raises(StudyError) as caught:
        identify(path)
    (problem,) = caught.value.problems
    return f"{problem.what} | {problem.hint}"


@pytest.fixture
def base(folder: Path) -> ModelIdentity:
    tokenizer = {"model": {"vocab": {token: number for number, token in enumerate(TOKENS)}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return identify_model(Model(id="tiny"), folder.parent)


def test_the_types_of_blocks_are_those_that_can_be_dequantized() -> None:
    known = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, *quants._type_traits}
    assert {int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in known} == BLOCK_KINDS


def test_a_file_is_known_by_its_bytes_and_its_header(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    identity = identify(path)
    assert (identity.kind, identity.storage, identity.folder, identity.file) == (
        "file",
        "gguf",
        tmp_path,
        "x.gguf",
    )
    assert (identity.weight_bytes, identity.tokenizer, identity.short_name) == (
        path.stat().st_size,
        False,
        "x",
    )
    assert read_header(path).block_bits_per_weight == 16
    write_gguf(tmp_path / "y.gguf")
    assert identify(tmp_path / "y.gguf").key == identity.key
    write_gguf(path, tokens=[*TOKENS[:-1], "other"])
    assert identify(path).key != identity.key


def test_the_file_of_the_model_has_no_differences(tmp_path: Path, base: ModelIdentity) -> None:
    checkpoint = identify(write_gguf(tmp_path / "x.gguf"))
    assert list(differences(checkpoint, base)) == []
    # What is not here yet is compared once it is.
    assert list(differences(replace(checkpoint, folder=None), base)) == []
    assert list(differences(checkpoint, replace(base, folder=None))) == []


@pytest.mark.parametrize(
    ("arch", "numbers", "what"),
    [
        ("qwen2", {}, ["is of the family qwen2, `tiny` of llama"]),
        ("llama", {"feed_forward_length": 24}, ["has 24 units in the MLP, `tiny` has 16"]),
        ("llama", {"attention.head_count": 4}, ["has 4 attention heads, `tiny` has 2", "has 2 units a head, `tiny` has 4"]),
        ("llama", {"tokens": [*TOKENS[:7], "other", *TOKENS[8:]]}, ["has another vocabulary than `tiny`: token 7 is 'other', not 't7'"]),
        ("llama", {"tokens": TOKENS[:-1]}, ["has 31 tokens for 32 rows of its embedding"]),
    ],
)  # fmt: skip
def test_what_is_not_of_the_model_is_named(
    arch: str, numbers: dict[str, Any], what: list[str], tmp_path: Path, base: ModelIdentity
) -> None:
    checkpoint = identify(write_gguf(tmp_path / "x.gguf", arch, **numbers))
    assert list(differences(checkpoint, base)) == [f"`x.gguf` {difference}" for difference in what]


def test_a_family_that_is_not_read(tmp_path: Path, folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps(CONFIG | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]})
    )
    base = identify_model(Model(id="tiny"), folder.parent)
    (difference,) = differences(identify(write_gguf(tmp_path / "x.gguf")), base)
    assert "cannot be read as a model of the family mistral: GGUF files of llama, qwen2" in difference


def test_tokens_that_only_look_different(tmp_path: Path) -> None:
    tokens = ["▁▁", "a b", "▁c", "[PAD3]", *TOKENS[4:]]
    header = read_header(write_gguf(tmp_path / "x.gguf", tokens=tokens))
    theirs = {0: "▁▁", 1: "a▁b", 2: "▁c"} | dict(enumerate(TOKENS))
    assert (
        tokens_differ(
            header, {0: "▁▁", 1: "a▁b", 2: "▁c", **dict(enumerate(TOKENS[4:], 4)), 32: "beyond"}, "m"
        )
        == ""
    )
    assert "token 0 is '▁▁', not 't0'" in tokens_differ(header, theirs, "m")
    assert "token 3 is '[PAD3]', not 't3'" in tokens_differ(header, theirs | dict(enumerate(tokens[:3])), "m")


def test_what_is_no_whole_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    whole = path.read_bytes()
    assert "x.gguf` does not exist" in refusal(tmp_path / "gone" / "x.gguf")
    for size, what in (
        (len(whole) - 1, "is cut short: 1 of 20 tensors"),
        (300, "is cut short: its header"),
        (2, "is no GGUF file"),
    ):
        path.write_bytes(whole[:size])
        assert what in refusal(path)
        assert "download or install it again" in refusal(path)
    path.write_bytes(whole.replace(b"GGUF\3", b"GGUF\7"))
    assert "has GGUF version 7" in refusal(path)
    name = b"output_norm.weight"
    begin = whole.index(name) + len(name)
    for at, number, what in (
        (begin, 9, "is damaged: `output_norm.weight` has 9 dimensions"),
        (begin + 12, 4, "`output_norm.weight` of"),
        (begin + 12, 12, "is damaged: `output_norm.weight` with the shape [8] is no whole blocks of Q4_K"),
    ):
        path.write_bytes(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])
        assert what in refusal(path)
    path.write_bytes(whole.replace(b"blk.1.attn_q", b"blk.1.attn_\xff"))
    assert "is damaged: a text in its header is none" in refusal(path)
    path.write_bytes(whole.replace(b"blk.1.", b"blk.7."))
    assert "`x.gguf` has 1 of 2 blocks" in refusal(path)


def test_an_array_of_arrays_is_no_endless_depth(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", 9, 1) * 100_000
    (tmp_path / "x.gguf").write_bytes(
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 9) + nested
    )
    assert "has a field of unknown type 9" in refusal(tmp_path / "x.gguf")


def test_a_part_of_a_split_file(tmp_path: Path) -> None:
    for path in (tmp_path / "x-00001-of-00003.gguf", write_gguf(tmp_path / "x.gguf", **{"split.count": 3})):
        assert (
            "is one part of a GGUF file that was split | make one file of all parts: `llama-gguf-split --merge`"
            in refusal(path)
        )


def test_a_file_is_no_model_of_its_own(tmp_path: Path) -> None:
    for name in (write_gguf(tmp_path / "x.gguf").name, "org/name/x.gguf"):
        with pytest.raises(StudyError) as caught:
            identify_model(Model(id=name), tmp_path)
        (problem,) = caught.value.problems
        assert problem.what == f"`{name}` is a GGUF file, not a model folder"
        assert f'`method = "checkpoint"`, `id = "{name}"` and `of`' in problem.hint
