"""What a study will take: time, peak memory, disk.

Before anything is measured from sizes and this machine's speed, then from what this study's own trials took.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, chain
from statistics import fmean
from typing import Any

from studyctl.backends import OWN
from studyctl.compress.settings import Quantization
from studyctl.plan.compare import Comparison, Todo
from studyctl.plan.compressing import forward_passes, solving_work, stored_bytes
from studyctl.plan.memory import peak_device_bytes, peak_host_bytes
from studyctl.plan.planner import StudyPlan
from studyctl.plan.speed import FORWARD_EFFICIENCY, forward_rate
from studyctl.plan.trials import CalibrationWindows, PlannedModel, Trial
from studyctl.store.index import Stored

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
RECENT_STAGES = 64
"""So many stages of a kind tell how far the estimates of the next ones are off."""
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
    clock = StageTimes(plan, stored)
    models = {todo.trial.model.index: todo.trial.model for todo in comparison.todo}
    workers = max(1, min(len(plan.devices), len(comparison.todo)))
    seconds = sum(sum(clock.of_todo(todo).values()) for todo in comparison.todo)
    seconds += len(models) * LOAD_SECONDS
    return Estimate(
        seconds=seconds / workers,
        measured=clock.measured,
        host_bytes=workers * max((peak_host_bytes(plan, todo.trial) for todo in comparison.todo), default=0),
        device_bytes=max((peak_device_bytes(plan, todo.trial) for todo in comparison.todo), default=0),
        disk_bytes=_disk(plan, list(models.values()), comparison),
    )


class StageTimes:
    """Seconds of a stage: measured by another trial of this study, else from its work and the machine's rate."""

    def __init__(self, plan: StudyPlan, stored: Stored) -> None:
        self.plan = plan
        self._rates: dict[str, float] = {}
        self._seconds: dict[tuple[int, str], float] = {}
        self._ratios: dict[tuple[int, str], float] = {}
        self.measured = False
        self._learn(stored)

    def of_todo(self, todo: Todo) -> dict[str, float]:
        """Return estimated seconds of each stage to run."""
        return {name: sum(self.parts_of(todo.trial, name)) for name in todo.stages}

    def parts_of(self, trial: Trial, stage: str) -> tuple[float, float]:
        """Return estimated seconds of forward passes, and of what is done in float32 whatever the model's dtype."""
        index = trial.model.index
        known = self._seconds.get((index, _label(trial, stage)))
        if known is not None:
            return known, 0.0
        passing, solving = self._from_work(trial, stage)
        ratio = self._ratios.get((index, stage_kind(trial, stage)))
        if ratio is not None:
            return passing * ratio, solving * ratio
        return passing * self._ratios.get((index, "perplexity"), 1.0), solving

    def _from_work(self, trial: Trial, stage: str) -> tuple[float, float]:
        """Return seconds of forward passes in the model's dtype, and of what is done in float32 whatever that is."""
        device = self.plan.devices[0] if self.plan.devices else "cpu"
        passing = stage_work(self.plan, trial, stage) / forward_rate(trial.model.dtype, device)
        identity = trial.model.identity
        if stage.startswith("perplexity:") and trial.is_dense:
            return passing + TOKENIZING_SECONDS, 0.0
        if stage != "compress" or identity is None:
            return passing, 0.0
        work = solving_work(identity, trial.variant.settings, _windows(trial)) * FORWARD_EFFICIENCY
        work += ELEMENTWISE * _block_parameters(trial.model)
        solving = work / forward_rate("float32", device)
        times = 1.0 if trial.variant.backend == OWN else PACKAGES_TAKE
        return times * passing, times * solving

    def _learn(self, stored: Stored) -> None:
        """Take the times of stored stages, and how wrong the estimates of such stages were."""
        seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
        times: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        for trial in self.plan.trials if stored.results else ():
            results = stored.has(trial.weights_key) if trial.weights_key else {}
            keys = {trial.weights_key: "compress"} | {stage.key: stage.name for stage in trial.model.stages}
            for key, done in results.items():
                if (name := keys.get(key)) is not None and done.seconds is not None:
                    seconds[trial.model.index, _label(trial, name)].append(done.seconds)
                    expected = sum(self._from_work(trial, name))
                    times[trial.model.index, stage_kind(trial, name)].append((done.seconds, expected))
        self._seconds = {key: fmean(values) for key, values in seconds.items()}
        self._ratios = {key: usual_ratio(values) for key, values in times.items()}
        self.measured = bool(seconds)


def usual_ratio(times: Iterable[tuple[float, float]]) -> float:
    """Return how many times the estimate stages usually take: the median, weighted by what was estimated; 1 without any.

    Not the mean: the first task of a worker waits for lm-eval's import, and of short ones takes several times as long.

    Args:
        times: measured and estimated seconds of each stage.
    """
    ratios = sorted((seconds / expected, expected) for seconds, expected in times if expected > 0)
    half = sum(expected for _, expected in ratios) / 2
    reached = accumulate(expected for _, expected in ratios)
    return next((ratio for (ratio, _), sofar in zip(ratios, reached, strict=True) if sofar >= half), 1.0)


def stage_kind(trial: Trial, stage: str) -> str:
    """Return what stages are alike in how far their estimates are off."""
    return _label(trial, stage) if stage == "compress" else stage.partition(":")[0]


def _label(trial: Trial, stage: str) -> str:
    """Compression takes as long as its method, an evaluation the same for every variant."""
    if stage == "compress":
        by = "" if trial.variant.backend == OWN else f"@{trial.variant.backend}"
        return f"compress {trial.variant.method}{by}"
    return stage if not trial.is_dense else f"{stage} of dense"


def stage_work(plan: StudyPlan, trial: Trial, stage: str) -> float:
    """Return floating point operations of a stage."""
    model = trial.model
    kind, _, subject = stage.partition(":")
    if kind == "compress":
        return _compress_work(trial)
    if kind == "export":  # packing, reading back and comparing
        return 2 * ELEMENTWISE * (model.identity.parameters if model.identity else 0)
    if kind == "perplexity":
        tokens = perplexity_tokens(plan, subject)
        compared = plan.document.spec.evaluation.fidelity is not None and not trial.is_dense
        heads = FIDELITY_HEADS if compared else 1.0
        return tokens * (_block_work(model) + heads * _head_work(model))
    item_work = _item_tokens(plan, subject) * (_block_work(model) + SCORED_TOKENS * _head_work(model))
    return task_items(plan, subject) * item_work


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
    return passes * windows.samples * windows.tokens * _block_work(trial.model)


def _windows(trial: Trial) -> CalibrationWindows | None:
    calibration = trial.variant.calibration
    return None if calibration is None else trial.model.calibrations[calibration]


def perplexity_tokens(plan: StudyPlan, language: str) -> int:
    """Return the tokens of a language's windows, from its bytes where all of the text is asked for."""
    protocol = plan.document.spec.evaluation.perplexity
    if protocol is None:
        return 0
    text = plan.texts.get((protocol.source, "perplexity", language))
    whole = int(text.bytes / BYTES_PER_TOKEN) if text and text.bytes else None
    wanted = protocol.windows * protocol.sequence_length
    if not wanted:
        return whole or 0
    return min(wanted, whole) if whole else wanted


def task_items(plan: StudyPlan, name: str) -> int:
    """Return how many items of a task are scored; 2,000 where that is not known."""
    tasks = plan.document.spec.evaluation.tasks
    identity = plan.tasks.get(name)
    items = (identity.items if identity else None) or 2000
    return min(items, tasks.limit) if tasks and tasks.limit else items


def _item_tokens(plan: StudyPlan, name: str) -> float:
    """Return the tokens that an item costs with its examples, from the size of the items' file; 50 each where that is not known."""
    identity, tasks = plan.tasks.get(name), plan.document.spec.evaluation.tasks
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
        task_items(plan, stage.name[5:])
        for model in models
        for stage in model.stages
        if stage.name[:5] == "task:"
    )
    exports = sum(export_bytes(todo.trial) for todo in comparison.todo if "export" in todo.stages)
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
class Clock:
    """Time that is left of a run: estimates of the stages to come, corrected by what their kind took so far."""

    workers: int = 1
    expected: dict[tuple[str, str], tuple[str, float, float]] = field(default_factory=dict)
    """Kind and estimated seconds, of passes and of the rest, by trial and stage."""
    _done: dict[str, deque[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT_STAGES))
    )
    """Measured and estimated seconds of the last stages of each kind."""

    @classmethod
    def of(cls, plan: StudyPlan, comparison: Comparison, stored: Stored) -> "Clock":
        """Return the clock of a run that begins now."""
        times = StageTimes(plan, stored)
        expected = {
            (todo.trial.id, name): (stage_kind(todo.trial, name), *times.parts_of(todo.trial, name))
            for todo in comparison.todo
            for name in todo.stages
        }
        return cls(max(1, len(plan.devices)), expected)

    def record(self, record: Mapping[str, Any]) -> None:
        """Account for a stage that finished."""
        if record["kind"] != "stage_finished":
            return
        expected = self.expected.pop((record["trial"], record["stage"]), None)
        if expected is not None:
            kind, passing, rest = expected
            self._done[kind].append((record["seconds"], passing + rest))

    def seconds_left(self) -> float | None:
        """Return the estimate, or None before a stage of the run is finished."""
        if not self._done:
            return None
        return sum(self._corrected()) / self.workers

    def _corrected(self) -> Iterator[float]:
        ratios = {kind: usual_ratio(times) for kind, times in self._done.items()}
        passes = [times for kind, times in self._done.items() if not kind.startswith("compress")]
        usual = usual_ratio(chain.from_iterable(passes))
        for kind, passing, rest in self.expected.values():
            ratio = ratios.get(kind)
            # What other stages took says how slow passes are here, and nothing of a search or a sweep.
            yield passing * usual + rest if ratio is None else (passing + rest) * ratio
