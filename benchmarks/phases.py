"""Where a walk spends its time, and how much of it is matrix products: seen from outside. Imports torch.

The walker and the methods are wrapped while a measurement lasts; nothing in ``studyctl`` knows of it.
"""

import importlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from studyctl.compress.walk import walker
from studyctl.compress.walk.activations import Activations
from studyctl.compress.walk.statistics import Accumulator
from studyctl.contract.methods import MethodSettings, method_of

PASSES = "forward passes"
STATISTICS = "statistics"
SOLVING = "search, sweep"
PRODUCT_SIZE = 2048


class Phases:
    """Seconds of each phase, without those of the phases inside of it; what a search calls belongs to the search."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def wrapped(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return a function that does the same and is timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if SOLVING in self._inside:
                return function(*args, **kwargs)
            self._switch()
            self._inside.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._inside.pop()

        return call


@contextmanager
def watched(settings: MethodSettings) -> Iterator[Phases]:
    """Time the phases of walks with these settings."""
    phases, method = Phases(), method_of(settings)
    targets = [
        (Activations, "forward", PASSES),
        (walker, "record_activations", PASSES),
        (Accumulator, "add", STATISTICS),
        (Accumulator, "finish", STATISTICS),
    ]
    for target in (method.prepare, method.target):
        if target is not None:
            module, _, name = target.partition(":")
            targets.append((importlib.import_module(module), name, SOLVING))
    with ExitStack() as stack:
        for owner, name, phase in targets:
            stack.enter_context(patch.object(owner, name, phases.wrapped(getattr(owner, name), phase)))
        yield phases


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating point operations of matrix products, and of factorisations beside them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = 0.0
        self.factorisations = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do the operation and count it."""
        name = func.overloadpacket.__name__.rstrip("_")  # in place or not
        if name in ("mm", "bmm"):
            self.products += 2.0 * args[0].numel() * args[1].shape[-1]
        elif name in ("addmm", "baddbmm"):
            self.products += 2.0 * args[1].numel() * args[2].shape[-1]
        elif name.startswith("_scaled_dot_product"):
            self.products += _attention(args, kwargs or {})
        elif name == "linalg_cholesky_ex":
            self.factorisations += len(args[0]) ** 3 / 3
        return func(*args, **(kwargs or {}))


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Return operations of queries with keys, and of what comes of it with values; a causal mask leaves out half."""
    query, key, value = args[:3]
    is_causal = kwargs.get("is_causal", len(args) > 4 and args[4] is True)
    products: float = 2.0 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return products / 2 if is_causal else products


def product_rate(seconds: float = 0.2) -> float:
    """Return floating point operations a second of a large matrix product in fp32, the best of some."""
    left, right = torch.randn(2, PRODUCT_SIZE, PRODUCT_SIZE)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - begun)
    return 2 * PRODUCT_SIZE**3 / best
