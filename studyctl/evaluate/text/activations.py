"""The distance of a model's hidden states to the dense model's, after each decoder block.

Definitions, with x the dense model's states after a block and y the scored model's, over the scored tokens and all channels:

- snr: ``10 log10(Σ x² / Σ (x - y)²)`` in dB,
- relative error: ``sqrt(Σ (x - y)² / Σ x²)``.

Each model runs as a whole, so a block's input has the errors of the blocks before it. The first token of a window, which is not
scored, does not count: most models put states there that are up to thousands of times larger than all others (Sun et al. 2024,
*Massive activations in large language models*), and sums over them would say nothing about any other token.

The dense model's states are kept on disk, one file a window, so that no more than those of one window are in memory::

    <name>.<number>.safetensors     tensors ``0``, ``1`` ... [length - 1, hidden], one a block, in the dtype of the model
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from studyctl.contract.records import BlockDistance
from studyctl.errors import StepError
from studyctl.evaluate.text.head import not_finite
from studyctl.evaluate.text.reference import checksum, fingerprint, reference_lost, room_for
from studyctl.evaluate.text.windows import Windows
from studyctl.files import atomic_path
from studyctl.reporter import Reporter


@dataclass(frozen=True)
class DenseStates:
    """The dense model's states on a batch of windows, in files that may exist or not."""

    windows: Windows
    paths: tuple[Path, ...]
    """A file for each window."""

    def read(self, window: int) -> list[Tensor] | None:
        """Return the states ``[length - 1, hidden]`` of each block; None if the file is missing, torn, corrupt or of other tokens."""
        try:
            with safe_open(self.paths[window], framework="pt") as file:
                states = [file.get_tensor(str(block)) for block in range(len(file.keys()))]
                intact = file.metadata()["checksum"] == checksum(states, self._tokens(window))
            return states if intact else None
        except (OSError, SafetensorError, LookupError, TypeError):
            return None

    def exist(self) -> bool:
        """Return whether the states of every window can be read."""
        return all(self.read(window) is not None for window in range(len(self.windows)))

    def write(self, window: int, states: Sequence[Tensor]) -> None:
        """Write the states ``[length - 1, hidden]`` of each block; if anything fails, the file is as it was.

        Raises:
            StepError: the disk is full.
            OSError: the folder cannot be written.
        """
        path = self.paths[window]
        tensors = {str(block): of_block for block, of_block in enumerate(states)}
        with room_for(path), atomic_path(path) as temporary:
            save_file(tensors, temporary, {"checksum": checksum(states, self._tokens(window))})

    def ids(self, window: int) -> Tensor:
        """Return the token ids ``[1, length]``."""
        return torch.from_numpy(self.windows.ids[window : window + 1])

    def _tokens(self, window: int) -> str:
        return fingerprint(self.windows.slice(window, window + 1))


@torch.no_grad()
def keep_states(
    model: Any,
    blocks: Sequence[nn.Module],
    dense: DenseStates,
    reporter: Reporter,
    done: Callable[[int], None] | None = None,
) -> None:
    """Write the states of the dense model.

    Peak memory in addition to the model: what one forward pass of one window needs, and its states of all blocks.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        blocks: its decoder blocks, in order.
        dense: windows, and where to write.
        reporter: only its ``check_stop`` is used, before every forward pass.
        done: called after every forward pass with the number of windows that are done.

    Raises:
        StepError: the blocks do not run one after the other, or the disk is full.
        OSError: the folder cannot be written.
    """
    for window in range(len(dense.windows)):
        reporter.check_stop()
        states: list[Tensor] = []
        _run(model, blocks, dense.ids(window), partial(_keep, states))
        dense.write(window, states)
        if done is not None:
            done(window + 1)


@torch.no_grad()
def compare_states(
    model: Any,
    blocks: Sequence[nn.Module],
    dense: DenseStates,
    *,
    language: str,
    reporter: Reporter,
    done: Callable[[int], None] | None = None,
) -> list[BlockDistance]:
    """Return the distance of a model's states to the dense model's, one record a block.

    Energies are sums in float64 of squares in float32. Peak memory: as in :func:`keep_states`.

    Args:
        model: a ``transformers`` causal language model, in evaluation mode.
        blocks: its decoder blocks, in order.
        dense: the dense model's states of the same windows.
        language: of the text, for the records.
        reporter: only its ``check_stop`` is used, before every forward pass.
        done: called after every forward pass with the number of windows that are done.

    Raises:
        StepError: a file of the dense model's states is lost, states are not finite, or the two models have other shapes.
    """
    signal, noise = [0.0] * len(blocks), [0.0] * len(blocks)
    for window in range(len(dense.windows)):
        reporter.check_stop()
        states = dense.read(window)
        if states is None:
            raise reference_lost(language)
        if len(states) != len(blocks):
            raise _other_shape(f"{len(blocks)} blocks", f"{len(states)}")
        _run(model, blocks, dense.ids(window), partial(_add_energies, states, signal, noise))
        if done is not None:
            done(window + 1)
    for block, energies in enumerate(zip(signal, noise, strict=True)):
        if not all(map(math.isfinite, energies)):
            raise not_finite(f" after block {block}", what="hidden states")
    tokens = len(dense.windows) * dense.windows.scored_tokens
    return [
        BlockDistance(language=language, block=block, tokens=tokens, signal=signal[block], noise=noise[block])
        for block in range(len(blocks))
    ]


def _keep(kept: list[Tensor], _block: int, states: Tensor) -> None:
    """Add a copy of states in host memory: a model may write into its own later."""
    kept.append(states.to("cpu", copy=True).contiguous())


def _add_energies(
    dense: Sequence[Tensor], signal: list[float], noise: list[float], block: int, states: Tensor
) -> None:
    """Add the energies of one window ``[length - 1, hidden]`` to those of its block."""
    if dense[block].shape != states.shape:
        raise _other_shape(f"states of {states.shape[-1]} channels", f"{dense[block].shape[-1]}")
    x, y = dense[block].to(states.device).float(), states.float()
    signal[block] += x.square().sum(dtype=torch.float64).item()
    noise[block] += (x - y).square().sum(dtype=torch.float64).item()


def _run(model: Any, blocks: Sequence[nn.Module], ids: Tensor, take: Callable[[int, Tensor], object]) -> None:
    """Pass one window ``[1, length]`` through a model; ``take`` gets each block's number and its states ``[length - 1, hidden]``.

    Raises:
        StepError: the blocks do not run once each, in order.
    """
    order: list[int] = []

    def after(block: int, _module: nn.Module, _inputs: object, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple | list) else output
        order.append(block)
        take(block, states[0, 1:])

    with ExitStack() as hooks:
        for number, block in enumerate(blocks):
            hooks.callback(block.register_forward_hook(partial(after, number)).remove)
        model.get_decoder()(input_ids=ids.to(model.get_output_embeddings().weight.device), use_cache=False)
    if order != list(range(len(blocks))):
        raise StepError(
            f"the decoder blocks of {type(model).__name__} do not run once each, one after the other",
            hint="leave out `activations` in [evaluation.fidelity] for this model",
        )


def _other_shape(own: str, dense: str) -> StepError:
    return StepError(
        f"the model has {own}, its dense model {dense}: they cannot be compared",
        hint="leave out `activations` in [evaluation.fidelity] for this model",
    )
