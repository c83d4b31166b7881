"""Estimates of a study's time, peak memory and disk space.

Before the first trial, time is operations divided by a measured rate, right within a factor of two on an idle machine. Later, the
measured steps correct the estimates of similar ones. Memory is an upper bound.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from studyctl.backends import OWN
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.limits import CHUNK_TENSORS, batch_tokens, chunk_tokens, device_kind
from studyctl.contract.methods import Checkpoint, GPTQOnGguf, OnGguf, Quantization, RTNOnGguf
from studyctl.contract.records import AttemptFinished, Progress, Record, StepFinished, StepStarted
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.gpus import torch_can_use_gpus
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Comparison
from studyctl.plan.devices import rate
from studyctl.plan.planner import StudyPlan
from studyctl.plan.trials import Trial
from studyctl.sources.configs import mixture_of

FACTOR = 2.0
"""Before anything is measured, the true time is between the estimate divided by this and multiplied by it."""
LOAD_SECONDS = 6.0
"""Starting a worker, importing torch and reading a small model."""
WORK = {"wanda": (2.0, 0.0), "sparsegpt": (2.5, 2.5), "gptq": (2.5, 2.5), "awq": (2.5, 14.0)}
"""Work of each method that uses calibration data: passes of the calibration tokens through the blocks, including statistics; operations
per weight and input of its linear: factorisation, error propagation, candidates of a search."""
BLOCK_SEARCH = 1_500.0
"""Operations per weight of the search for the scales of llama.cpp's blocks: some 20 candidates, rounded column by column."""
BACKEND_FACTOR = 2.0
"""Time of another package as a multiple of the engine's."""
BYTES_PER_TOKEN = 3.5
RUNTIME_BYTES = 800 << 20
"""Memory of a worker without a model: Python, torch, transformers, lm-eval, compiled kernels."""
CUDA_BUILD_BYTES = 400 << 20
"""What a torch that is built for CUDA takes more, also on a CPU."""
CUDA_CONTEXT_BYTES = 2 << 30
"""What a process takes on the host once it uses a GPU: its context and the libraries' kernels. Not measured, so generous."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the steps to run will take."""

    seconds: float
    again_seconds: float
    """Part of it: compressing what was compressed before, since the weights were not kept."""
    measured: bool
    """Whether the time is corrected by this study's own trials; else it is from sizes alone."""
    longest_seconds: float | None
    """Of the trial that takes longest; None where workers have no time limit."""
    host_bytes: int
    """Of all workers."""
    worker_bytes: int
    """Of one worker."""
    device_bytes: int
    """0 on a CPU."""
    disk_bytes: int


def estimate(plan: StudyPlan, comparison: Comparison, stored: Stored) -> Estimate:
    """Estimate what it takes to bring the results up to date."""
    clock = Clock(plan, comparison, stored)
    trials = [todo.trial for todo in comparison.todo]
    memory = [peak_bytes(plan, trial) for trial in trials]
    workers = max(1, min(len(plan.devices), len(trials)))
    longest = None
    if plan.place.seconds is not None:
        longest = max((clock.trial_seconds(trial.id) for trial in trials), default=0.0)
    return Estimate(
        again_seconds=clock.estimate(
            [(todo.trial.id, StepId(StepKind.COMPRESS)) for todo in comparison.todo if todo.again]
        ),
        seconds=clock.estimate() + LOAD_SECONDS * len({trial.model.index for trial in trials}) / workers,
        measured=clock.seconds_left() is not None,
        longest_seconds=longest,
        host_bytes=workers * max((host for host, _ in memory), default=0),
        worker_bytes=max((host for host, _ in memory), default=0),
        device_bytes=max((device for _, device in memory), default=0),
        disk_bytes=_disk_bytes(plan, comparison),
    )


StepClass = tuple[object, ...]
"""A class of steps whose estimates are off by a similar ratio."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step that is still to run, or many that are alike: variants of a model have the same texts."""

    classes: tuple[StepClass, ...]
    seconds: float
    """Estimated from sizes alone."""
    windows: int
    """Windows to measure; 0: not a perplexity step."""

    def fraction(self, step: Step) -> float:
        """Return the fraction of this step that ``step`` is: a batch of its windows, or all."""
        size = step.windows[1] - step.windows[0] if step.windows is not None else self.windows
        return min(1.0, size / self.windows) if self.windows else 1.0


@dataclass(slots=True)
class _Total:
    """What is left of the steps of some classes together: a study may have a million."""

    steps: int = 0
    seconds: float = 0.0


class Clock:
    """Estimates the time of the steps that are still to run, corrected by measured ones."""

    def __init__(self, plan: StudyPlan, comparison: Comparison, stored: Stored) -> None:
        self._devices = max(1, len(plan.devices))
        self._ratios: dict[StepClass, deque[float]] = defaultdict(lambda: deque(maxlen=64))
        """Measured over estimated seconds of the latest steps of each class."""
        self._pending: dict[str, dict[StepId, _Pending]] = {}
        """By trial."""
        self._totals: dict[tuple[StepClass, ...], _Total] = defaultdict(_Total)
        self._running: dict[str, tuple[Step, float, float]] = {}
        """By trial: the step, when it began, and the fraction that it reports as done."""
        for trial in plan.trials if stored.results else ():
            results = stored.results_of(trial.weights_key, trial.steps)
            for step in trial.steps:
                result = results.of(step)
                if result is not None and result.seconds is not None:
                    self._learn(_classes_of(trial, step), result.seconds, _seconds(plan, trial, step))
        alike: dict[_Pending, _Pending] = {}
        for trial, steps, *_ in comparison.todo:
            results = stored.results_of(trial.weights_key, trial.steps)
            for step in steps:
                windows = _windows(plan, step)
                spans = results.spans(step) if windows else ()
                missing = windows - sum(max(0, min(last, windows) - first) for first, last in spans)
                seconds = _seconds(plan, trial, step) * (missing / windows if windows else 1.0)
                pending = _Pending(_classes_of(trial, step), seconds, missing)
                self._put(trial.id, step.id, alike.setdefault(pending, pending))

    def _put(self, trial: str, step: StepId, pending: _Pending) -> None:
        self._pending.setdefault(trial, {})[step] = pending
        total = self._totals[pending.classes]
        total.steps += 1
        total.seconds += pending.seconds

    def _take(self, trial: str, step: StepId) -> _Pending | None:
        """Remove a step from what is left."""
        steps = self._pending.get(trial, {})
        if (pending := steps.pop(step, None)) is None:
            return None
        if not steps:
            del self._pending[trial]
        total = self._totals[pending.classes]
        total.steps -= 1
        total.seconds -= pending.seconds
        if not total.steps:
            del self._totals[pending.classes]
        return pending

    def record(self, record: Record) -> None:
        """Take a worker's record into account."""
        match record:
            case StepStarted():
                self._running[record.trial] = record.step, time.monotonic(), 0.0
            case Progress() if record.trial in self._running and record.total:
                step, begun, _ = self._running[record.trial]
                # Progress counts the windows of the whole text, those before the batch included.
                first, last = step.windows or (0, record.total)
                self._running[record.trial] = step, begun, (record.done - first) / (last - first)
            case StepFinished() | AttemptFinished():
                self._running.pop(record.trial, None)
        if not isinstance(record, StepFinished):
            return
        if pending := self._take(record.trial, record.step.id):
            part = 1.0 if record.is_last else pending.fraction(record.step)
            self._learn(pending.classes, record.seconds or 0.0, part * pending.seconds)
            if part < 1:
                left = round(pending.windows * (1 - part))
                pending = replace(pending, seconds=pending.seconds * (1 - part), windows=left)
                self._put(record.trial, record.step.id, pending)

    def _learn(self, classes: tuple[StepClass, ...], seconds: float, estimated: float) -> None:
        for key in classes if estimated > 0 else ():
            self._ratios[key].append(seconds / estimated)

    def seconds_left(self) -> float | None:
        """Return the seconds that are left; None before any step was measured."""
        return self.estimate() if self._ratios else None

    def trial_seconds(self, trial: str) -> float:
        """Return the seconds that are left of one trial, on one worker."""
        return self.estimate([(trial, step) for step in self._pending.get(trial, {})])

    def estimate(self, steps: Iterable[tuple[str, StepId]] | None = None) -> float:
        """Return the seconds that are left for some steps of trials, or for all; from sizes alone if nothing was measured."""
        if steps is None:
            return self._left(self._totals, self._pending)
        totals: dict[tuple[StepClass, ...], _Total] = defaultdict(_Total)
        chosen: dict[str, set[StepId]] = defaultdict(set)
        for trial, step in steps:
            if pending := self._pending.get(trial, {}).get(step):
                chosen[trial].add(step)
                totals[pending.classes].seconds += pending.seconds
        return self._left(totals, chosen)

    def _left(
        self, totals: Mapping[tuple[StepClass, ...], _Total], steps: Mapping[str, Container[StepId]]
    ) -> float:
        """Return the seconds that are left for steps of trials, whose totals by class these are."""
        seconds = sum(total.seconds * self._ratio(classes) for classes, total in totals.items())
        for trial, (step, begun, done) in self._running.items():
            if step.id in steps.get(trial, ()):
                pending = self._pending[trial][step.id]
                whole = pending.seconds * pending.fraction(step) * self._ratio(pending.classes)
                seconds -= whole * done if done else min(time.monotonic() - begun, whole)
        return seconds / max(1, min(self._devices, len(steps)))

    def _ratio(self, classes: tuple[StepClass, ...]) -> float:
        measured = next((self._ratios[key] for key in classes if key in self._ratios), [1.0])
        return median(measured)  # not the mean: the first task waits for an import


def _classes_of(trial: Trial, step: Step) -> tuple[StepClass, ...]:
    """Return the classes of a step, narrowest first."""
    model, kind = trial.model.index, step.kind
    if kind is StepKind.COMPRESS:
        method = trial.variant.method, trial.variant.backend
        return ((model, kind, method), (kind, method), ("compress",), ("all",))
    return ((model, *step.id, trial.is_dense), (model, *step.id), (model, kind), (model,), ("all",))


def _seconds(plan: StudyPlan, trial: Trial, step: Step) -> float:
    """Return the seconds of a step, estimated from sizes alone."""
    identity, evaluation = trial.model.identity, plan.document.spec.evaluation
    if identity is None:
        return 0.0
    embeddings = identity.vocab_size * identity.hidden_size
    blocks = 2.0 * (identity.parameters - (1 if identity.tied else 2) * embeddings)
    head = 2.0 * identity.vocab_size * (identity.hidden_size + 16)  # a softmax takes as long as 16 products
    operations: float = (
        2000.0 * identity.parameters
    )  # per weight: scored and written, or packed and read back
    if step.kind is StepKind.COMPRESS:
        operations += _compressing(trial)
    elif step.kind is StepKind.PERPLEXITY and evaluation.perplexity:
        heads = 3.2 if evaluation.fidelity and not trial.is_dense else 1.0  # both models' logits, compared
        operations = _windows(plan, step) * evaluation.perplexity.sequence_length * (blocks + heads * head)
    elif step.kind is StepKind.ACTIVATIONS and evaluation.perplexity:
        operations = _windows(plan, step) * evaluation.perplexity.sequence_length * blocks
    elif step.kind is StepKind.DEPLOY and evaluation.speed and evaluation.perplexity and evaluation.fidelity:
        compared = evaluation.speed.windows * len(evaluation.perplexity.languages)
        operations += compared * evaluation.perplexity.sequence_length * (blocks + 3.2 * head)
    elif step.kind is StepKind.TASK and evaluation.tasks:
        task = plan.tasks.get(step.subject or "")
        # Half of an item's text in the file is in the prompt, and a third of that is scored.
        tokens = task.bytes / task.items / BYTES_PER_TOKEN / 2 if task and task.items and task.bytes else 50.0
        prompts = _items(plan, step) * (1 + evaluation.tasks.shots)
        operations = prompts * tokens * (blocks + 0.3 * head)
    device = plan.devices[0] if plan.devices else "cpu"
    return operations / rate(device, trial.model.dtype, identity.hidden_size)


def _compressing(trial: Trial) -> float:
    """Return the operations of compressing, from the rows of :data:`WORK` for the trial's methods."""
    settings, calibration = trial.variant.settings, trial.variant.calibration
    data = trial.model.calibrations[calibration] if calibration is not None else None
    tokens = data.samples * data.sequence_length if data is not None else 0
    methods = {settings.method} if isinstance(settings.method, str) else set(settings.method)
    passes, per_input = (sum(WORK[method][part] for method in methods & WORK.keys()) for part in (0, 1))
    if getattr(settings, "objective", "") == "block":  # the attention or MLP runs for every second candidate
        passes += getattr(settings, "ratios", 0) / 2
    if getattr(settings, "target", 0):  # the dense block runs too
        passes *= 2
    linears = trial.model.identity.linears.values() if trial.model.identity else ()
    operations = sum(out * inputs * (2 * passes * tokens + per_input * inputs) for out, inputs in linears)
    if isinstance(settings, GPTQOnGguf | RTNOnGguf) and trial.model.identity is not None:
        operations += BLOCK_SEARCH * trial.model.identity.parameters
    return operations * (1 if trial.variant.backend == OWN else BACKEND_FACTOR)


def _windows(plan: StudyPlan, step: Step) -> int:
    """Return how many windows of a text are asked for, or fit its size if those are fewer; 0 for other steps."""
    protocol = plan.document.spec.evaluation.perplexity
    if step.windows is None or protocol is None:
        return 0
    text = plan.texts.get((protocol.source, "perplexity", step.subject or ""))
    size = text.bytes / BYTES_PER_TOKEN if text and text.bytes else float("inf")
    return max(1, int(min(step.windows[1], size // protocol.sequence_length)))


def _items(plan: StudyPlan, step: Step) -> int:
    """Return how many items of a task are scored; 2,000 if unknown."""
    task, tasks = plan.tasks.get(step.subject or ""), plan.document.spec.evaluation.tasks
    items = (task.items if task else None) or 2000
    return min(items, tasks.limit) if tasks and tasks.limit else items


@cache
def _runtime_bytes(kind: str) -> int:
    """Return an upper bound of the memory of a worker without a model."""
    build = CUDA_BUILD_BYTES if torch_can_use_gpus() else 0
    return RUNTIME_BYTES + build + (CUDA_CONTEXT_BYTES if kind == "cuda" else 0)


def _hessian_bytes(model: ModelIdentity) -> int:
    """Return the bytes of a block's Hessians, and of its widest linears in float32."""
    hidden, inner = model.hidden_size, model.intermediate_size
    of_experts: Counter[str] = Counter()  # by block: those of all its experts exist at once
    for name, (_, inputs) in model.linears.items():
        if owner := mixture_of(name):
            of_experts[owner] += 4 * inputs**2
    return 4 * (3 * hidden**2 + 2 * inner**2) + 20 * hidden * inner + max(of_experts.values(), default=0)


def peak_bytes(plan: StudyPlan, trial: Trial) -> tuple[int, int]:
    """Return upper bounds of a worker's resident memory and of its GPU memory (0 on a CPU), in bytes."""
    identity, settings, calibration = trial.model.identity, trial.variant.settings, trial.variant.calibration
    device = plan.devices[0] if plan.devices else "cpu"
    runtime = _runtime_bytes(device_kind(device))
    if identity is None:
        return runtime, 0
    evaluation = plan.document.spec.evaluation
    hidden, inner, vocabulary = identity.hidden_size, identity.intermediate_size, max(1, identity.vocab_size)
    width = 4 if trial.model.dtype == "float32" else 2
    weights = identity.parameters * width
    length = evaluation.perplexity.sequence_length if evaluation.perplexity else 0
    working = 4 * max(batch_tokens(device), length) * (6 * hidden + 3 * inner)  # a pass through a block
    working += CHUNK_TENSORS * 4 * chunk_tokens(vocabulary, device) * vocabulary  # logits of a text
    if isinstance(settings, Quantization):  # codes and scales
        working += 5 * sum(out * inputs for out, inputs in identity.linears.values()) // 4
    if isinstance(settings, OnGguf):  # blocks, and the embedding once more
        working += 5 * identity.parameters // 4 + vocabulary * hidden * width
    if calibration is not None and (data := trial.model.calibrations[calibration]) is not None:
        streams = 4 if getattr(settings, "target", 0) else 3  # the dense model's inputs as well
        working += streams * data.samples * data.sequence_length * hidden * width + _hessian_bytes(identity)
    if evaluation.fidelity is not None and evaluation.fidelity.activations:
        working += identity.layers * length * hidden * width  # one window's hidden states of all blocks
    if plan.document.spec.execution.keep_weights:
        working = max(working, 3 * weights // 2)  # an export is read back next to the model
    if evaluation.speed is not None:
        working = max(
            working, 3 * weights
        )  # so is a file, which llama.cpp loads then, with some blocks in another order
    # A file is mapped while it is read, and mapped pages are resident; a GGUF file is converted to float32 once.
    models = (identity, trial.checkpoint or identity)
    loading = max(4 * model.parameters if model.kind == "package" else model.weight_bytes for model in models)
    if trial.variant.backend != OWN:  # a second process with a model of its own
        working += runtime + weights
    if device.startswith("cuda"):
        return runtime + weights + loading, weights + working
    return runtime + weights + max(loading, working), 0


def _disk_bytes(plan: StudyPlan, comparison: Comparison) -> int:
    """Return the bytes of dense references, weights in progress and kept, exports, item rows and journals."""
    evaluation, references, weights, kept, others = plan.document.spec.evaluation, {}, 0, 0.0, 0
    for trial, steps, *_ in comparison.todo:
        if (identity := trial.model.identity) is None:
            continue
        width = 4 if trial.model.dtype == "float32" else 2
        weights = max(weights, 2 * identity.parameters * width)  # finished blocks, and then the whole
        settings = trial.variant.settings
        if any(step.kind is StepKind.COMPRESS for step in steps) and not isinstance(settings, Checkpoint):
            bits = settings.bits_per_weight
            kept += sum(out * inputs * bits(inputs) / 8 for out, inputs in identity.linears.values())
        others += 50_000 + sum(60 * _items(plan, step) for step in steps if step.kind is StepKind.TASK)
        others += identity.parameters * width * sum(step.kind is StepKind.EXPORT for step in steps)
        if any(step.kind is StepKind.DEPLOY for step in steps):
            is_small = isinstance(settings, Quantization | OnGguf)
            others += identity.parameters * width // (2 if is_small else 1)
        if evaluation.fidelity and evaluation.perplexity and trial.model.index not in references:
            states = sum(  # after the last block of each window, or after every block
                _windows(plan, step) * (identity.layers if step.kind is StepKind.ACTIVATIONS else 1)
                for step in trial.model.steps
            )
            tokens = states * evaluation.perplexity.sequence_length
            references[trial.model.index] = tokens * identity.hidden_size * width
    kept = min(round(kept), plan.document.spec.execution.keep_trial_weights)
    return sum(references.values()) + weights + kept + others
