"""The steps of a trial. Step names are made and parsed only here."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, NamedTuple, Self

from msgspec import Meta

BATCH_WINDOWS = 8
"""Windows of a text that are measured, stored and resumed together. The same on every device: the shape of a batch changes the
last bits of its figures, and windows added later must give the same figures as a new study."""
ALL_WINDOWS = 2**31 - 1
"""End of the span of a step that measures a whole text."""

_Window = Annotated[int, Meta(ge=0, le=ALL_WINDOWS)]
Span = tuple[_Window, _Window]
"""First window, and one past the last, in the order in which windows are taken (not their order in the text)."""


class StepKind(StrEnum):
    """What a step does."""

    LOAD = "load"
    """Loads the model, its texts and the dense references."""
    COMPRESS = "compress"
    PERPLEXITY = "perplexity"
    """Perplexity and fidelity in one language."""
    ACTIVATIONS = "activations"
    """Distance of the hidden state after each decoder block to dense, in one language."""
    TASK = "task"
    DEPLOY = "deploy"
    """Writes the GGUF file, and compares the runtime's logits with dense."""
    EXPORT = "export"


class StepId(NamedTuple):
    """The name of a step: its kind, and its language or task."""

    kind: StepKind
    subject: str | None = None

    def __str__(self) -> str:
        return self.kind if self.subject is None else f"{self.kind}:{self.subject}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the name that ``str`` wrote as this text.

        Raises:
            ValueError: it is not the name of a step.
        """
        kind, _, subject = text.partition(":")
        return cls(StepKind(kind), subject or None)


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a trial: the unit of work, of storage and of resumption.

    A plan asks for all windows of a language in one step, ``windows = (0, n)``. A worker runs, and a journal holds, one step for
    each batch of them; its result is addressed by ``key`` and ``windows`` together.
    """

    kind: StepKind
    subject: str | None = None
    """Language or task."""
    windows: Span | None = None
    """Of a text; None for any other step, and for texts measured by a version before 0.2, as one step each."""
    key: str | None = None
    """Hash of everything that determines the result, except the weights and the windows; None where a part of it could not be looked up."""

    @property
    def id(self) -> StepId:
        """Return the step's name."""
        return StepId(self.kind, self.subject)

    def __str__(self) -> str:
        return str(self.id)

    def batches(self, available: int | None = None) -> tuple["Step", ...]:
        """Return the steps that a worker runs for this one: one per batch of windows.

        Args:
            available: windows that the text has; None: at least as many as the step asks for.
        """
        if self.windows is None:
            return (self,)
        return tuple(replace(self, windows=span) for span in self.spans(available))

    def spans(self, available: int | None = None) -> tuple[Span, ...]:
        """Return the windows of each batch; the last batch may have fewer than :data:`BATCH_WINDOWS`."""
        if self.windows is None:
            return ()
        return batch_spans(self.windows[1] if available is None else min(self.windows[1], available))


@lru_cache(maxsize=1024)  # every trial of a study asks for the same few
def batch_spans(end: int) -> tuple[Span, ...]:
    """Return the batches of windows 0 to ``end - 1``; they begin at multiples of :data:`BATCH_WINDOWS`."""
    return tuple((first, min(first + BATCH_WINDOWS, end)) for first in range(0, end, BATCH_WINDOWS))
