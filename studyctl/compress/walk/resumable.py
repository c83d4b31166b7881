"""Finished blocks, saved during a walk, so that a killed walk can be resumed.

Only walks that take minutes save anything: in shorter ones, compressing again is cheaper. Statistics and activations are not
saved, since they are larger than the weights: to resume, the calibration tokens pass once through the finished blocks.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from torch import nn

from studyctl.compress.weights.compressed import Compressed, CompressedLinear
from studyctl.compress.weights.stored import apply, save
from studyctl.contract.methods import MethodSettings
from studyctl.contract.records import Layer
from studyctl.errors import StepError

SAVE_SECONDS = 60.0
"""How much work a kill may cost."""


@dataclass
class BlockResults:
    """Results of a block, or of several."""

    linears: dict[str, CompressedLinear] = field(default_factory=dict)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    """The record of each linear."""
    overdamped: dict[str, float] = field(default_factory=dict)
    """Linears whose damping is more than the median of diag H: how many times it is."""
    idle: list[str] = field(default_factory=list)
    """Linears of experts that no calibration token reached."""

    def add(self, other: "BlockResults") -> None:
        """Add the results of other blocks."""
        self.linears |= other.linears
        self.parameters |= other.parameters
        self.layers += other.layers
        self.overdamped |= other.overdamped
        self.idle += other.idle


class ResumableBlocks:
    """The saved blocks of one walk, in files of consecutive blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unsaved = BlockResults()
        self._first = 0
        self._since = time.monotonic()

    def spans(self) -> Iterator[tuple[range, Path]]:
        """Yield the indices of the blocks in each file, and the file, from block 0 on as long as no block is missing."""
        for path in sorted(self.folder.glob("*.safetensors")):
            first, last = (int(part) for part in path.stem.split("-"))
            if first != self._first:
                return
            self._first = last + 1
            yield range(first, last + 1), path

    def put_into(self, model: nn.Module, path: Path) -> BlockResults:
        """Put the weights of a file into the model's blocks, and return its results.

        Raises:
            StepError: the file cannot be used; all files are deleted, so that the next walk begins at the first block.
        """
        try:
            stored = apply(model, path)
        except StepError:
            self.clear()
            raise
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        parts = {"layers": list[Layer], "overdamped": dict[str, float], "idle": list[str]}
        return BlockResults(
            stored.linears,
            stored.parameters,
            **{
                name: msgspec.json.decode(about[name], type=kind)
                for name, kind in parts.items()
                if name in about
            },
        )

    def add(self, index: int, results: BlockResults, settings: MethodSettings) -> None:
        """Add a finished block; write all unsaved blocks if they took long enough."""
        self._unsaved.add(results)
        if time.monotonic() - self._since < SAVE_SECONDS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Compressed(settings, self._unsaved.linears, 0.0, 0.0, self._unsaved.parameters)
        path = self.folder / f"{self._first:05d}-{index:05d}.safetensors"
        also = {
            "layers": self._unsaved.layers,
            "overdamped": self._unsaved.overdamped,
            "idle": self._unsaved.idle,
        }
        save(path, part, {name: msgspec.json.encode(value).decode() for name, value in also.items()})
        self._unsaved, self._first, self._since = BlockResults(), index + 1, time.monotonic()

    def clear(self) -> None:
        """Delete all files: the whole model is stored now, or they are of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)
