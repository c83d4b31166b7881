"""Where compressing spends its time, and how much of it is matrix products; then each method beside its plain definition."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.page import note, table

if TYPE_CHECKING:
    import torch

    from studyctl.contract.methods import MethodSettings

REAL = Path(os.environ.get("STUDYCTL_REAL", Path(__file__).parents[2] / "shared" / "real"))
REAL_MODELS = ("slm-llama-12m", "slm-qwen2-6m")
REAL_SAMPLES = 8
THREADS = 2
TOKENS = 2048
"""Of a sample; also what passes through a block at once."""
GOAL = 0.5
HEADER = (
    "model",
    "method",
    "seconds",
    "passes",
    "statistics",
    "search, sweep",
    "writing",
    "rest",
    "products",
    "with factorisations",
    "GFLOP/s",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One random llama block."""

    hidden: int
    samples: int
    ratios: int
    """Candidates of AWQ's search: all of them take minutes where matrices are large, in proportion to their number."""

    @property
    def label(self) -> str:
        """Return what rows are called."""
        return f"hidden {self.hidden}, {self.samples} × {TOKENS} tokens"

    @property
    def intermediate(self) -> int:
        """Return 8/3 of the hidden size in whole groups of 128."""
        return -(-8 * self.hidden // 3 // 128) * 128


SHAPES = (Shape(896, 2, 20), Shape(1536, 2, 4), Shape(2048, 4, 4), Shape(3072, 2, 2))
WARM_UP = Shape(128, 1, 2)


@dataclass(frozen=True, slots=True)
class Case:
    """A model and what it is calibrated with."""

    label: str
    model: Any
    ids: "torch.Tensor"
    ratios: int
    group_size: int


def main() -> None:
    import torch

    from benchmarks import definitions

    torch.set_num_threads(THREADS)
    for _ in _rows(random_case(WARM_UP)):  # compiles the sweeps, fills caches
        pass
    rows = [row for case in _cases() for row in _rows(case)]
    table(HEADER, rows)
    note(
        f"{THREADS} threads, fp32; products: at this machine's rate of a large matrix product, measured beside each row (last "
        f"column), they alone would take this share; goal: over {GOAL:.0%} for gptq and sparsegpt at hidden 2048. "
        "In brackets: candidates of awq's search, 20 by default."
    )
    definitions.main()


def _methods(ratios: int, group_size: int) -> list["MethodSettings"]:
    from studyctl.contract.methods import AWQ, GPTQ, RTN, Magnitude, SparseGPT, Wanda

    return [
        Magnitude(sparsity=0.5),
        Wanda(sparsity=0.5),
        SparseGPT(sparsity=0.5),
        RTN(group_size=group_size),
        GPTQ(group_size=group_size),
        AWQ(group_size=group_size, ratios=ratios),
    ]


def _cases() -> Iterator[Case]:
    for shape in SHAPES:
        yield random_case(shape)
    if REAL.is_dir():
        for name in REAL_MODELS:
            yield _real(name)
    else:
        note(f"no real models at {REAL} (STUDYCTL_REAL moves it): random blocks only")


def random_case(shape: Shape) -> Case:
    """Return a random block of a shape, and its calibration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=1,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=shape.hidden // 64,
        max_position_embeddings=TOKENS,
    )
    ids = torch.randint(config.vocab_size, (shape.samples, TOKENS))
    return Case(shape.label, LlamaForCausalLM(config), ids, shape.ratios, 128)


def _real(name: str) -> Case:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    (file,) = (REAL / "reference").glob(f"{name}-*.npy")
    ids = torch.from_numpy(np.load(file)[:REAL_SAMPLES]).long()
    model = AutoModelForCausalLM.from_pretrained(REAL / "models" / name, dtype=torch.float32)
    return Case(f"{name}, {ids.shape[0]} × {ids.shape[1]} tokens", model, ids, 20, 64)


def _rows(case: Case) -> Iterator[tuple[str, ...]]:
    """Compress a case's model with each method and yield a row."""
    dense = {name: value.clone() for name, value in case.model.state_dict().items()}
    for settings in _methods(case.ratios, case.group_size):
        case.model.load_state_dict(dense)
        yield _row(case, settings)


def _row(case: Case, settings: "MethodSettings") -> tuple[str, ...]:
    from benchmarks.phases import PASSES, SOLVING, STATISTICS, Operations, product_rate, watched
    from studyctl.compress.walk.walker import compress
    from studyctl.compress.weights.stored import save
    from studyctl.reporter import SilentReporter

    before = product_rate()
    with TemporaryDirectory() as folder, watched(settings) as phases, Operations() as operations:
        begun = time.perf_counter()
        done = compress(
            case.model,
            settings,
            case.ids if settings.needs_data else None,
            batch_tokens=TOKENS,
            reporter=SilentReporter(),
        )
        compressed = time.perf_counter()
        save(Path(folder) / "weights.safetensors", done)
        total, writing = time.perf_counter() - begun, time.perf_counter() - compressed
    rate = max(before, product_rate())
    split = [phases.seconds[phase] for phase in (PASSES, STATISTICS, SOLVING)] + [writing]
    products = [operations.products, operations.products + operations.factorisations]
    label = f"{settings.method}" + (f" ({case.ratios})" if settings.method == "awq" else "")
    return (
        case.label,
        label,
        f"{total:.2f}",
        *(f"{part / total:.0%}" for part in (*split, total - sum(split))),
        *(f"{work / rate / total:.0%}" for work in products),
        f"{rate / 1e9:.0f}",
    )
