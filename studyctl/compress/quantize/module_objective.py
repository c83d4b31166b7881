"""The error that a change of weights makes in the output of the whole attention or MLP, measured by running it.

This is the objective of AWQ's published code: ``‖f(x; W) − f(x; W')‖²`` over all calibration tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.activations import states_of
from studyctl.compress.walk.architectures import Block
from studyctl.compress.weights.compressed import BlockInput, StageInput


def module_losses(
    block: BlockInput,
    stage: StageInput,
    candidates: list[torch.Tensor],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[float]:
    """Return for each candidate the sum of squared changes of the output of the module that holds the stage's linears.

    Args:
        block: with the dense block and its inputs.
        stage: whose weights change; all others stay dense.
        candidates: scales, each ``[in]``.
        change: returns W' from W in fp32 ``[out, in]`` and a candidate.
    """
    module = module_of(block.block, stage.names)
    linears = [block.block.linears[name] for name in stage.names]
    calls = list(_recorded_calls(block, module))
    losses = []
    for candidate in candidates:
        changed = [change(weight.float(), candidate) for weight in stage.weights]
        with _with_weights(linears, changed):
            squares = (float((call.run(module) - call.dense()).float().square().sum()) for call in calls)
            losses.append(sum(squares))
    return losses


def module_of(block: Block, names: tuple[str, ...]) -> nn.Module:
    """Return the smallest module of the block that holds all of these linears."""
    paths = [name.removeprefix(f"{block.name}.").split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return block.module.get_submodule(".".join(shared))


@dataclass(frozen=True)
class _Call:
    """A module's call for one chunk of tokens; its large tensors wait where the activations are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: torch.Tensor
    device: torch.device

    def run(self, module: nn.Module) -> torch.Tensor:
        """Return the module's output for these inputs."""
        args = [_moved(value, self.device) for value in self.args]
        kwargs = {name: _moved(value, self.device) for name, value in self.kwargs.items()}
        return states_of(module(*args, **kwargs))

    def dense(self) -> torch.Tensor:
        """Return what the dense module made of them."""
        return self.output.to(self.device)


def _recorded_calls(block: BlockInput, module: nn.Module) -> Iterator[_Call]:
    """Run the block on all chunks and yield how the module is called."""
    found: list[_Call] = []
    activations = block.activations
    home = activations.hidden[0].device

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kept = {name: _moved(value, home) for name, value in kwargs.items()}
        arguments = tuple(_moved(value, home) for value in args)
        found.append(_Call(arguments, kept, states_of(output).to(home), activations.device))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        for chunk in range(len(activations.hidden)):
            block.reporter.check_stop()
            activations.forward(block.block, chunk)
            yield found.pop()
    finally:
        handle.remove()


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


@contextmanager
def _with_weights(linears: list[nn.Linear], weights: list[torch.Tensor]) -> Iterator[None]:
    own = [linear.weight.data for linear in linears]
    try:
        for linear, weight in zip(linears, weights, strict=True):
            linear.weight.data = weight.to(linear.weight.dtype)
        yield
    finally:
        for linear, weight in zip(linears, own, strict=True):
            linear.weight.data = weight
