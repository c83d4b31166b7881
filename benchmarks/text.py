"""Perplexity and fidelity of a text against the plain way: a forward of each model with all logits, and sums over those.

Each measurement is a process of its own, since peak memory is one of a process.
"""

import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.page import note, table
from benchmarks.timing import Timing, in_turns

CONFIG = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
"""Qwen2-0.5B's."""
WINDOWS, TOKENS = 1, 2048
ROUNDS = 2
TIME_GOAL, MEMORY_GOAL = 1.6, 0.25


def main() -> None:
    with TemporaryDirectory() as folder:
        _measure("dense", folder)  # its hidden states, which a study has from the dense trial
        measured: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}

        def case(kind: str) -> float:
            measured[kind].append(_measure(kind, folder))
            return measured[kind][-1]["seconds"]

        timings = in_turns({kind: partial(case, kind) for kind in measured}, ROUNDS)
    rows = [_row(kind, timings[kind], measured[kind]) for kind in measured]
    table(("way", "seconds", "peak beside the models", "KL, nats", "top-1", "perplexity"), rows)
    faster = timings["plain"].median / timings["ours"].median
    memory = measured["ours"][0]["peak"] / measured["plain"][0]["peak"]
    note(
        f"{faster:.2f} times faster (goal {TIME_GOAL:g}), {memory:.2f} of the memory (goal {MEMORY_GOAL:g}); random model"
        f" of Qwen2-0.5B's shape, fp32, {WINDOWS} × {TOKENS} tokens, {ROUNDS} rounds in turns"
    )


def _row(kind: str, timing: Timing, measured: list[dict[str, float]]) -> tuple[str, ...]:
    last = measured[-1]
    return (
        kind,
        str(timing),
        f"{last['peak'] / (1 << 20):,.0f} MiB",
        f"{last['kl']:.6f}",
        f"{last['top1']:.3f}",
        f"{last['perplexity']:.3f}",
    )


def _measure(kind: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.text", kind, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _models() -> tuple[Any, Any]:
    """Return a random model, and one that differs from it a little."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    models = []
    for scale in (0.0, 0.002):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**CONFIG)).eval()
        for layer in model.model.layers:
            weight = layer.mlp.down_proj.weight.data
            weight += torch.randn_like(weight) * scale
        models.append(model)
    return models[0], models[1]


def _worker(kind: str, folder: Path) -> dict[str, float]:
    import numpy as np
    import torch

    from studyctl.evaluate.text.reference import open_reference
    from studyctl.evaluate.text.score import score_windows
    from studyctl.evaluate.text.windows import Windows
    from studyctl.reporter import SilentReporter
    from studyctl.work.memory import peak_bytes, reset_peak

    ids = np.random.default_rng(0).integers(0, CONFIG["vocab_size"], (WINDOWS, TOKENS)).astype(np.int32)
    sizes = np.full(WINDOWS, 4 * (TOKENS - 1))
    windows = Windows(ids, np.arange(WINDOWS), sizes, sizes, np.zeros(WINDOWS, np.int64), bos=False)
    dense, other = _models()
    reset_peak()
    before = peak_bytes()
    begun = time.perf_counter()
    if kind == "plain":
        figures = _plainly(dense, other, torch.from_numpy(ids).long())
    else:
        scores = score_windows(
            dense if kind == "dense" else other,
            windows,
            language="",
            reference=open_reference(folder / "dense") if kind == "ours" else None,
            keep=folder / "dense" if kind == "dense" else None,
            metrics=("kl", "top1"),
            batch_tokens=TOKENS,
            reporter=SilentReporter(),
        )
        tokens = len(windows) * windows.scored_tokens
        nll = sum(window.nll_nats or 0 for window in scores.windows)
        figures = {"perplexity": math.exp(nll / tokens)}
        if kind == "ours":
            figures["kl"] = sum(window.kl_nats or 0 for window in scores.windows) / tokens
            figures["top1"] = sum(window.top1 or 0 for window in scores.windows) / tokens
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak": peak_bytes() - before, **figures}


def _plainly(dense: Any, other: Any, ids: Any) -> dict[str, float]:
    import torch

    kl, nll, same = [], [], []
    with torch.no_grad():
        for window in ids:
            log_p = dense(window[None]).logits[0, :-1].float().log_softmax(-1)
            log_q = other(window[None]).logits[0, :-1].float().log_softmax(-1)
            nll.append(-log_q.gather(1, window[1:, None])[:, 0])
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
            same.append(log_p.argmax(-1) == log_q.argmax(-1))
    kl_nats, nll_nats, top1 = (float(torch.cat(values).double().mean()) for values in (kl, nll, same))
    return {"kl": kl_nats, "perplexity": math.exp(nll_nats), "top1": top1}


if __name__ == "__main__":
    print(json.dumps(_worker(sys.argv[1], Path(sys.argv[2]))))
