"""What computes fast beside the plain torch that defines it, in turns. A part of the benchmark ``compression``; imports torch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.page import note, table
from benchmarks.phases import SOLVING, watched
from benchmarks.timing import in_turns, timed
from studyctl.compress.prune import sparsegpt
from studyctl.compress.prune.wanda import mask
from studyctl.compress.quantize import gptq
from studyctl.compress.sweep.columns import (
    prune_block,
    prune_block_plainly,
    quantize_block,
    quantize_block_plainly,
)
from studyctl.compress.walk.statistics import Accumulator
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import LinearGroup
from studyctl.contract.methods import AWQ, GPTQ, SparseGPT, Wanda
from studyctl.reporter import SilentReporter

ROUNDS = 3
HIDDEN = 2048
ROWS = 3 * HIDDEN
"""Of queries, keys and values, which are swept together."""
BLOCK = 128
INTERMEDIATE = 5632
TOKENS = 2048
AWQ_HIDDEN = 512
AWQ_SAMPLES = 2
"""The block objective takes as long as there are samples, 128 in the paper; the linear one does not look at them."""

Pair = tuple[Callable[[], float], Callable[[], float]]
"""Ours and the plain definition, each of which returns its seconds."""


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    rows = []
    for label, (ours, plain) in _pairs():
        ours()  # compiles
        timings = in_turns({"ours": ours, "plain": plain}, ROUNDS)
        ratio = timings["ours"].median / timings["plain"].median
        rows.append((label, str(timings["ours"]), str(timings["plain"]), f"{ratio:.3f} ×"))
    table(("beside its definition", "ours, median (extremes)", "plain torch", "ratio"), rows)
    note(f"{ROUNDS} rounds in turns, {torch.get_num_threads()} threads, fp32")


def _pairs() -> Iterator[tuple[str, Pair]]:
    block = f"{ROWS} × {BLOCK}"
    weights, root = torch.randn(ROWS, BLOCK), _root(BLOCK)
    grids = torch.full((ROWS, 1), 0.4), torch.full((ROWS, 1), 8.0), torch.zeros(BLOCK, dtype=torch.int64)
    half = torch.rand(ROWS, BLOCK) < 0.5
    quantizing = (weights, root, *grids, 15, None)
    yield f"sweep of a block, quantizing, {block}", _both(quantize_block, quantize_block_plainly, *quantizing)
    yield (
        f"sweep of a block, pruning half, {block}",
        _both(prune_block, prune_block_plainly, weights, root, half, None),
    )
    yield (
        f"sweep of a block, pruning 2:4, {block}",
        _both(prune_block, prune_block_plainly, weights, root, None, (2, 4)),
    )
    linears = _linear_group()
    yield (
        f"gptq, linear group of {ROWS} × {HIDDEN}",
        _sweeps(gptq, "quantize_block", quantize_block_plainly, linears, GPTQ()),
    )
    sparse = SparseGPT(sparsity=0.5)
    yield (
        f"sparsegpt, linear group of {ROWS} × {HIDDEN}",
        _sweeps(sparsegpt, "prune_block", prune_block_plainly, linears, sparse),
    )
    inputs = torch.randn(TOKENS, INTERMEDIATE)
    yield f"Hessian of {TOKENS} × {INTERMEDIATE}", _both(_hessian, _full_product, inputs)
    scored = torch.randn(HIDDEN, INTERMEDIATE), inputs.norm(dim=0)
    yield (
        f"wanda's mask of {HIDDEN} × {INTERMEDIATE}",
        _both(partial(mask, settings=Wanda(sparsity=0.5)), _sorted, *scored),
    )
    search = f"awq's search, hidden {AWQ_HIDDEN}, {AWQ_SAMPLES * TOKENS} tokens: linear beside block"
    yield search, (partial(_searching, "linear"), partial(_searching, "block"))


def _both(ours: Callable[..., object], plain: Callable[..., object], *args: Any) -> Pair:
    return partial(timed, partial(ours, *args)), partial(timed, partial(plain, *args))


def _root(size: int) -> torch.Tensor:
    """Return a triangle like that of an inverse Hessian: errors that are passed on neither grow nor vanish."""
    root: torch.Tensor = torch.eye(size) + 0.3 / size**0.5 * torch.randn(size, size).triu(1)
    return root


def _linear_group() -> LinearGroup:
    accumulator = Accumulator(frozenset({"hessian"}), 2 * TOKENS)
    accumulator.add(torch.randn(2, TOKENS, HIDDEN))
    weights = tuple(torch.randn(HIDDEN, HIDDEN) for _ in range(3))
    return LinearGroup(("q", "k", "v"), weights, accumulator.finish(), dtype=torch.float32)


def _sweeps(module: Any, name: str, plain: object, linears: LinearGroup, settings: object) -> Pair:
    """Return a linear group's compression as it is, and with the plain sweep in the place of the compiled one."""
    run = partial(timed, partial(module.compress_linears, linears, settings))

    def run_plainly() -> float:
        with patch.object(module, name, plain):
            return run()

    return run, run_plainly


def _hessian(inputs: torch.Tensor) -> torch.Tensor | None:
    accumulator = Accumulator(frozenset({"hessian"}), len(inputs))
    accumulator.add(inputs)
    return accumulator.finish().hessian


def _full_product(inputs: torch.Tensor) -> torch.Tensor:
    return 2 * (inputs.T @ inputs)


def _sorted(weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    order = (weight.abs() * norm).sort(dim=1, stable=True).indices
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order[:, : weight.shape[1] // 2], True)


def _searching(objective: str) -> float:
    """Return the seconds of AWQ's search and clipping in a block."""
    from benchmarks.compression import Shape, random_case

    case = random_case(Shape(AWQ_HIDDEN, AWQ_SAMPLES, 20))
    settings = AWQ.model_validate({"objective": objective})
    with watched(settings) as phases:
        compress(case.model, settings, case.ids, batch_tokens=TOKENS, reporter=SilentReporter())
    return phases.seconds[SOLVING]
