"""The activations of the calibration tokens, passed through the model one block at a time.

The model's own forward runs once with every block replaced by a recorder that returns its input. That gives the first
block's input and, for every block, its other arguments: position embeddings, and the mask of its kind of attention if
a model alternates between full and sliding windows. Nothing about a family has to be known.
"""

from collections import defaultdict, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.architectures import (
    Block,
    decoder_blocks,
    multiply_experts_in_turn,
    observed_linear_groups,
)
from studyctl.compress.walk.replay import Replay, copied_to, replaced_forward
from studyctl.errors import StepError
from studyctl.reporter import Reporter, SilentReporter

DEVICE_SHARE = 0.5
"""Fraction of a GPU's free memory that activations may take; the rest is for the work on a block."""
CHECKED_TOKENS = 32
"""Tokens on which it is checked that blocks can be walked."""


@dataclass
class Call:
    """Arguments of a block except the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Activations:
    """Inputs of the current block for all calibration tokens, in chunks of samples that pass through it together."""

    hidden: list[torch.Tensor]
    """One per chunk, ``[samples, tokens, hidden]``, the model's dtype, where the model is or in host memory."""
    calls: list[list[Call]]
    """For each chunk, the arguments of every block; equal tensors are kept once."""
    device: torch.device
    """Where blocks compute."""
    replays: list[Replay] = field(default_factory=list)
    """Modules of the current block whose output is known."""

    @property
    def tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(chunk.shape[0] * chunk.shape[1] for chunk in self.hidden)

    @property
    def home(self) -> torch.device:
        """Where the activations of all chunks are kept."""
        return self.hidden[0].device

    def forward(self, block: Block, chunk: int) -> torch.Tensor:
        """Return the block's output for a chunk, ``[samples, tokens, hidden]``, where blocks compute."""
        hidden, call = self.hidden[chunk], self.calls[chunk][block.index]
        with ExitStack() as answers:
            for replay in self.replays:
                answers.enter_context(replay.answering(chunk, self.device))
            return states_of(
                block.module(hidden.to(self.device, non_blocking=True), *call.args, **call.kwargs)
            )

    def advance(self, block: Block, reporter: Reporter) -> None:
        """Replace the inputs by the block's outputs, chunk by chunk."""
        for chunk in range(len(self.hidden)):
            reporter.check_stop()
            self.hidden[chunk].copy_(self.forward(block, chunk))


def states_of(output: Any) -> torch.Tensor:
    """Return the hidden states of what a module returned."""
    states: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


def record_activations(
    model: nn.Module, blocks: list[Block], ids: torch.Tensor, *, batch_tokens: int, device: torch.device
) -> Activations:
    """Return the first block's inputs and every block's arguments.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        blocks: its decoder blocks.
        ids: int64 ``[samples, tokens]``.
        batch_tokens: tokens of a chunk; at least one sample is in it.
        device: where the blocks will compute.

    Raises:
        StepError: there are no ids, or some are outside the vocabulary.
    """
    body: Any = getattr(model, "base_model", model)  # without lm_head, which would be most of the work
    embeddings = body.get_input_embeddings()
    _check_ids(ids, embeddings.num_embeddings)
    parts = torch.split(ids, max(1, batch_tokens // ids.shape[1]))
    recorder = _Recorder(device, _home(ids, embeddings.weight))
    with torch.no_grad(), ExitStack() as replaced:
        for block in blocks:  # the modules keep their attributes, which some models read
            record = partial(recorder.record, block.module.forward)
            replaced.enter_context(replaced_forward(block.module, record))
        for part in parts:
            recorder.calls.append([])
            recorder.of_chunk.clear()
            body(input_ids=part.to(embeddings.weight.device), use_cache=False)
    return Activations(recorder.hidden, recorder.calls, device)


@torch.no_grad()
def check_walk(model: nn.Module) -> None:
    """Check on a few tokens that the blocks of a model, run one at a time, compute what the model computes.

    Where that is not so (blocks that read each other's keys, or share weights), what a method with data measures would be wrong.

    Raises:
        StepError: it is not so; or some linear multiplies nothing, or in a way that cannot be seen.
    """
    model = model.eval()
    blocks = decoder_blocks(model)
    body: Any = getattr(model, "base_model", model)
    parameters = [parameter for block in blocks for parameter in block.module.parameters()]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise _unwalkable(model, "its blocks share weights")
    device = parameters[0].device
    ids = torch.arange(CHECKED_TOKENS, device=device)[None] % body.get_input_embeddings().num_embeddings
    outputs: list[torch.Tensor] = []
    handle = blocks[-1].module.register_forward_hook(
        lambda *call: outputs.append(states_of(call[-1]).clone())
    )
    multiply_experts_in_turn(model)
    try:
        body(input_ids=ids, use_cache=False)
        handle.remove()
        activations = record_activations(model, blocks, ids, batch_tokens=ids.numel(), device=device)
        for block in blocks:
            observed_linear_groups(block, partial(activations.forward, block, 0))
            activations.advance(block, SilentReporter())
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _unwalkable(model, str(error)) from error
    finally:
        handle.remove()
    walked, expected = activations.hidden[0].float(), outputs[0].float()
    allowed = torch.finfo(outputs[0].dtype).eps ** 0.5
    if walked.shape != expected.shape or not (walked - expected).norm() <= allowed * expected.norm():
        raise _unwalkable(model, "run one after the other, its blocks compute something else than the model")


def _unwalkable(model: nn.Module, why: str) -> StepError:
    return StepError(
        f"the blocks of `{type(model).__name__}` cannot be walked one at a time: {why}",
        hint="methods without data (magnitude, rtn) can compress this model",
    )


def _home(ids: torch.Tensor, embeddings: torch.Tensor) -> torch.device:
    """Return where activations are kept: with the model, or on the host if they would fill its device."""
    if not embeddings.is_cuda:
        return embeddings.device
    free, _ = torch.cuda.mem_get_info(embeddings.device)
    needed = 2 * ids.numel() * embeddings.shape[1] * embeddings.element_size()  # outputs are kept too
    return embeddings.device if needed < free * DEVICE_SHARE else torch.device("cpu")


def _check_ids(ids: torch.Tensor, vocabulary: int) -> None:
    if ids.dim() != 2 or ids.numel() == 0:
        raise StepError(
            f"calibration ids have the shape {list(ids.shape)}: no token to calibrate with",
            hint="give ids of shape [samples, tokens] with at least one token",
        )
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= vocabulary:
        raise StepError(
            f"calibration ids reach from {low} to {high}, but the vocabulary of this model has {vocabulary} tokens",
            hint="make the ids with this model's tokenizer",
        )


@dataclass
class _Recorder:
    """Stands in for the blocks while the model runs."""

    device: torch.device
    home: torch.device
    hidden: list[torch.Tensor] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)
    rest: tuple[Any, ...] | None = None
    """What a block returns after the hidden states, if it returns a tuple."""
    of_chunk: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    _kept: dict[tuple[object, ...], deque[torch.Tensor]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=4))
    )

    def record(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        calls = self.calls[-1]
        if not calls:
            self.hidden.append(copied_to(hidden, self.home))
            if len(self.calls) == 1:  # one real call shows whether this family's blocks return a tuple
                output = forward(hidden, *args, **kwargs)
                self.rest = tuple(output[1:]) if isinstance(output, tuple | list) else None
        calls.append(Call(self._share(args), self._share(kwargs)))
        return hidden if self.rest is None else (hidden, *self.rest)

    def _share(self, value: Any) -> Any:
        """Return the value on the device, with every tensor replaced by an equal earlier one if there is one."""
        if isinstance(value, torch.Tensor):
            return self._share_tensor(value)
        if isinstance(value, dict):
            return {key: self._share(part) for key, part in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._share(part) for part in value)
        return value

    def _share_tensor(self, value: torch.Tensor) -> torch.Tensor:
        if id(value) in self.of_chunk:  # another block got the same object: nothing to compare
            return self.of_chunk[id(value)][1]
        moved = value.to(self.device)
        candidates = self._kept[value.shape, value.dtype]
        shared = next((other for other in candidates if torch.equal(other, moved)), None)
        if shared is None:
            shared = moved
            candidates.append(moved)
        self.of_chunk[id(value)] = (value, shared)  # the original is held so that its id is not reused
        return shared
