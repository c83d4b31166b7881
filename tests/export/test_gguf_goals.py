"""Trained models in llama.cpp's types: GPTQ's error feedback against llama.cpp's own files with an importance matrix, at equal bytes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed
from studyctl.contract.methods import Gguf, GPTQOnGguf, OnGguf
from studyctl.export.gguf.file import write_gguf
from studyctl.llama import LlamaModel
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import LoadedModel, load_model
from studyctl.spec.models import Model
from tests.thorough import THOROUGH

pytestmark = [pytest.mark.real, pytest.mark.slow]
CALIBRATED, OTHERS = ("en", "de", "zh", "sw"), ("ar", "es", "ru")
LENGTH, SAMPLES, WINDOWS = 256, 8, 4
MOST = {"IQ4_XS": 0.40, "Q4_0": 0.40, "Q4_K_M": 0.40, "Q5_K_M": 0.45, "Q8_0": 0.50}
"""Mean KL in calibrated languages, as a fraction of that of llama.cpp's file with an importance matrix."""
MOST_OF_ONE, MOST_OF_OTHERS, MOST_BY_LLAMA = 0.5, 0.68, 0.45
SHORT = pytest.mark.xfail(
    reason="0.72 in languages without calibration text, at a KL of 0.00003: damping of 0.1 or 0.5 does not change it",
    strict=True,
)
CASES: list[Any] = [("slm-qwen2-6m", "Q4_0")]
if THOROUGH:
    CASES += [
        pytest.param(name, preset, marks=SHORT)
        if (name, preset) == ("slm-llama-12m", "Q8_0")
        else (name, preset)
        for name in ("slm-qwen2-6m", "slm-llama-12m")
        for preset in MOST
        if (name, preset) not in CASES
    ]


def load(real: Path, name: str) -> LoadedModel:
    return load_model(
        identify_model(Model(id=str(real / "models" / name)), real), dtype="float32", device="cpu"
    )


def ids_of(real: Path, model: LoadedModel, language: str, part: str, windows: int) -> torch.Tensor:
    rows = (real / "corpus" / language / f"{part}.jsonl").read_text("utf-8").splitlines()[:300]
    ids = model.tokenizer("\n".join(json.loads(row)["text"] for row in rows))["input_ids"]
    return torch.tensor(ids[: windows * LENGTH]).reshape(windows, LENGTH)


@torch.no_grad()
def divergences(
    model: LoadedModel, dense: dict[str, torch.Tensor], texts: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return KL(dense || model) of each language, mean over tokens."""
    result = {}
    for language, expected in dense.items():
        seen = model.model(texts[language]).logits.log_softmax(-1)
        result[language] = float((expected.exp() * (expected - seen)).sum(-1).mean())
    return result


@contextmanager
def variant(model: LoadedModel, settings: OnGguf, ids: torch.Tensor) -> Iterator[Compressed]:
    """Compress a model for a while."""
    state = {name: value.clone() for name, value in model.model.state_dict().items()}
    try:
        yield compress(model.model, settings, ids, batch_tokens=2048, reporter=SilentReporter())
    finally:
        model.model.load_state_dict(state)


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_feedback_loses_much_less_than_llama_cpps_file_of_the_same_bytes(
    name: str, preset: str, real: Path, llama: Path, tmp_path: Path
) -> None:
    model = load(real, name)
    ids = torch.cat([ids_of(real, model, language, "train", SAMPLES) for language in CALIBRATED])
    texts = {language: ids_of(real, model, language, "test", WINDOWS) for language in (*CALIBRATED, *OTHERS)}
    with torch.no_grad():
        dense = {language: model.model(text).logits.log_softmax(-1) for language, text in texts.items()}
    with variant(model, Gguf(type=preset, imatrix="calibration"), ids) as made:
        theirs = divergences(model, dense, texts)
        bytes_of_theirs = {
            name: linear.blocks.data.numel() for name, linear in made.linears.items() if linear.blocks
        }
    with variant(model, GPTQOnGguf(grid=f"gguf:{preset}"), ids) as made:
        ours = divergences(model, dense, texts)
        assert {
            n: linear.blocks.data.numel() for n, linear in made.linears.items() if linear.blocks
        } == bytes_of_theirs
        file = write_gguf(
            model, made, tmp_path / "ours.gguf", name="ours", embeddings=None, reporter=SilentReporter()
        )
        assert file.differing == 0
    ratio = mean(ours, CALIBRATED) / mean(theirs, CALIBRATED)
    assert ratio <= MOST[preset]
    assert max(ours[language] / theirs[language] for language in CALIBRATED) <= MOST_OF_ONE
    assert mean(ours, OTHERS) / mean(theirs, OTHERS) <= MOST_OF_OTHERS
    if (name, preset) == ("slm-qwen2-6m", "Q4_0"):
        with variant(model, Gguf(type="Q4_K_M", imatrix="calibration"), ids):
            assert mean(ours, CALIBRATED) < mean(divergences(model, dense, texts), CALIBRATED)
        by_llama = run_by_llama(llama, tmp_path / "ours.gguf", texts, dense)
        assert by_llama / mean(theirs, CALIBRATED) <= MOST_BY_LLAMA


def run_by_llama(
    llama: Path, file: Path, texts: dict[str, torch.Tensor], dense: dict[str, torch.Tensor]
) -> float:
    """Return KL(dense || llama.cpp on the file), mean over the calibrated languages' first windows."""
    loaded = LlamaModel(llama, file)
    try:
        values = []
        for language in CALIBRATED:
            seen = torch.from_numpy(loaded.logits(texts[language][0].tolist())).log_softmax(-1)
            expected = dense[language][0]
            values.append(float((expected.exp() * (expected - seen)).sum(-1).mean()))
        return fmean(values)
    finally:
        loaded.close()


def mean(values: dict[str, float], languages: tuple[str, ...]) -> float:
    return fmean(values[language] for language in languages)
