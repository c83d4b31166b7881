import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from studyctl.contract.identity import FidelityMetric
from studyctl.contract.kl_counts import RATIO
from studyctl.contract.records import FidelityTotals, TextTotals
from studyctl.contract.steps import ALL_WINDOWS
from studyctl.errors import StepError
from studyctl.evaluate.text import score as text
from studyctl.evaluate.text.reference import DenseReference, open_reference
from studyctl.evaluate.text.score import BatchScores, score_windows
from studyctl.evaluate.text.windows import TokenizedText, Windows, cut_windows
from studyctl.reporter import SilentReporter
from studyctl.store.text_totals import fidelity_totals, text_totals
from studyctl.work.memory import peak_bytes, reset_peak
from tests.evaluate.windows_made import windows_of

ALL: tuple[FidelityMetric, ...] = ("kl", "top1", "snr")
SUMS = ("nll_nats", "kl_nats", "top1", "signal", "noise")
IDS = np.random.default_rng(0).integers(0, 258, (5, 24)).astype(np.int32)
WINDOWS = windows_of(IDS, bytes_each=2)


def score(model: Any, windows: Windows = WINDOWS, **options: Any) -> BatchScores:
    defaults = {"language": "xx", "metrics": ALL, "batch_tokens": 60, "reporter": SilentReporter()}
    return score_windows(model, windows, **(defaults | options))


def keep(model: Any, path: Path, windows: Windows = WINDOWS) -> DenseReference:
    score(model, windows, keep=path)
    reference = open_reference(path)
    assert reference is not None
    return reference


def figures(scores: BatchScores) -> tuple[TextTotals, FidelityTotals | None]:
    """Return the figures that tables show."""
    return text_totals(scores.windows, scores.batch), fidelity_totals(scores.windows, [scores.batch])


def sums(scores: BatchScores, name: str) -> np.ndarray:
    """Return a figure of each window."""
    return np.array([getattr(window, name) for window in scores.windows])


def fidelity_of(scores: BatchScores) -> FidelityTotals:
    fidelity = figures(scores)[1]
    assert fidelity is not None
    return fidelity


class TestByHand:
    """A vocabulary of two: the distribution after token 0, and the one after token 1."""

    WINDOWS = windows_of(np.array([[0, 0, 1], [1, 0, 0]]), bytes_each=2)
    DENSE = ((math.log(0.5), math.log(0.5)), (math.log(0.8), math.log(0.2)))
    OTHER = ((math.log(0.25), math.log(0.75)), (math.log(0.8), math.log(0.2)))

    def test_perplexity_and_bits_per_byte(self, table_model: Callable[..., Any]) -> None:
        scores = score(table_model(self.DENSE), self.WINDOWS)
        # 0 -> 0, 0 -> 1 and 1 -> 0, 0 -> 0
        expected = [-2 * math.log(0.5), -math.log(0.8) - math.log(0.5)]
        assert sums(scores, "nll_nats") == pytest.approx(expected, rel=1e-6)
        total, fidelity = figures(scores)
        assert total.nll_nats == pytest.approx(sum(expected), rel=1e-6)
        assert total.tokens == 4
        assert total.perplexity == pytest.approx((0.5**3 * 0.8) ** (-1 / 4), rel=1e-6)
        assert total.bytes == 12 * 4 // 6
        assert total.bits_per_byte == pytest.approx((3 + math.log2(1 / 0.8)) / 8, rel=1e-6)
        assert fidelity is None

    def test_fidelity(self, table_model: Callable[..., Any], tmp_path: Path) -> None:
        reference = keep(table_model(self.DENSE), tmp_path / "dense", self.WINDOWS)
        scores = score(table_model(self.OTHER), self.WINDOWS, reference=reference)
        # After token 0, which is what two positions of the first window and one of the second follow.
        kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
        assert sums(scores, "kl_nats") == pytest.approx([2 * kl, kl], rel=1e-5)
        # After token 0 dense ties, which counts for the first, and the other prefers the second.
        assert sums(scores, "top1").tolist() == [0, 1]
        signal = 2 * (math.log(0.8 / 0.2) / 2) ** 2  # after token 0 both dense logits are equal
        noise = 2 * (math.log(0.75 / 0.25) / 2) ** 2
        assert sums(scores, "signal") == pytest.approx([0, signal], rel=1e-5)
        assert sums(scores, "noise") == pytest.approx([2 * noise, noise], rel=1e-5)
        assert sorted((scores.batch.kl_counts or {}).values()) == [1, 3]

        fidelity = fidelity_of(scores)
        assert fidelity.kl_nats == pytest.approx(kl * 3 / 4, rel=1e-5)
        assert fidelity.kl_p95_nats == pytest.approx(kl, rel=0.02)
        assert fidelity.top1 == 1 / 4
        assert fidelity.snr_db == pytest.approx(10 * math.log10(signal / (3 * noise)), rel=1e-5)
        assert fidelity.tokens == 4


@dataclass
class Full:
    """Sums of each window, and the KL of each token, from the logits of all windows at once."""

    nll_nats: np.ndarray
    kl_nats: np.ndarray
    top1: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    kl: np.ndarray

    def fidelity(self) -> dict[str, float]:
        return {
            "kl_nats": float(self.kl.mean()),
            "top1": self.top1.sum() / self.kl.size,
            "snr_db": float(10 * np.log10(self.signal.sum() / self.noise.sum())),
            "tokens": self.kl.size,
        }


@torch.no_grad()
def by_full_logits(model: Any, dense: Any, windows: Windows = WINDOWS) -> Full:
    """Compute the same in fp64 from the models' own logits."""
    ids = torch.from_numpy(windows.ids).long()
    q, p = (one(ids).logits[:, :-1].double() for one in (model, dense))
    log_q, log_p = q.log_softmax(-1), p.log_softmax(-1)
    nll = -log_q.gather(-1, ids[:, 1:, None])[..., 0].sum(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    energies = [((x - x.mean(-1, keepdim=True)) ** 2).sum((1, 2)) for x in (p, p - q)]
    same = (p.argmax(-1) == q.argmax(-1)).sum(1)
    return Full(*(one.numpy() for one in (nll, kl.sum(1), same, *energies, kl)))


def assert_fidelity(scores: BatchScores, expected: Full, rel: float) -> None:
    fidelity = fidelity_of(scores)
    assert {name: getattr(fidelity, name) for name in expected.fidelity()} == pytest.approx(
        expected.fidelity(), rel=rel
    )
    p95 = np.quantile(expected.kl, 0.95, method="lower")
    assert fidelity.kl_p95_nats == pytest.approx(p95, rel=0.02 + rel)


def perturbed(model: Any, amount: float = 0.05) -> Any:
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers" in name:
                weight += amount * weight.std(correction=0) * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "granite"])
def test_scores_are_those_of_the_full_logits(tiny: Callable[..., Any], family: str, tmp_path: Path) -> None:
    dense, model = tiny(family), perturbed(tiny(family))
    scores = score(model, reference=keep(dense, tmp_path / "dense"))
    expected = by_full_logits(model, dense)
    np.testing.assert_allclose(sums(scores, "nll_nats"), expected.nll_nats, rtol=1e-6)
    for name in SUMS:
        np.testing.assert_allclose(sums(scores, name), getattr(expected, name), rtol=1e-4, err_msg=name)
    assert_fidelity(scores, expected, rel=1e-4)
    assert 1e-3 < expected.fidelity()["kl_nats"] < 1


def test_another_head_than_the_dense_models_is_taken_into_account(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    dense, model = tiny("llama"), tiny("llama")
    with torch.no_grad():
        model.lm_head.weight *= 1.3
    scores = score(model, reference=keep(dense, tmp_path / "dense"))
    assert_fidelity(scores, by_full_logits(model, dense), rel=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_is_at_no_distance_from_itself(
    tiny: Callable[..., Any], family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny(family, dtype=dtype)
    fidelity = fidelity_of(score(model, reference=keep(model, tmp_path / "dense")))
    assert (fidelity.kl_nats, fidelity.kl_p95_nats, fidelity.top1, fidelity.snr_db) == (0.0, 0.0, 1.0, None)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("batch_tokens", [1, 60, 1000])
def test_chunks_and_batches_do_not_change_scores(
    tiny: Callable[..., Any], chunk: int, batch_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, model = keep(tiny("gemma2"), tmp_path / "dense"), perturbed(tiny("gemma2"))
    expected = score(model, reference=reference)
    monkeypatch.setattr(text, "chunk_tokens", lambda vocabulary, device: chunk)
    scores = score(model, reference=reference, batch_tokens=batch_tokens)
    np.testing.assert_allclose(sums(scores, "nll_nats"), sums(expected, "nll_nats"), rtol=1e-6)
    for name in ("kl_nats", "top1", "snr_db", "tokens"):
        value, other = (getattr(fidelity_of(one), name) for one in (scores, expected))
        assert value == pytest.approx(other, rel=1e-6, abs=1e-6), name
    p95, other = (fidelity_of(one).kl_p95_nats for one in (scores, expected))
    assert p95 == pytest.approx(other, rel=RATIO - 1 + 1e-6), (
        "a token on the edge of a bin may be in the next one"
    )


def test_the_same_run_gives_the_same_bits(tiny: Callable[..., Any], tmp_path: Path) -> None:
    reference, model = keep(tiny("llama"), tmp_path / "dense"), perturbed(tiny("llama"))
    first, second = (score(model, reference=reference) for _ in range(2))
    assert first == second


def test_only_the_metrics_that_are_asked_for_are_measured(tiny: Callable[..., Any], tmp_path: Path) -> None:
    scores = score(perturbed(tiny()), reference=keep(tiny(), tmp_path / "dense"), metrics=("top1",))
    assert scores.batch.kl_counts is None
    for window in scores.windows:
        assert (window.kl_nats, window.signal, window.noise) == (None, None, None)
    fidelity = fidelity_of(scores)
    assert fidelity.top1 is not None
    assert (fidelity.kl_nats, fidelity.kl_p95_nats, fidelity.snr_db) == (None, None, None)


def test_a_bos_is_context_only(tiny: Callable[..., Any]) -> None:
    ends = np.arange(1, IDS.size + 1)
    tokens = TokenizedText(IDS.ravel(), ends, ends, np.zeros(1, np.int64))
    windows = cut_windows(tokens, 21, ALL_WINDOWS, 256)
    total, _ = figures(score(tiny(), windows))
    assert total.tokens == IDS.size
    assert total.bytes == IDS.size


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor of floats that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_logits_of_a_batch_never_exist_at_once(
    tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = keep(tiny(), tmp_path / "dense")
    monkeypatch.setattr(text, "chunk_tokens", lambda vocabulary, device: 10)
    with LargestTensor() as largest:
        score(tiny(), reference=reference, batch_tokens=IDS.size)
    weights = 258 * 32
    assert largest.elements <= max(10 * 258, weights, IDS.size * 48)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell the peak since a moment"
)
def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "chunk_tokens", lambda vocabulary, device: 64)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    windows = windows_of(np.random.default_rng(0).integers(0, 49_152, (16, 512)))
    reference = keep(model, tmp_path / "dense", windows)
    reset_peak()
    before = peak_bytes()
    score(model, windows, reference=reference, batch_tokens=2048)
    chunk = 64 * 49_152 * 4
    # A few chunks at a time, with what the allocator keeps; all windows' logits would be 128 chunks.
    assert peak_bytes() - before < 24 * chunk


@pytest.mark.parametrize(("vocabulary", "tokens"), [(8_192, 512), (256_000, 256)])
def test_a_chunk_is_bounded_by_its_logits(vocabulary: int, tokens: int) -> None:
    assert text.chunk_tokens(vocabulary, "cpu") == tokens


def test_progress_is_reported_after_every_forward_pass(tiny: Callable[..., Any]) -> None:
    done: list[int] = []
    score(tiny(), done=done.append)
    assert done == [2, 4, 5]


def test_a_stop_between_forward_passes_leaves_no_reference(
    tiny: Callable[..., Any], recorder: Any, tmp_path: Path
) -> None:
    recorder.stop_after = 1

    def done(windows: int) -> None:
        recorder.progress(windows, 5, "window")

    with pytest.raises(KeyboardInterrupt):
        score(tiny(), keep=tmp_path / "dense", reporter=recorder, done=done)
    assert recorder.progressed == [(2, 5, "window")]
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("head-")]


def test_logits_that_are_not_finite_are_an_error(tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight[IDS[3, 5]] = math.nan
    windows = windows_of(np.where(IDS[3, 5] == IDS, 0, IDS))
    windows.ids[3, 5] = IDS[3, 5]
    # The place of the window in the text, not in the batch.
    windows = replace(windows, numbers=np.array([40, 10, 30, 20, 0]))
    with pytest.raises(StepError, match="not finite in window 20"):
        score(model, windows, keep=tmp_path / "dense")
    assert open_reference(tmp_path / "dense") is None


def test_a_reference_of_other_tokens_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    reference = keep(tiny(), tmp_path / "dense")
    with pytest.raises(StepError, match="made with other tokens"):
        score(tiny(), windows_of(IDS[::-1]), reference=reference)


def test_vocabularies_of_different_size_are_refused(table_model: Callable[..., Any], tmp_path: Path) -> None:
    windows = windows_of(np.array([[0, 1, 0]]))
    reference = keep(table_model([[0.0, 1.0], [1.0, 0.0]]), tmp_path / "dense", windows)
    with pytest.raises(StepError, match="3 logits a token, its dense model 2"):
        score(table_model([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), windows, reference=reference)


def tokenized(tokenizer: Any, path: Path) -> TokenizedText:
    whole = "\n".join(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines())
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    bytes_before = np.concatenate([[0], np.cumsum([len(character.encode()) for character in whole])])
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    ids = np.array(encoded["input_ids"], np.int32)
    return TokenizedText(ids, bytes_before[ends], ends, np.zeros(1, np.int64))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "language", "perplexity", "bits_per_byte"),
    [("slm-qwen2-6m", "zh", 297.06, 3.516)],
)
def test_a_trained_models_perplexity_is_the_one_that_its_makers_measured(
    real: Path, name: str, language: str, perplexity: float, bits_per_byte: float
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    read = tokenized(AutoTokenizer.from_pretrained(folder), real / "corpus" / language / "test.jsonl")
    windows = cut_windows(read, 512, ALL_WINDOWS, None)
    total, _ = figures(score(model, windows, batch_tokens=4096))
    assert total.perplexity == pytest.approx(perplexity, rel=1e-3)
    assert total.bits_per_byte == pytest.approx(bits_per_byte, rel=1e-3)
