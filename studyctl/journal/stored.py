"""What is stored: finished steps, failures and attempts, found by the keys of what was measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from studyctl.contract.records import AttemptFinished, AttemptStarted, FileFacts, StepFailed
from studyctl.contract.steps import BATCH_WINDOWS, Span, Step, StepKind, batch_spans


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A finished step, and where its records are; consecutive batches of windows are one stored step."""

    trial: str
    """Trial that ran it; the result also counts for other trials with equal keys."""
    attempt: int
    step: Step
    weights_key: str
    weights_hash: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    peak_device_bytes: int | None
    bits_per_weight: float | None
    sparsity: float | None
    available: int | None
    """Windows that the text has; None: not known, or no text."""
    at: str
    """When it finished; UTC, ISO 8601."""
    journal: Path
    begin: int
    """Byte of its first ``step_started`` line; there are several if the step was tried again within the attempt."""
    end: int
    """Byte after its ``step_finished`` line."""
    file: FileFacts | None = None

    @property
    def batches(self) -> frozenset[Span | None]:
        """Return its batches of windows; ``{None}`` if the step has no windows."""
        return _batches(self.step.windows)

    def followed_by(self, other: "StoredStep") -> "StoredStep | None":
        """Return both as one step if the other is the next batch of the same text; None if not."""
        windows, next_windows = self.step.windows, other.step.windows
        if windows is None or next_windows is None:
            return None
        same = (self.step.id, self.step.key, self.weights_hash)
        if (
            windows[1] != next_windows[0]
            or windows[1] % BATCH_WINDOWS
            or same != (other.step.id, other.step.key, other.weights_hash)
        ):
            return None
        return replace(
            other,
            step=Step(other.step.kind, other.step.subject, (windows[0], next_windows[1]), other.step.key),
            begin=self.begin,
            seconds=(self.seconds or 0.0) + (other.seconds or 0.0),
            peak_memory_bytes=max(self.peak_memory_bytes or 0, other.peak_memory_bytes or 0) or None,
            peak_device_bytes=max(self.peak_device_bytes or 0, other.peak_device_bytes or 0) or None,
        )


@lru_cache(maxsize=4096)  # the trials of a study have the same few spans
def _batches(windows: Span | None) -> frozenset[Span | None]:
    if windows is None:
        return frozenset({None})
    first, end = windows
    return frozenset(
        (start, min(start + BATCH_WINDOWS, end))
        for start in range(-(-first // BATCH_WINDOWS) * BATCH_WINDOWS, end, BATCH_WINDOWS)
    )


class ResultPart(NamedTuple):
    """What a stored step contributes to a result."""

    stored: StoredStep
    batches: tuple[Span | None, ...]
    """In the order of windows."""


class StepResult(NamedTuple):
    """The result of a step that a plan asks for; several attempts may have contributed to it."""

    parts: tuple[ResultPart, ...]
    """In the order in which windows are measured; at least one."""

    @property
    def latest(self) -> StoredStep:
        """Return the stored step that finished last."""
        return max((part.stored for part in self.parts), key=lambda stored: stored.at)

    @property
    def seconds(self) -> float | None:
        """Return what all parts took together."""
        seconds = [
            part.stored.seconds * (len(part.batches) / len(part.stored.batches))
            for part in self.parts
            if part.stored.seconds is not None
        ]
        return sum(seconds) if seconds else None

    @property
    def peak_memory_bytes(self) -> int | None:
        """Return the highest peak of a part."""
        return max((part.stored.peak_memory_bytes or 0 for part in self.parts), default=0) or None

    @property
    def peak_device_bytes(self) -> int | None:
        """Return the highest peak of a part on a GPU; None on a CPU."""
        return max((part.stored.peak_device_bytes or 0 for part in self.parts), default=0) or None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What is stored under one key of some weights."""

    steps: tuple[StoredStep, ...]
    """If two have the same batch, the later one counts."""
    batches: frozenset[Span | None]
    available: int | None
    """Windows that the text has; None: not known."""

    @classmethod
    def of_steps(cls, steps: Sequence[StoredStep]) -> "StoredResult":
        """Return the result of steps that are sorted oldest first."""
        batches = steps[0].batches.union(*(step.batches for step in steps[1:]))
        available = next((step.available for step in steps if step.available is not None), None)
        return cls(tuple(steps), batches, available)

    def covers(self, step: Step) -> bool:
        """Return whether everything that a step asks for is there."""
        if step.windows is None or None in self.batches:
            return True
        end = step.windows[1]
        return _covers(self.batches, end if self.available is None else min(end, self.available))

    def of(self, step: Step) -> StepResult:
        """Return the result of a step that is covered."""
        spans: tuple[Span | None, ...] = (None,) if None in self.batches else step.spans(self.available)
        sources: dict[int, list[Span | None]] = {}
        for span in spans:
            place = max(place for place, stored in enumerate(self.steps) if span in stored.batches)
            sources.setdefault(place, []).append(span)
        return StepResult(
            tuple(ResultPart(self.steps[place], tuple(batches)) for place, batches in sources.items())
        )


@lru_cache(maxsize=4096)  # the trials of a study have the same few sets
def _covers(stored: frozenset[Span | None], end: int) -> bool:
    # The end may stand for all windows: too many to enumerate.
    return len(stored) * BATCH_WINDOWS >= end and stored.issuperset(batch_spans(end))


@dataclass(frozen=True, slots=True)
class Results:
    """What is stored of the same weights; false if nothing is."""

    by_key: Mapping[str, StoredResult] = field(default_factory=dict)
    weights_hash: str | None = None
    """Of the weights that were compressed and measured; None: dense, or not compressed yet."""

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def has(self, step: Step) -> bool:
        """Return whether everything that a step asks for is stored."""
        result = self.by_key.get(step.key) if step.key is not None else None
        return result is not None and result.covers(step)

    def missing(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Return the steps of which something is not stored."""
        return tuple(step for step in steps if not self.has(step))

    def of(self, step: Step) -> StepResult | None:
        """Return the result of a step; None if something of it is not stored."""
        return self.by_key[step.key].of(step) if step.key is not None and self.has(step) else None

    def covered(self, steps: Iterable[Step]) -> tuple[int, int]:
        """Return how many of these steps are stored, and how many batches of windows of them."""
        steps = tuple(steps)
        return sum(map(self.has, steps)), sum(len(self.spans(step)) for step in steps)

    def spans(self, step: Step) -> tuple[Span, ...]:
        """Return the batches of windows that are stored of a step, whether they are all of it or not."""
        result = self.by_key.get(step.key) if step.key is not None else None
        return tuple(sorted(span for span in result.batches if span)) if result is not None else ()


_NOTHING = Results()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a trial, as far as its journal says."""

    trial: str
    attempt: int
    journal: Path
    started: AttemptStarted
    steps: tuple[StoredStep, ...] = ()
    """Finished steps in the order in which they ran, ``load`` included."""
    open_step: Step | None = None
    """Step that has started and neither finished nor failed."""
    failures: tuple[StepFailed, ...] = ()
    """Steps that failed, oldest first: after a failed evaluation the others still run."""
    finished: AttemptFinished | None = None
    """None while it runs, or if it was killed."""

    @property
    def weights_key(self) -> str:
        """Key of the weights that it makes or measures."""
        return self.started.weights_key

    @property
    def state(self) -> str:
        """``open`` (running, or killed), ``done``, ``failed`` or ``stopped``."""
        return "open" if self.finished is None else self.finished.state

    def state_if(self, *, running: bool) -> str:
        """Return the state, with ``open`` resolved to ``running`` or ``stopped``."""
        return self.state if self.finished is not None else "running" if running else "stopped"


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that is acknowledged in the journals of a study."""

    attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """By trial, oldest first."""
    last_attempt: dict[str, int] = field(default_factory=dict)
    """Highest attempt number by trial, including journals without a whole record."""
    results: dict[str, tuple[Results, ...]] = field(default_factory=dict)
    """By ``weights_key``, for each hash of weights, the oldest first: another kind of processor makes other weights. Without exports
    whose folder is gone, and without ``load``."""
    loads: dict[str, StoredStep] = field(default_factory=dict)
    """Newest finished ``load`` by ``weights_key``."""

    def results_of(self, weights_key: str | None, steps: Iterable[Step]) -> Results:
        """Return the results that count: of one hash of weights, never of several.

        Those that have most of ``steps`` count, of several with as many the oldest; so a late attempt on another kind of processor
        does not hide finished results.

        Args:
            weights_key: key of the weights; None (their sources could not be looked up): nothing is stored.
            steps: what the plan asks for, ``compress`` included.
        """
        sets = self.results.get(weights_key, ()) if weights_key is not None else ()
        if len(sets) < 2:
            return sets[0] if sets else _NOTHING
        steps = tuple(steps)
        return max(sets, key=lambda results: results.covered(steps))

    def file_of(self, weights_key: str | None, steps: Iterable[Step]) -> FileFacts | None:
        """Return what is known of the GGUF file of some weights: by ``deploy``, which writes it, else by what made the weights."""
        steps = tuple(steps)
        results, facts = self.results_of(weights_key, steps), None
        if (load := self.loads.get(weights_key or "")) is not None:
            facts = load.file
        for kind in (StepKind.COMPRESS, StepKind.DEPLOY):
            for step in steps:
                if step.kind is kind and (result := results.of(step)) is not None:
                    facts = result.latest.file or facts
        return facts

    def compressed(self, weights_key: str, weights_hash: str) -> StoredStep | None:
        """Return the stored ``compress`` step that made these weights."""
        for results in self.results.get(weights_key, ()):
            if (
                results.weights_hash == weights_hash
                and (result := results.by_key.get(weights_key)) is not None
            ):
                return result.steps[-1]
        return None

    def next_attempt(self, trial: str) -> int:
        """Return the number of a trial's next attempt; the first is 1."""
        return self.last_attempt.get(trial, 0) + 1

    def last_failure(self, trial: str) -> StepFailed | None:
        """Return the first failure of a trial's newest attempt, or None if it had none."""
        attempts = self.attempts.get(trial)
        return attempts[-1].failures[0] if attempts and attempts[-1].failures else None
