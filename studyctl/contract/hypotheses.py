"""Hypotheses as the spec states them, resolved to variants: what the plan hands to the store."""

from dataclasses import dataclass
from enum import StrEnum

LEAST_CLUSTERS = 3
"""With fewer models or languages nothing is said about others."""


class Alternative(StrEnum):
    """What is claimed of the left side."""

    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "different"
    NO_WORSE = "no_worse"


class Level(StrEnum):
    """What another sample is drawn of, if the study were made again."""

    WINDOWS = "windows"
    """The text's windows, or a task's items: these models and languages."""
    LANGUAGES = "languages"
    MODELS = "models"
    CROSSED = "languages+models"


class By(StrEnum):
    """What a hypothesis has a row for each of."""

    LANGUAGE = "language"
    MODEL = "model"
    TASK = "task"


class Combine(StrEnum):
    """How a hypothesis puts several pairs of sides together."""

    MEAN = "mean"
    EVERY = "every"
    """The claim must hold for each pair."""


class Verdict(StrEnum):
    """What a hypothesis came to."""

    SAME = "no difference beyond the margin"
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    UNTESTABLE = "cannot be tested"
    AGREE = "agree"
    DISAGREE = "disagree"


class Measure(StrEnum):
    """A figure that two sides are compared by."""

    BITS_PER_BYTE = "bits_per_byte"
    KL_RATIO = "kl_ratio"
    PPL_RATIO = "ppl_ratio"
    TOP1 = "top1"
    SNR = "snr"
    ACCURACY = "accuracy"
    GOLD_NATS = "gold_nats"
    SIZE_MIB = "size_mib"

    @property
    def is_of_tasks(self) -> bool:
        """Return whether it is measured on the items of tasks."""
        return self in (Measure.ACCURACY, Measure.GOLD_NATS)

    @property
    def is_of_text(self) -> bool:
        """Return whether it is measured on the windows of texts."""
        return not self.is_of_tasks and self is not Measure.SIZE_MIB

    @property
    def is_ratio(self) -> bool:
        """Return whether its differences are logarithms, shown as ratios."""
        return self in (Measure.KL_RATIO, Measure.PPL_RATIO)

    @property
    def more_is_better(self) -> bool:
        """Return whether a side with a higher value keeps more of the model."""
        return self in (Measure.TOP1, Measure.SNR, Measure.ACCURACY, Measure.GOLD_NATS)

    @property
    def margin(self) -> float | None:
        """Return the default margin, in the unit of the estimate (of kl_ratio: of its logarithm)."""
        return _MARGINS.get(self)


_MARGINS = {
    Measure.BITS_PER_BYTE: 0.002,
    Measure.PPL_RATIO: 0.002,
    Measure.KL_RATIO: 0.05,
    Measure.ACCURACY: 0.005,
    Measure.TOP1: 0.005,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure, of one task if one is named."""

    measure: Measure
    task: str | None = None

    def __str__(self) -> str:
        return self.measure if self.task is None else f"{self.measure}:{self.task}"

    @classmethod
    def parse(cls, text: str) -> "Metric":
        """Return the metric that ``str`` wrote as this text.

        Raises:
            ValueError: there is no such measure, or it has no tasks.
        """
        name, colon, task = text.partition(":")
        measure = Measure(name)
        if colon and not (measure.is_of_tasks and task):
            raise ValueError(text)
        return cls(measure, task or None)


@dataclass(frozen=True, slots=True)
class Sides:
    """The variants that are compared: the mean of some with the mean of others."""

    left: tuple[str, ...]
    """Names of variants."""
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Two groups of languages, or of tasks: does the difference between the sides differ between them?"""

    of: By
    levels: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PlannedHypothesis:
    """A hypothesis of the spec, with the variants that it compares."""

    name: str
    claim: str
    hash: str
    """Of its table in the spec and of these variants: a hypothesis that was changed is another one."""
    metrics: tuple[Metric, ...]
    """One; or two, whose orders of all variants are compared."""
    pairs: tuple[Sides, ...] = ()
    combine: Combine = Combine.MEAN
    alternative: Alternative = Alternative.BETTER
    margin: float | None = None
    generalize: Level = Level.WINDOWS
    family: str = "main"
    by: By | None = None
    interaction: Interaction | None = None

    @property
    def metric(self) -> Metric:
        """Return what it compares first."""
        return self.metrics[0]

    @property
    def is_of_ranks(self) -> bool:
        """Return whether it compares the orders that two metrics put all variants in."""
        return len(self.metrics) > 1
