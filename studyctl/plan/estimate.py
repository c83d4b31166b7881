"""What a study will take: time, peak memory, disk.

Before anything is measured from sizes and this machine's speed, then from what this study's own trials took.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain
from statistics import fmean
from typing import NamedTuple

from studyctl.backends import OWN
from studyctl.contract.job import CalibrationData
from studyctl.contract.methods import Quantization
from studyctl.contract.records import Record, StepFinished
from studyctl.contract.steps import ALL_WINDOWS, Step, StepId, StepKind
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Comparison
from studyctl.plan.compressing import forward_passes, solving_work, stored_bytes
from studyctl.plan.memory import peak_device_bytes, peak_host_bytes
from studyctl.plan.planner import StudyPlan
from studyctl.plan.speed import FORWARD_EFFICIENCY, forward_rate
from studyctl.plan.trials import PlannedModel, Trial

TOKENIZING_SECONDS = 0.3
"""Reading a language's text and tokenizing it, which the first trial of a model does for all."""
LOAD_SECONDS = 6.0
"""Starting a worker, importing torch and reading a small model's weights."""
ELEMENTWISE = 1000.0
"""Operations of a forward pass that take as long as scoring, choosing and writing one weight."""
PACKAGES_TAKE = 2.0
"""How much longer than the engine another package takes for the same work, roughly (`python -m benchmarks peers`)."""
FIDELITY_HEADS = 3.2
"""Logits of the variant and of dense, and the comparison, as multiples of ``lm_head`` and one softmax."""
ITEM_TEXT = 0.5
"""Part of an item's bytes in its file that is read; the rest is names of fields and what choices share."""
SCORED_TOKENS = 0.3
"""Part of the tokens of a task that predict something, and so have logits."""
BYTES_PER_TOKEN = 3.5
RECENT_STEPS = 64
"""Number of recent steps of a kind that the estimates of the next ones are corrected by."""
STORED_COPIES = 2
"""Blocks that are done are on the disk until the whole model is."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to come."""

    seconds: float
    measured: bool
    """Whether the time is from this study's own trials, or from sizes alone."""
    host_bytes: int
    device_bytes: int
    """0 on a CPU."""
    disk_bytes: int


def estimate(plan: StudyPlan, comparison: Comparison, stored: Stored) -> Estimate:
    """Estimate what it takes to bring the store up to date."""
    times = StepTimes(plan, stored)
    models = {todo.trial.model.index: todo.trial.model for todo in comparison.todo}
    workers = max(1, min(len(plan.devices), len(comparison.todo)))
    seconds = sum(
        sum(times.parts_of(todo.trial, step)) * _missing(todo.trial, step, stored)
        for todo in comparison.todo
        for step in todo.steps
    )
    seconds += len(models) * LOAD_SECONDS
    return Estimate(
        seconds=seconds / workers,
        measured=times.measured,
        host_bytes=workers * max((peak_host_bytes(plan, todo.trial) for todo in comparison.todo), default=0),
        device_bytes=max((peak_device_bytes(plan, todo.trial) for todo in comparison.todo), default=0),
        disk_bytes=_disk(plan, list(models.values()), comparison),
    )


def _missing(trial: Trial, step: Step, stored: Stored) -> float:
    """Return the part of a step that is not stored: of a text, by its windows."""
    if step.windows is None or step.windows[1] == ALL_WINDOWS:
        return 1.0
    end = step.windows[1]
    there = sum(
        min(last, end) - first for first, last in stored.has(trial.weights_key).spans(step) if first < end
    )
    return 1 - there / end


class StepTimes:
    """Seconds of a step: measured by another trial of this study, else from its work and the machine's rate."""

    def __init__(self, plan: StudyPlan, stored: Stored) -> None:
        self.plan = plan
        self._seconds: dict[_Label, float] = {}
        self._ratios: dict[_Kind, float] = {}
        self.measured = False
        self._learn(stored)

    def parts_of(self, trial: Trial, step: Step) -> tuple[float, float]:
        """Return estimated seconds of forward passes, and of what is done in float32 whatever the model's dtype."""
        known = self._seconds.get(_label(trial, step))
        if known is not None:
            return known, 0.0
        passing, solving = self._from_work(trial, step)
        ratio = self._ratios.get(step_kind(trial, step))
        if ratio is not None:
            return passing * ratio, solving * ratio
        index = trial.model.index
        return passing * self._ratios.get(_Kind(index, StepKind.PERPLEXITY), 1.0), solving

    def _from_work(self, trial: Trial, step: Step) -> tuple[float, float]:
        """Return seconds of forward passes in the model's dtype, and of what is done in float32 whatever that is."""
        device = self.plan.devices[0] if self.plan.devices else "cpu"
        passing = step_work(self.plan, trial, step) / forward_rate(trial.model.dtype, device)
        identity = trial.model.identity
        if step.kind is StepKind.PERPLEXITY and trial.is_dense:
            return passing + TOKENIZING_SECONDS, 0.0
        if step.kind is not StepKind.COMPRESS or identity is None:
            return passing, 0.0
        work = solving_work(identity, trial.variant.settings, _windows(trial)) * FORWARD_EFFICIENCY
        work += ELEMENTWISE * _block_parameters(trial.model)
        solving = work / forward_rate("float32", device)
        times = 1.0 if trial.variant.backend == OWN else PACKAGES_TAKE
        return times * passing, times * solving

    def _learn(self, stored: Stored) -> None:
        """Take the times of stored steps, and how wrong the estimates of such steps were."""
        seconds: dict[_Label, list[float]] = defaultdict(list)
        times: dict[_Kind, list[tuple[float, float]]] = defaultdict(list)
        for trial in self.plan.trials if stored.results else ():
            have = stored.has(trial.weights_key)
            for step in trial.steps if have else ():
                result = have.of(step)
                if result is not None and result.seconds is not None:
                    seconds[_label(trial, step)].append(result.seconds)
                    expected = sum(self._from_work(trial, step))
                    times[step_kind(trial, step)].append((result.seconds, expected))
        self._seconds = {key: fmean(values) for key, values in seconds.items()}
        self._ratios = {key: usual_ratio(values) for key, values in times.items()}
        self.measured = bool(seconds)


def usual_ratio(times: Iterable[tuple[float, float]]) -> float:
    """Return how many times the estimate steps usually take: the median, weighted by what was estimated; 1 without any.

    Not the mean: the first task of a worker waits for lm-eval's import, and of short ones takes several times as long.

    Args:
        times: measured and estimated seconds of each step.
    """
    ratios = sorted((seconds / expected, expected) for seconds, expected in times if expected > 0)
    half = sum(expected for _, expected in ratios) / 2
    reached = accumulate(expected for _, expected in ratios)
    return next((ratio for (ratio, _), sofar in zip(ratios, reached, strict=True) if sofar >= half), 1.0)


class _Kind(NamedTuple):
    """Steps that are alike in how far their estimates are off."""

    model: int
    kind: StepKind
    method: str = ""
    """Of ``compress``."""


class _Label(NamedTuple):
    """Steps that take as long as each other: compression by its method, an evaluation for every variant."""

    model: int
    step: StepId
    how: str
    """The method, and whose implementation; of an evaluation whether it is the dense model's."""


def step_kind(trial: Trial, step: Step) -> _Kind:
    """Return what steps are alike in how far their estimates are off."""
    method = _label(trial, step).how if step.kind is StepKind.COMPRESS else ""
    return _Kind(trial.model.index, step.kind, method)


def _label(trial: Trial, step: Step) -> _Label:
    if step.kind is StepKind.COMPRESS:
        how = f"{trial.variant.method}@{trial.variant.backend}"
    else:
        how = "dense" if trial.is_dense else ""
    return _Label(trial.model.index, step.id, how)


def step_work(plan: StudyPlan, trial: Trial, step: Step) -> float:
    """Return floating point operations of a step."""
    model = trial.model
    match step.kind:
        case StepKind.LOAD:
            return 0.0
        case StepKind.COMPRESS:
            return _compress_work(trial)
        case StepKind.EXPORT:  # packing, reading back and comparing
            return 2 * ELEMENTWISE * (model.identity.parameters if model.identity else 0)
        case StepKind.PERPLEXITY:
            tokens = perplexity_tokens(plan, step.subject)
            compared = plan.document.spec.evaluation.fidelity is not None and not trial.is_dense
            heads = FIDELITY_HEADS if compared else 1.0
            return tokens * (_block_work(model) + heads * _head_work(model))
        case StepKind.TASK:
            item_work = _item_tokens(plan, step.subject) * (
                _block_work(model) + SCORED_TOKENS * _head_work(model)
            )
            return task_items(plan, step.subject) * item_work


def _block_parameters(model: PlannedModel) -> int:
    return sum(out * inputs for out, inputs in model.identity.linears.values()) if model.identity else 0


def _block_work(model: PlannedModel) -> float:
    """Operations a token in the decoder blocks: two a weight."""
    return 2.0 * _block_parameters(model)


def _head_work(model: PlannedModel) -> float:
    """Operations a token in ``lm_head`` and softmax; a softmax costs about as much as 16 products a logit."""
    identity = model.identity
    return 2.0 * identity.vocab_size * (identity.hidden_size + 16) if identity else 0.0


def _compress_work(trial: Trial) -> float:
    """Operations of forward passes; of the rest see :func:`~studyctl.plan.compressing.solving_work`."""
    windows = _windows(trial)
    if windows is None:
        return 0.0
    passes = forward_passes(trial.variant.settings)
    return passes * windows.samples * windows.sequence_length * _block_work(trial.model)


def _windows(trial: Trial) -> CalibrationData | None:
    calibration = trial.variant.calibration
    return None if calibration is None else trial.model.calibrations[calibration]


def perplexity_tokens(plan: StudyPlan, language: str | None) -> int:
    """Return the tokens of a language's windows, from its bytes where all of the text is asked for."""
    protocol = plan.document.spec.evaluation.perplexity
    if protocol is None:
        return 0
    text = plan.texts.get((protocol.source, "perplexity", language or ""))
    whole = int(text.bytes / BYTES_PER_TOKEN) if text and text.bytes else None
    wanted = protocol.windows * protocol.sequence_length
    if not wanted:
        return whole or 0
    return min(wanted, whole) if whole else wanted


def task_items(plan: StudyPlan, name: str | None) -> int:
    """Return how many items of a task are scored; 2,000 where that is not known."""
    tasks = plan.document.spec.evaluation.tasks
    identity = plan.tasks.get(name or "")
    items = (identity.items if identity else None) or 2000
    return min(items, tasks.limit) if tasks and tasks.limit else items


def _item_tokens(plan: StudyPlan, name: str | None) -> float:
    """Return the tokens that an item costs with its examples, from the size of the items' file; 50 each where that is not known."""
    identity, tasks = plan.tasks.get(name or ""), plan.document.spec.evaluation.tasks
    texts = 1 + (tasks.shots if tasks is not None else 0)
    if identity is None or not identity.items or not identity.bytes:
        return 50.0 * texts
    return texts * ITEM_TEXT * identity.bytes / identity.items / BYTES_PER_TOKEN


def _disk(plan: StudyPlan, models: list[PlannedModel], comparison: Comparison) -> int:
    """Return bytes of dense references, weights of the largest trial in progress, exports, item rows and journals."""
    spec = plan.document.spec
    languages = (
        spec.evaluation.perplexity.languages
        if spec.evaluation.fidelity and spec.evaluation.perplexity
        else ()
    )
    tokens = sum(perplexity_tokens(plan, language) for language in languages)
    width = {"float32": 4}
    references = sum(
        tokens * model.identity.hidden_size * width.get(model.dtype, 2) for model in models if model.identity
    )
    weights = max(
        (_stored_bytes(todo.trial, width.get(todo.trial.model.dtype, 2)) for todo in comparison.todo),
        default=0,
    )
    rows = sum(
        task_items(plan, step.subject)
        for model in models
        for step in model.steps
        if step.kind is StepKind.TASK
    )
    exports = sum(
        export_bytes(todo.trial)
        for todo in comparison.todo
        if any(step.kind is StepKind.EXPORT for step in todo.steps)
    )
    return references + STORED_COPIES * weights + exports + len(comparison.todo) * (rows * 60 + 50_000)


def _stored_bytes(trial: Trial, width: int) -> int:
    identity = trial.model.identity
    return stored_bytes(identity, trial.variant.settings, width) if identity and not trial.is_dense else 0


def export_bytes(trial: Trial) -> int:
    """Return the size of an exported trial: quantized linears packed at 4 or 8 bits, all else in the model's dtype."""
    identity, settings = trial.model.identity, trial.variant.settings
    if identity is None:
        return 0
    width = 32 if trial.model.dtype == "float32" else 16
    bits = float(width * identity.parameters)
    if isinstance(settings, Quantization):
        packed = 4 if settings.bits <= 4 else 8
        of_group = width if settings.symmetric else width + packed
        for out, inputs in identity.linears.values():
            bits += out * inputs * (packed + of_group / (settings.group_size or inputs) - width)
    return int(bits / 8)


@dataclass
class _Expected:
    """A step that is to come."""

    kind: _Kind
    passing: float
    """Estimated seconds of forward passes."""
    rest: float
    """Estimated seconds of what is done in float32 whatever the model's dtype."""
    windows: int
    """Windows that are to be measured, as far as is known; 0: no text."""


@dataclass
class Clock:
    """Time that is left of a run: estimates of the steps to come, corrected by what their kind took so far."""

    workers: int = 1
    expected: dict[tuple[str, StepId], _Expected] = field(default_factory=dict)
    """By trial and step."""
    _done: dict[_Kind, deque[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT_STEPS))
    )
    """Measured and estimated seconds of the last steps of each kind."""

    @classmethod
    def of(cls, plan: StudyPlan, comparison: Comparison, stored: Stored) -> "Clock":
        """Return the clock of a run that begins now."""
        times = StepTimes(plan, stored)
        expected = {}
        for todo in comparison.todo:
            for step in todo.steps:
                missing = _missing(todo.trial, step, stored)
                passing, rest = (missing * part for part in times.parts_of(todo.trial, step))
                windows = round(missing * _asked_windows(plan, step))
                expected[todo.trial.id, step.id] = _Expected(
                    step_kind(todo.trial, step), passing, rest, windows
                )
        return cls(max(1, len(plan.devices)), expected)

    def record(self, record: Record) -> None:
        """Account for a step that finished, or for a batch of its windows."""
        if not isinstance(record, StepFinished):
            return
        place = record.trial, record.step.id
        expected = self.expected.get(place)
        if expected is None:
            return
        part = 1.0 if record.is_last else _part_of(record.step, expected.windows)
        estimated = part * (expected.passing + expected.rest)
        self._done[expected.kind].append((record.seconds or 0.0, estimated))
        if part == 1:
            del self.expected[place]
            return
        expected.passing *= 1 - part
        expected.rest *= 1 - part
        expected.windows -= _size(record.step)

    def seconds_left(self) -> float | None:
        """Return the estimate, or None before a step of the run is finished."""
        if not self._done:
            return None
        return sum(self._corrected()) / self.workers

    def _corrected(self) -> Iterator[float]:
        ratios = {kind: usual_ratio(times) for kind, times in self._done.items()}
        passes = [times for kind, times in self._done.items() if kind.kind is not StepKind.COMPRESS]
        usual = usual_ratio(chain.from_iterable(passes))
        for expected in self.expected.values():
            ratio = ratios.get(expected.kind)
            # What other steps took says how slow passes are here, and nothing of a search or a sweep.
            if ratio is None:
                yield expected.passing * usual + expected.rest
            else:
                yield (expected.passing + expected.rest) * ratio


def _size(step: Step) -> int:
    return step.windows[1] - step.windows[0] if step.windows is not None else 0


def _part_of(batch: Step, windows: int) -> float:
    """Return which part of what is left of a step a batch of its windows is."""
    return min(1.0, _size(batch) / windows) if batch.windows is not None and windows > 0 else 1.0


def _asked_windows(plan: StudyPlan, step: Step) -> int:
    """Return how many windows of a text are asked for, or that it has by its size."""
    protocol = plan.document.spec.evaluation.perplexity
    if step.windows is None or protocol is None:
        return 0
    return min(step.windows[1], perplexity_tokens(plan, step.subject) // protocol.sequence_length)
