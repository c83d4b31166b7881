"""The papers' published loops and lm-eval's scoring on this device, beside ours: the same model, calibration and items, in turns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import published
from benchmarks.gpu.made import Size, random_llama
from benchmarks.page import note, table
from benchmarks.tasks import race
from benchmarks.timing import in_turns, timed
from studyctl.compress.walk.walker import compress
from studyctl.contract.identity import TaskIdentity
from studyctl.contract.limits import block_batch_tokens
from studyctl.contract.methods import GPTQ, SparseGPT
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import load_model
from studyctl.spec.models import Model

BLOCKS = 4
"""Of the model: the published loops take a second or more for each."""
SAMPLES = 32
ROUNDS = 2
BATCHES = (8, 32, 128)
RACES = (
    (SparseGPT(sparsity=0.5), published.sparsegpt(0.5)),
    (GPTQ(bits=4, group_size=64, order="block"), published.gptq(4, 64)),
)


def main(model: Path, texts: Path, size: Size, device: str) -> bool:
    """Print both tables."""
    _methods(size._replace(layers=min(BLOCKS, size.layers), vocabulary=1024), device)
    _tasks(model, texts, size, device)
    return True


def _methods(size: Size, device: str) -> None:
    model = random_llama(size, device)
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(3, size.vocabulary, (min(SAMPLES, size.samples), size.length))
    rows = []
    for settings, _ in RACES:  # loads and compiles what the first call needs
        compress(model, settings, ids[:1], batch_tokens=size.length, reporter=SilentReporter())
    for settings, solve in RACES:

        def ours(settings: Any = settings) -> None:
            batch = block_batch_tokens(device)
            compress(model, settings, ids, batch_tokens=batch, reporter=SilentReporter())

        def loops(solve: Any = solve) -> None:
            published.compress(model, ids, solve)

        def case(work: Callable[[], None]) -> Callable[[], float]:
            def run() -> float:
                model.load_state_dict(dense)
                _settle(device)

                def finished() -> None:
                    work()
                    _settle(device)

                return timed(finished)

            return run

        timings = in_turns({"ours": case(ours), "loops": case(loops)}, ROUNDS)
        ratio = timings["loops"].median / timings["ours"].median
        rows.append((settings.method, str(timings["ours"]), str(timings["loops"]), f"{ratio:.2f} ×"))
    table(("method", "studyctl", "published loop", "faster"), rows)
    note(
        f"{size.layers} blocks of hidden {size.hidden} and {size.intermediate} in bfloat16, "
        f"{len(ids)} × {size.length} tokens; the loops in fp32, a sample at a time"
    )


def _tasks(model: Path, texts: Path, size: Size, device: str) -> None:
    loaded = load_model(identify_model(Model(id=str(model)), Path.cwd()), dtype="bfloat16", device=device)
    task = TaskIdentity("boats", None, yaml=texts / "boats.yaml", test=texts / "boats.jsonl")
    packed, best, difference, tokens = race(loaded, task, size.items, BATCHES)
    table(
        ("tokens HFLM", "packed", "packed scorer", "HFLM, best batch", "faster", "largest difference, nats"),
        [(*tokens, str(packed), str(best), f"{best.median / packed.median:.2f} ×", f"{difference:.1e}")],
    )
    note(f"{size.items} items of four choices in bfloat16; HFLM at the best batch size of {BATCHES}")


def _settle(device: str) -> None:
    """Wait for the device's work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
