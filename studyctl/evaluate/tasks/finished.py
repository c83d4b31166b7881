"""What a task keeps of its finished chunks, so that one that is killed goes on from there."""

from importlib.metadata import version
from typing import Any, Protocol

import torch

LIBRARIES = ("studyctl", "torch", "transformers", "lm-eval")


class FinishedChunks(Protocol):
    """Results of the numbered chunks of one task. They are JSON values, so that a process can leave them to the next one."""

    def begin(self, plan: str) -> dict[int, Any]:
        """Return the results of chunks that an earlier attempt finished under the same plan.

        Args:
            plan: Names everything that the chunks are cut from: with another plan there is nothing to go on from.
        """

    def add(self, chunk: int, result: Any) -> None:
        """Keep the result of a chunk."""


class NothingFinished:
    """Keeps nothing."""

    def begin(self, plan: str) -> dict[int, Any]:
        """Return nothing."""
        return {}

    def add(self, chunk: int, result: Any) -> None:
        """Forget it."""


def computed_by() -> str:
    """Name what decides about the bits of a result beside its inputs: libraries and threads."""
    return " ".join(
        [*(f"{name} {version(name)}" for name in LIBRARIES), f"threads {torch.get_num_threads()}"]
    )
