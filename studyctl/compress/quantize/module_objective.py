"""The objective of AWQ's published code: how far a change of weights changes the output of the whole attention or MLP.

``‖f(x; W) − f(x; W')‖²`` over all calibration tokens, measured by running the module.
"""

import math
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from studyctl.compress.walk.activations import states_of
from studyctl.compress.walk.architectures import Block
from studyctl.compress.weights.compressed import BlockInput, LinearGroup


def module_losses(
    block: BlockInput,
    linears: LinearGroup,
    candidates: list[torch.Tensor],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[float]:
    """Return for each candidate the sum of squared changes of the output of the module that holds the linears.

    It is infinite if the output overflows.

    Args:
        block: with the dense block and its inputs.
        linears: those whose weights change; all others stay dense.
        candidates: scales, each ``[in]``.
        change: returns W' from W in fp32 ``[out, in]`` and a candidate.
    """
    module = module_of(block.block, linears.names)
    # What can absorb a scale is listed for families whose linears are modules.
    modules = [cast("nn.Linear", block.block.linears[name]) for name in linears.names]
    dense = [linear.weight for linear in modules]
    calls = _recorded_calls(block, module)
    losses = []
    try:
        for candidate in candidates:
            for linear, weight in zip(modules, linears.weights, strict=True):
                changed = change(weight.float(), candidate).to(linear.weight.dtype)
                linear.weight = nn.Parameter(changed, requires_grad=False)
            loss = 0.0
            for call in calls:
                args, kwargs, output = call.moved(block.activations.device)
                loss += float((states_of(module(*args, **kwargs)) - output).float().square().sum())
            losses.append(loss if math.isfinite(loss) else math.inf)
    finally:
        for linear, weight in zip(modules, dense, strict=True):
            linear.weight = weight
    return losses


def module_of(block: Block, names: tuple[str, ...]) -> nn.Module:
    """Return the smallest module of the block that holds all of these linears."""
    paths = [name.removeprefix(f"{block.name}.").split(".")[:-1] for name in names]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return block.module.get_submodule(".".join(parts[0] for parts in shared))


class _Call(NamedTuple):
    """The arguments of a module for one chunk of tokens, and its output with dense weights."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: torch.Tensor

    def moved(self, device: torch.device) -> "_Call":
        """Return the call with its tensors (those not nested) on a device."""

        def move(value: Any) -> Any:
            return value.to(device) if isinstance(value, torch.Tensor) else value

        kwargs = {name: move(value) for name, value in self.kwargs.items()}
        return _Call(tuple(map(move, self.args)), kwargs, move(self.output))


def _recorded_calls(block: BlockInput, module: nn.Module) -> list[_Call]:
    """Run the block on all chunks and return the module's calls; their tensors are kept where the activations are."""
    calls: list[_Call] = []
    activations = block.activations

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(_Call(args, kwargs, states_of(output)).moved(activations.home))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        for chunk in range(len(activations.hidden)):
            block.reporter.check_stop()
            activations.forward(block.block, chunk)
    finally:
        handle.remove()
    return calls
