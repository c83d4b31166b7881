"""The steps of a trial. Nothing else in the project spells their names or takes one apart."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Self

BATCH_WINDOWS = 8
"""Windows of a text that are measured, stored and resumed together. The same on every device: the shape of a batch changes the
last bits of its figures, and windows that are added later must give the figures of a new study."""
ALL_WINDOWS = 2**31 - 1
"""End of the windows of a step that measures all of a text."""

Span = tuple[int, int]
"""First window, and the one after the last, in the order in which windows are taken (not that of the text)."""


class StepKind(StrEnum):
    """What a step does."""

    LOAD = "load"
    """Loads the model, its texts and the dense references."""
    COMPRESS = "compress"
    PERPLEXITY = "perplexity"
    """Perplexity and fidelity in one language."""
    TASK = "task"
    EXPORT = "export"


class StepId(NamedTuple):
    """The name of a step: its kind, and its language or task."""

    kind: StepKind
    subject: str | None = None

    def __str__(self) -> str:
        return self.kind if self.subject is None else f"{self.kind}:{self.subject}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the step that ``str`` wrote as this text.

        Raises:
            ValueError: it names none.
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
    """Of a text; None for any other step, and for texts that a version before 0.2 measured, which were one step each."""
    key: str | None = None
    """Hash of everything that determines the result, except the weights and the windows; None where that could not be looked up."""

    @property
    def id(self) -> StepId:
        """Return its name."""
        return StepId(self.kind, self.subject)

    def __str__(self) -> str:
        return str(self.id)

    def batches(self, available: int | None = None) -> tuple["Step", ...]:
        """Return the steps that a worker runs for this one.

        Args:
            available: windows that the text has; None: as many as are asked for.
        """
        if self.windows is None:
            return (self,)
        return tuple(replace(self, windows=span) for span in self.spans(available))

    def spans(self, available: int | None = None) -> tuple[Span, ...]:
        """Return the windows of each batch; the last one may be cut short by the end of the text or of what is asked for."""
        if self.windows is None:
            return ()
        return batch_spans(self.windows[1] if available is None else min(self.windows[1], available))


@lru_cache(maxsize=1024)  # every trial of a study asks for the same few
def batch_spans(end: int) -> tuple[Span, ...]:
    """Return the batches of the windows before ``end``: they begin at multiples of :data:`BATCH_WINDOWS`."""
    return tuple((first, min(first + BATCH_WINDOWS, end)) for first in range(0, end, BATCH_WINDOWS))
