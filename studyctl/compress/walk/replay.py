"""Modules of a block that need not run again: their output is known from the pass that measured their last linear.

With ``order = "stage"`` a block is passed through once for every stage, and these passes differ only from the stage that was
compressed last on. Attention ends in a linear, its output projection. That linear's input, kept from the pass that measured
it, gives the module's output as soon as the linear is compressed, and later passes of the block take it from there: tokens go
through attention once. Where a block adds that output to its input and does nothing else with either, they are added at once: the block
gets the sum as its input and 0 for attention's output, to the same bits, and what was kept makes room. The MLP ends in a linear
too. Its input is several times as wide, and only the pass that makes the next block's inputs comes after it: it is kept for as many
tokens as :func:`~studyctl.contract.limits.kept_bytes` allows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from studyctl.compress.walk.architectures import Block, Stage
from studyctl.contract.limits import kept_bytes

_SHARED = "inputs of last linears"
"""The room of all replays of a block, one after the other."""

Store = Callable[[str, int, torch.Tensor, int, int], torch.Tensor]
"""See :meth:`studyctl.compress.walk.activations.Activations.keep`."""


class PassEnded(Exception):
    """Ends a forward pass whose rest nobody needs."""


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a function answer for a module, which keeps its attributes and gets back a forward of its own if it had one."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


class Replay:
    """A module whose output is that of its last linear, and what is known of it for every chunk of tokens."""

    def __init__(
        self, module: nn.Module, linear: nn.Linear, *, room: str, chunks: int, is_added: bool
    ) -> None:
        """Make one of which no chunk is known yet.

        Args:
            module: what need not run again.
            linear: in which it ends.
            room: the name under which the linear's inputs are kept.
            chunks: so many are kept, the first ones; in the others the module runs.
            is_added: whether the block adds the module's output to its input, and uses neither for anything else.
        """
        self.chunks = chunks
        self.is_proven: bool | None = None
        """Whether the module returns what the linear returns; None until a chunk has passed."""
        self._module = module
        self._linear = linear
        self._room = room
        self._is_added = is_added
        self._widest = linear.in_features if is_added else max(linear.in_features, linear.out_features)
        # The linear's inputs; once settled its outputs, or what they were added to.
        self._kept: list[torch.Tensor] = []
        self._is_settled = False
        self._output: torch.Tensor | None = None
        self._rest: tuple[Any, ...] | None = None

    def watch(self, *, end: bool) -> list[RemovableHandle]:
        """Find out whether the module returns what the linear returns, as soon as tokens pass.

        Args:
            end: whether to end that pass behind the module.
        """

        def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
            self._output = output

        def compare(_: nn.Module, __: object, output: Any) -> None:
            if self.is_proven is not None:
                return
            first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            self.is_proven = first is self._output
            # What else attention returns are its weights, which no block reads: with None one that did would fail.
            self._rest, self._output = None if rest is None else (None,) * len(rest), None
            if not self.is_proven:
                self._kept.clear()
            if end:
                raise PassEnded

        return [self._linear.register_forward_hook(note), self._module.register_forward_hook(compare)]

    def keep(self, inputs: torch.Tensor, store: Store) -> None:
        """Keep the linear's input of the next chunk, ``[samples, tokens, in]``, if it is one of those to keep."""
        if self.is_proven is not False and len(self._kept) < self.chunks:
            self._kept.append(store(self._room, len(self._kept), inputs, self.chunks, self._widest))

    @property
    def is_complete(self) -> bool:
        """Whether the module is known to be what it looks like, and was seen once in each chunk."""
        return self.is_proven is True and len(self._kept) == self.chunks

    def settle(self, hidden: list[torch.Tensor], device: torch.device, store: Store) -> None:
        """Put the linear, as it is now, behind what was kept, chunk by chunk: for more than one pass to come.

        Args:
            hidden: the block's inputs, in chunks; outputs are added to them if the block does nothing else with either.
            device: where the block computes.
            store: for outputs that are not added.
        """
        for chunk, inputs in enumerate(self._kept):
            outputs = self._linear(inputs.to(device, non_blocking=True))
            if self._is_added:
                hidden[chunk].copy_(outputs.add_(hidden[chunk].to(device, non_blocking=True)))
                self._kept[chunk] = hidden[chunk]
            else:
                self._kept[chunk] = store(self._room, chunk, outputs, self.chunks, self._widest)
        self._is_settled = True

    @contextmanager
    def answering(self, chunk: int, device: torch.device) -> Iterator[None]:
        """Let the module return what is known for a chunk, without running; for a chunk not kept it runs."""
        if chunk >= self.chunks:
            yield
            return
        output = self._output_of(self._kept[chunk], device)
        answer = output if self._rest is None else (output, *self._rest)
        with replaced_forward(self._module, lambda *_, **__: answer):
            yield

    def _output_of(self, kept: torch.Tensor, device: torch.device) -> torch.Tensor:
        if self._is_settled and self._is_added:
            return torch.zeros((), dtype=kept.dtype, device=device).expand_as(kept)
        states = kept.to(device, non_blocking=True)
        output: torch.Tensor = states if self._is_settled else self._linear(states)
        return output


def replay_of(
    block: Block, stages: list[Stage], stage: Stage, hidden: list[torch.Tensor], *, adds_attention: bool
) -> Replay | None:
    """Return the replay of the module that may end in this stage; None if none does, or too much would have to be kept.

    Args:
        block: the block.
        stages: all of it.
        stage: one of them.
        hidden: the block's inputs, in chunks.
        adds_attention: whether the block is one of :data:`~studyctl.contract.limits.ADDS_ATTENTION`.
    """
    names = list(stage.linears)
    owner = names[0].rpartition(".")[0]
    if len(names) > 1 or owner == block.name:
        return None
    later = stages[next(index for index, one in enumerate(stages) if one is stage) + 1 :]
    if any(name.startswith(f"{owner}.") for one in later for name in one.linears):
        return None
    linear = stage.linears[names[0]]
    attention = next(iter(stages[1].linears.values())).in_features if adds_attention else 0
    chunks = len(hidden) if later else _chunks_of_mlp(hidden, linear.in_features, attention)
    if chunks == 0:
        return None
    local = owner.removeprefix(f"{block.name}.")
    module = block.module.get_submodule(local)
    room = _SHARED if adds_attention else local  # what attention had is the MLP's afterwards
    return Replay(module, linear, room=room, chunks=chunks, is_added=adds_attention and bool(later))


def _chunks_of_mlp(hidden: list[torch.Tensor], inputs: int, attention: int) -> int:
    """Return of how many chunks the inputs of the MLP's last linear are kept, with the room of ``attention`` inputs that are not."""
    width = hidden[0].element_size()
    tokens = [chunk.shape[:-1].numel() for chunk in hidden]
    return min(len(hidden), kept_bytes(sum(tokens) * attention * width) // (tokens[0] * inputs * width))
