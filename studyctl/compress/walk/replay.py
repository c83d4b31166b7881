"""Modules of a block that need not run again: their output is known from the pass that measured their last linear.

With ``order = "stage"`` tokens pass through a block once for every linear group, and a pass differs from the one before only after
the group that was compressed last. Attention ends in a linear, its output projection. That linear's input is kept from the pass that
measured it; once the linear is compressed, its output is computed from it and used in later passes: tokens pass through attention
once. The MLP ends in a linear too. Its input is several times as wide, and only one pass follows, which computes the next block's
inputs: it is kept for as many tokens as :data:`KEPT_BYTES` allows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from studyctl.compress.walk.architectures import Block, LinearModules

KEPT_BYTES = 48 << 20
"""At most so much is kept of the inputs of an MLP's last linear. They are 2.5 to 8 times as wide as a block's inputs: all of them
would often take more memory than everything else together."""
WIDE = 2
"""Inputs of so many times the block's width are an MLP's: a shared expert's, if other linears come after it."""


class PassEnded(Exception):
    """Ends a forward pass early: the rest of it is not needed."""


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward by a function for a while; the module keeps its attributes."""
    previous = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


def copied_to(states: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a contiguous copy on a device. A copy from a GPU to the host is pinned: copying it back is several times as fast."""
    pin = states.is_cuda and device.type == "cpu"
    return torch.empty(states.shape, dtype=states.dtype, device=device, pin_memory=pin).copy_(states)


class Replay:
    """A module whose output is that of its last linear, with the linear's kept inputs, later its outputs, of each chunk of tokens."""

    def __init__(self, module: nn.Module, linear: nn.Linear, chunks: int) -> None:
        """Prepare a replay; nothing is kept yet.

        Args:
            module: the module that need not run again.
            linear: its last linear.
            chunks: how many chunks are kept, from the first on; for the others the module runs.
        """
        self.chunks = chunks
        self.is_proven: bool | None = None
        """Whether the module returns what the linear returns; None until a chunk has passed."""
        self._module = module
        self._linear = linear
        self._kept: list[torch.Tensor] = []  # the linear's inputs; after `settle` its outputs
        self._output: torch.Tensor | None = None
        self._rest: tuple[Any, ...] | None = None

    def watch(self, *, end: bool) -> list[RemovableHandle]:
        """Add hooks that find out whether the module returns what the linear returns, as soon as tokens pass.

        Args:
            end: whether that pass ends after the module.
        """

        def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
            self._output = output

        def compare(_: nn.Module, __: object, output: Any) -> None:
            if self.is_proven is not None:
                return
            first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            self.is_proven = first is self._output
            # Attention also returns its weights, which no block reads; None in their place makes one that does fail.
            self._rest, self._output = None if rest is None else (None,) * len(rest), None
            if not self.is_proven:
                self._kept.clear()
            if end:
                raise PassEnded

        return [self._linear.register_forward_hook(note), self._module.register_forward_hook(compare)]

    def keep(self, inputs: torch.Tensor, home: torch.device) -> None:
        """Keep the linear's input for the next chunk, ``[samples, tokens, in]``, if it is one of those to keep."""
        if self.is_proven is not False and len(self._kept) < self.chunks:
            self._kept.append(copied_to(inputs, home))

    @property
    def is_complete(self) -> bool:
        """Whether the module is proven to end in the linear, and all inputs to keep are kept."""
        return self.is_proven is True and len(self._kept) == self.chunks

    def settle(self, device: torch.device) -> None:
        """Replace the kept inputs by the outputs of the linear as it is now, chunk by chunk.

        Args:
            device: where the block computes.
        """
        for chunk, inputs in enumerate(self._kept):
            self._kept[chunk] = copied_to(self._linear(inputs.to(device, non_blocking=True)), inputs.device)

    @contextmanager
    def answering(self, chunk: int, device: torch.device) -> Iterator[None]:
        """Let the module return its known output for a chunk without running; for a chunk that is not kept it runs."""
        if chunk >= self.chunks:
            yield
            return
        output = self._kept[chunk].to(device, non_blocking=True)
        answer = output if self._rest is None else (output, *self._rest)
        with replaced_forward(self._module, lambda *_, **__: answer):
            yield


def replay_of(
    block: Block, stages: list[list[LinearModules]], index: int, hidden: list[torch.Tensor]
) -> Replay | None:
    """Return a replay of the module that seems to end in a linear; None if none does, or not even one chunk can be kept.

    Args:
        block: the block.
        stages: all of its linear groups, in the stages that are measured at once.
        index: of the stage that the linear is.
        hidden: the block's inputs, in chunks.
    """
    (name, linear), *others = (item for linears in stages[index] for item in linears.linears.items())
    owner = name.rpartition(".")[0]
    later = [name for stage in stages[index + 1 :] for linears in stage for name in linears.linears]
    if others or not isinstance(linear, nn.Linear) or owner == block.name:
        return None
    if any(name.startswith(f"{owner}.") for name in later):
        return None
    chunks = len(hidden)
    if not later or linear.in_features > WIDE * hidden[0].shape[-1]:
        tokens = hidden[0].shape[:-1].numel()
        chunks = min(chunks, KEPT_BYTES // (tokens * linear.in_features * hidden[0].element_size()))
    if chunks == 0:
        return None
    return Replay(block.module.get_submodule(owner.removeprefix(f"{block.name}.")), linear, chunks)
