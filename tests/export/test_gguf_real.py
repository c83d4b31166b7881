"""Trained models as GGUF files: what is lost on the way, and what llama.cpp itself makes of them."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, quants

from studyctl.compress.walk.walker import compress
from studyctl.contract.methods import AWQ, GPTQ, RTN, Dense, MethodSettings, Quantization
from studyctl.export.gguf.file import write_gguf
from studyctl.llama import LlamaModel
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import LoadedModel, load_model
from studyctl.spec.models import Model
from tests.thorough import THOROUGH

pytestmark = pytest.mark.real
MODELS = ("slm-qwen2-6m", "slm-llama-12m")
LANGUAGES = ("ar", "de", "en", "es", "ru", "sw", "zh")
LINES = 60
WINDOW, WINDOWS = 128, 4
GRIDS = [
    RTN(bits=bits, group_size=group, symmetric=symmetric)
    for bits in (2, 3, 4, 5, 8)
    for group in (32, 64, 0)
    for symmetric in (True, False)
    if symmetric or bits < 8
]
SOME: list[Quantization] = [
    RTN(bits=4, group_size=32, symmetric=True),
    RTN(bits=5, group_size=64, symmetric=False),
    GPTQ(bits=4, group_size=32, symmetric=True),
    GPTQ(bits=3, group_size=64),
    AWQ(bits=4, group_size=32),
]


def load(real: Path, name: str, dtype: str = "bfloat16") -> LoadedModel:
    return load_model(identify_model(Model(id=str(real / "models" / name)), real), dtype=dtype, device="cpu")


def lines(real: Path, language: str) -> list[str]:
    rows = (real / "corpus" / language / "test.jsonl").read_text("utf-8").splitlines()[:LINES]
    return [json.loads(row)["text"] for row in rows]


def windows(real: Path, model: LoadedModel, language: str) -> torch.Tensor:
    ids = model.tokenizer("\n".join(lines(real, language)))["input_ids"]
    return torch.tensor(ids[: WINDOW * WINDOWS]).reshape(WINDOWS, WINDOW)


def compressed_in(
    model: LoadedModel, settings: MethodSettings, ids: torch.Tensor, path: Path
) -> tuple[int, int, int]:
    """Compress and write; return how many numbers fp16 rounded, of how many, and how many weights differ."""
    made = compress(
        model.model,
        settings,
        ids if settings.needs_data else None,
        batch_tokens=1024,
        reporter=SilentReporter(),
    )
    file = write_gguf(model, made, path, name="x", embeddings=None, reporter=SilentReporter())
    return file.inexact, file.numbers, file.differing


def divergence(expected: torch.Tensor, seen: torch.Tensor) -> float:
    p, q = (logits.double().log_softmax(-1) for logits in (expected, seen))
    return float((p.exp() * (p - q)).sum(-1).mean())


def of_the_file(model: LoadedModel, path: Path) -> torch.nn.Module:
    """Return the model in float32 with the weights of the file."""
    plain = deepcopy(model.model).float()
    by_target = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    heads = {"attn_q": plain.config.num_attention_heads, "attn_k": plain.config.num_key_value_heads}
    places = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    with torch.no_grad():
        for block in range(plain.config.num_hidden_layers):
            for part, place in places.items():
                tensor = by_target[f"blk.{block}.{part}.weight"]
                values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type).copy())
                if plain.config.model_type == "llama" and part in heads:
                    pairs = values.reshape(heads[part], -1, 2, values.shape[1])
                    values = pairs.swapaxes(1, 2).reshape(values.shape)
                plain.get_submodule(f"model.layers.{block}.{place}").weight.copy_(values)
    return plain


@pytest.mark.parametrize("settings", GRIDS if THOROUGH else SOME, ids=lambda one: str(one.method))
@pytest.mark.parametrize("name", MODELS)
def test_what_is_lost_in_a_file(name: str, settings: Quantization, real: Path, tmp_path: Path) -> None:
    model = load(real, name)
    ids = windows(real, model, "en")
    inexact, numbers, differing = compressed_in(model, settings, ids, tmp_path / "x.gguf")
    if settings.symmetric:
        assert (inexact, differing) == (0, 0)
        return
    # A minimum of 5 bits has up to 13 significant bits, two more than fp16.
    assert inexact <= (0.015 if settings.bits <= 4 else 0.15) * numbers
    with torch.no_grad():
        measured, written = (
            one(ids).logits
            for one in (deepcopy(model.model).float(), of_the_file(model, tmp_path / "x.gguf"))
        )
    assert divergence(measured, written) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_token_ids_in_seven_languages(name: str, real: Path, tmp_path: Path, llama: Path) -> None:
    model = load(real, name)
    write_gguf(model, None, tmp_path / "x.gguf", name="x", embeddings=None, reporter=SilentReporter())
    file = LlamaModel(llama, tmp_path / "x.gguf")
    try:
        compared = 0
        for language in LANGUAGES:
            for line in lines(real, language):
                assert file.tokenize(line) == model.tokenizer(line, add_special_tokens=False)["input_ids"], (
                    line
                )
                compared += 1
        assert compared == 420
    finally:
        file.close()


@pytest.mark.parametrize(
    ("settings", "dtype", "bound"),
    [(Dense(), "float32", 1e-6), (RTN(bits=4, group_size=32, symmetric=True), "bfloat16", 2e-4)],
    ids=["dense", "Q4_0"],
)
def test_llama_cpp_computes_the_file(
    settings: MethodSettings, dtype: str, bound: float, real: Path, tmp_path: Path, llama: Path
) -> None:
    model = load(real, "slm-llama-12m", dtype)
    ids = windows(real, model, "en")
    compressed_in(model, settings, ids, tmp_path / "x.gguf")
    plain = of_the_file(model, tmp_path / "x.gguf")
    file = LlamaModel(llama, tmp_path / "x.gguf")
    try:
        for window in ids:
            with torch.no_grad():
                expected = plain(window[None]).logits[0]
            seen = torch.from_numpy(file.logits(window.tolist()))
            assert divergence(expected, seen) <= bound
    finally:
        file.close()
