"""The calibration tokens on their way through the model, one block at a time.

The model's own forward runs once with every block replaced by a recorder that hands its input on. That gives the first
block's input and, for every block, the arguments it would get: position embeddings, and the mask of its kind of
attention where a model alternates between full and sliding windows. Nothing about a family has to be known.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from studyctl.compress.walk.architectures import Block
from studyctl.compress.walk.replay import Replay, replaced_forward
from studyctl.errors import StepError
from studyctl.reporter import Reporter

DEVICE_SHARE = 0.5
"""Of a GPU's free memory that activations may take; the rest is for a block's work."""
_ALIGNED = 64
"""Parts of a room begin at multiples of so many numbers, as tensors of their own would: a product may round by where it begins."""


@dataclass
class Call:
    """Arguments of a block beside the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Activations:
    """Inputs of the current block for all calibration tokens, in chunks that pass through it at once."""

    hidden: list[torch.Tensor]
    """A chunk each, ``[samples, tokens, hidden]``, the model's dtype, where the model is or in host memory."""
    calls: list[list[Call]]
    """For each chunk, the arguments of every block; equal tensors are kept once."""
    device: torch.device
    """Where blocks compute."""
    replays: list[Replay] = field(default_factory=list)
    """Modules of the current block whose output is known."""
    _rooms: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(chunk.shape[0] * chunk.shape[1] for chunk in self.hidden)

    def forward(self, block: Block, chunk: int) -> torch.Tensor:
        """Return the block's output for a chunk, ``[samples, tokens, hidden]``, where blocks compute."""
        hidden, call = self.hidden[chunk], self.calls[chunk][block.index]
        with ExitStack() as known:
            for replay in self.replays:
                known.enter_context(replay.answering(chunk, self.device))
            return states_of(
                block.module(hidden.to(self.device, non_blocking=True), *call.args, **call.kwargs)
            )

    def advance(self, block: Block, reporter: Reporter) -> None:
        """Replace the inputs by the block's outputs, chunk by chunk."""
        for chunk in range(len(self.hidden)):
            reporter.check_stop()
            self.hidden[chunk].copy_(self.forward(block, chunk))

    def keep(
        self,
        name: str,
        chunk: int,
        states: torch.Tensor,
        chunks: int | None = None,
        widest: int | None = None,
    ) -> torch.Tensor:
        """Copy what a block makes of a chunk to where the inputs of all chunks are, and return the copy.

        It takes the place of what was kept under that name before. All chunks of a name have one room, divided when the first of
        them comes: pieces that live for a block each would lie scattered over the heap, with what a pass needs in between.

        Args:
            name: of what is kept.
            chunk: of the inputs: the first one first.
            states: ``[samples, tokens, size]``.
            chunks: so many, the first ones, are kept under this name; None: all.
            widest: the largest size of states that take each other's place, chunk by chunk, before the first of them comes again;
                None: this one.
        """
        if chunk == 0:
            tokens = [part.shape[:-1].numel() for part in self.hidden[:chunks]]
            size = widest or states.shape[-1]
            self._rooms[name] = _room(states, size, tokens, self.hidden[0].device, self._rooms.pop(name, []))
        return self._rooms[name][chunk][: states.numel()].view(states.shape).copy_(states)

    def change(self, name: str) -> None:
        """Make what is kept under a name the inputs; what they were is overwritten by what is kept next."""
        room = self._rooms[name]
        for chunk, inputs in enumerate(self.hidden):
            self.hidden[chunk] = room[chunk].view(inputs.shape)
            room[chunk] = inputs.view(-1)


def states_of(output: Any) -> torch.Tensor:
    """Return the hidden states of what a module returned."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
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
    recorder = _Recorder(device, _home(ids, embeddings.weight), [part.numel() for part in parts])
    with torch.no_grad(), _replaced_forwards(blocks, recorder):
        for part in parts:
            recorder.start_chunk()
            body(input_ids=part.to(embeddings.weight.device), use_cache=False)
    return Activations(recorder.hidden, recorder.calls, device)


def _room(
    states: torch.Tensor, size: int, tokens: list[int], home: torch.device, last: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return room for states of so many tokens each, in one piece, as flat parts.

    For those of a GPU it is pinned memory where it is on the host: that goes back several times as fast.

    Args:
        states: some of them.
        size: numbers of a token.
        tokens: of every part.
        home: where the room is.
        last: what the room was before: its memory is used again if it is enough, and else let go.
    """
    sizes = [count * size for count in tokens]
    aligned = [-(-numbers // _ALIGNED) * _ALIGNED for numbers in sizes]
    needed = sum(aligned)
    if (
        last
        and last[0].dtype == states.dtype
        and last[0].untyped_storage().nbytes() >= needed * states.element_size()
    ):
        whole = last[0].as_strided((needed,), (1,), 0)
    else:
        last.clear()
        pin = states.is_cuda and home.type == "cpu"
        whole = torch.empty(needed, dtype=states.dtype, device=home, pin_memory=pin)
    return [part[:numbers] for part, numbers in zip(torch.split(whole, aligned), sizes, strict=True)]


def _home(ids: torch.Tensor, embeddings: torch.Tensor) -> torch.device:
    """Return where the activations of all tokens stay: with the model, or on the host if they would fill its device."""
    if not embeddings.is_cuda:
        return embeddings.device
    free, _ = torch.cuda.mem_get_info(embeddings.device)
    wanted = (
        2 * ids.numel() * embeddings.shape[1] * embeddings.element_size()
    )  # dense outputs are kept beside inputs
    return embeddings.device if wanted < free * DEVICE_SHARE else torch.device("cpu")


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
    tokens: list[int]
    """Of each chunk."""
    hidden: list[torch.Tensor] = field(default_factory=list)
    calls: list[list[Call]] = field(default_factory=list)
    rest: tuple[Any, ...] | None = None
    """What a block returns after the hidden states, if it returns a tuple."""
    _room: list[torch.Tensor] = field(default_factory=list)
    _of_chunk: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    _kept: dict[tuple[object, ...], deque[torch.Tensor]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=4))
    )

    def start_chunk(self) -> None:
        self.calls.append([])
        self._of_chunk.clear()

    def record(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        hidden, args, kwargs = _without_hidden(args, kwargs)
        calls = self.calls[-1]
        if not calls:
            if len(self.calls) == 1:
                self._room = _room(hidden, hidden.shape[-1], self.tokens, self.home, [])
            self.hidden.append(self._room[len(self.hidden)].view(hidden.shape).copy_(hidden))
            if len(self.calls) == 1:  # one real call tells whether this family's blocks return a tuple
                output = forward(hidden, *args, **kwargs)
                self.rest = output[1:] if isinstance(output, tuple) else None
        calls.append(Call(self._share(args), self._share(kwargs)))
        return hidden if self.rest is None else (hidden, *self.rest)

    def _share(self, value: Any) -> Any:
        """Return the value on the device, with tensors that are known already replaced by the known ones."""
        if isinstance(value, torch.Tensor):
            return self._share_tensor(value)
        if isinstance(value, dict):
            return {key: self._share(part) for key, part in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._share(part) for part in value)
        return value

    def _share_tensor(self, value: torch.Tensor) -> torch.Tensor:
        if id(value) in self._of_chunk:  # the same object as for another block: nothing to compare
            return self._of_chunk[id(value)][1]
        moved = value.to(self.device)
        candidates = self._kept[value.shape, value.dtype]
        shared = next((other for other in candidates if torch.equal(other, moved)), None)
        if shared is None:
            shared = moved
            candidates.append(moved)
        self._of_chunk[id(value)] = (value, shared)  # the original is held so that its id stays its own
        return shared


def _without_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]:
    if args:
        return args[0], args[1:], kwargs
    return (
        kwargs["hidden_states"],
        (),
        {key: value for key, value in kwargs.items() if key != "hidden_states"},
    )


@contextmanager
def _replaced_forwards(blocks: list[Block], recorder: _Recorder) -> Iterator[None]:
    """Let the recorder answer for every block; the modules keep their attributes, which some models read."""
    with ExitStack() as replaced:
        for block in blocks:
            record = partial(recorder.record, block.module.forward)
            replaced.enter_context(replaced_forward(block.module, record))
        yield
