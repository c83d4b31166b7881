"""A small recorded study, written as a worker and a runner write one: for every test that needs results.

Two models, three variants (dense, wanda-0.5, rtn-4bit-g64), three languages, two tasks with items. Every figure follows
from a formula here, so that tests can say what the tables must hold.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from studyctl.contract import kl_counts
from studyctl.contract.hypotheses import PlannedHypothesis
from studyctl.contract.plan import Planned, PlannedStep, PlannedTrial, write_plan
from studyctl.contract.records import (
    SCHEMA,
    AttemptFinished,
    AttemptStarted,
    FileFacts,
    Items,
    Layer,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    TaskFigure,
    TextBatch,
    Warned,
    Window,
)
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import FailureCause
from studyctl.files import StudyPaths, digest
from studyctl.journal.files import JournalWriter
from studyctl.journal.parts import keep_texts
from studyctl.run.trust import remember

MODELS = ("org/alpha", "org/beta")
VARIANTS = ("dense", "wanda-0.5", "rtn-4bit-g64")
LANGUAGES = ("en", "sw", "zh")
TASKS = ("arc_easy", "boolq")
ITEMS = 20
WINDOWS = 4
TOKENS = 100
"""Scored tokens of a window."""
BYTES = 2000
"""Of all windows of a language together."""
RATIOS = {"dense": 1.0, "wanda-0.5": 1.5, "rtn-4bit-g64": 1.1}
"""Perplexity against dense in English."""
WORSE = {"en": 1.0, "sw": 1.2, "zh": 1.1}
"""Factor on that of the other languages, for variants that are not dense."""
BITS = {"dense": 16.0, "wanda-0.5": 9.0, "rtn-4bit-g64": 4.3125}
SPARSITY = {"dense": 0.0, "wanda-0.5": 0.5, "rtn-4bit-g64": 0.0}


class FakeBackend(NamedTuple):
    """Version of an implementation, and how many times the figures of ours it has."""

    version: str
    kl: float = 1.0
    seconds: float = 1.0
    memory: float = 1.0


BACKENDS = {
    "studyctl": FakeBackend("0.1.0"),
    "gptqmodel": FakeBackend("4.0.0", kl=1.25, seconds=3.0, memory=2.0),
    "llm-compressor": FakeBackend("0.8.1", kl=0.8, seconds=1.5, memory=0.5),
}
"""Who compresses: a variant of another package is called like ours, with ``@`` and its name."""
KL, SECONDS, MEMORY = 0.1, 2.0, 1000
"""Of ours: nats in every language, seconds of a step, bytes of one (and one more for each letter of its name)."""
KL_P95, TOP1, SNR_DB = 0.4, 0.9, 12.0
"""Of everybody, in every language."""


def setting_of(variant: str) -> str:
    return variant.partition("@")[0]


def backend_of(variant: str) -> str:
    return variant.partition("@")[2] or "studyctl"


def trial_name(model: str, variant: str) -> str:
    return f"{model.rsplit('/', 1)[-1]}.{variant}"


def perplexity(model: str, variant: str, language: str) -> float:
    dense = (20.0 if model == MODELS[0] else 30.0) + 10 * LANGUAGES.index(language)
    return dense * (1.0 if variant == "dense" else RATIOS[setting_of(variant)] * WORSE[language])


def correct(variant: str, item: int) -> int:
    """Dense has the first 12 of 20 right; wanda loses items 0 to 5 and wins item 12; rtn loses 0 and wins 13."""
    turned = {"dense": set(), "wanda-0.5": {0, 1, 2, 3, 4, 5, 12}, "rtn-4bit-g64": {0, 13}}[
        setting_of(variant)
    ]
    return int((item < 12) != (item in turned))


def passage(task: str, item: int) -> str:
    """Two items each are about one text."""
    return f"{task}-{item // 2}"


def item_table(task: str, variant: str, items: Iterable[int] = range(ITEMS)) -> pa.Table:
    numbers = list(items)
    right = [correct(variant, item) for item in numbers]
    return pa.table(
        {
            "task": [task] * len(numbers),
            "item": pa.array(numbers, pa.int32()),
            "gold": pa.array([item % 2 for item in numbers], pa.int32()),
            "predicted": pa.array([item % 2 if ok else 1 - item % 2 for item, ok in zip(numbers, right, strict=True)], pa.int32()),
            "correct": pa.array([bool(ok) for ok in right]),
            "correct_norm": pa.array([bool(ok) if task == "arc_easy" else None for ok in right], pa.bool_()),
            "score": pa.array(right, pa.float64()),
            "passage": [passage(task, item) for item in numbers],
            "loglikelihoods": pa.array([[-1.0, -2.0 - item] for item in numbers], pa.list_(pa.float64())),
        }
    )  # fmt: skip


def item_texts(task: str, items: Iterable[int] = range(ITEMS)) -> pa.Table:
    """Every item is a question about a boat with two choices."""
    numbers = list(items)
    return pa.table(
        {
            "item": pa.array(numbers, pa.int32()),
            "prompt": [f"{task}: where is boat {item}?\nAnswer:" for item in numbers],
            "choices": [["at sea", "in the harbour"] for _ in numbers],
            "target": pa.array([None] * len(numbers), pa.string()),
        }
    )


def steps_of(protocol: Mapping[str, str | None]) -> tuple[Step, ...]:
    """Return the steps that a plan asks for, of their keys by name."""
    steps = ((StepId.parse(name), key) for name, key in protocol.items())
    return tuple(
        Step(kind, subject, (0, WINDOWS) if kind is StepKind.PERPLEXITY else None, key)
        for (kind, subject), key in steps
    )


@dataclass
class FakeStudy:
    """Writes plan.json and journals under ``root``."""

    root: Path
    languages: tuple[str, ...] = LANGUAGES
    tasks: tuple[str, ...] = TASKS
    models: tuple[str, ...] = MODELS
    variants: tuple[str, ...] = VARIANTS
    weights_hashes: dict[str, str] = field(default_factory=dict)
    """Hash of the weights by trial, where it is not the usual one."""
    files: dict[str, FileFacts] = field(default_factory=dict)
    """Facts about GGUF files by trial; a study from before them has none."""
    hypotheses: tuple[PlannedHypothesis, ...] = ()
    task_languages: dict[str, str] = field(default_factory=dict)
    texts: bool = True
    """Whether it keeps the texts of items."""

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.root)

    @property
    def protocol(self) -> dict[str, str]:
        """Keys of the evaluations by their names."""
        names = [f"perplexity:{language}" for language in self.languages]
        names += [f"task:{task}" for task in self.tasks]
        return {name: f"key-of-{name}" for name in names}

    @property
    def evaluations(self) -> tuple[Step, ...]:
        return steps_of(self.protocol)

    def weights_key(self, trial: str) -> str:
        return f"weights-of-{trial}"

    def texts_key(self, task: str, model: str) -> str:
        """Name the texts of a task's items, which all models share."""
        return digest(task)

    def trials(self) -> list[dict[str, Any]]:
        return [
            {
                "trial": trial_name(model, variant),
                "model": model,
                "method": variant.split("-")[0],
                "variant": variant,
                "backend": backend_of(variant),
                "seed": 0 if variant.startswith("wanda") else None,
                "settings": {"method": variant.split("-")[0]},
                "calibration": {"source": "c4", "samples": 8} if variant.startswith("wanda") else None,
                "weights_key": self.weights_key(trial_name(model, variant)),
                "dtype": "float32",
                "bits_per_weight": BITS.get(setting_of(variant), 4.0),
                "sparsity": SPARSITY.get(setting_of(variant), 0.0),
                "available": True,
            }
            for model in self.models
            for variant in self.variants
        ]

    def write_plan(
        self,
        title: str = "A small study",
        trials: list[dict[str, Any]] | None = None,
        protocols: Mapping[str, Mapping[str, str | None]] | None = None,
    ) -> None:
        """Write ``plan.json``; ``protocols`` are keys of evaluations by their names, by model."""
        protocols = dict.fromkeys(self.models, self.protocol) if protocols is None else protocols
        self.root.mkdir(parents=True, exist_ok=True)
        assert not remember([self.paths])  # it is the user's own
        planned = Planned(
            study=self.root.name,
            title=title,
            spec_hash="spec-1",
            at="2026-01-01T00:00:00.000+00:00",
            notes=("The models of this study do not exist.",),
            evaluations={
                model: tuple(PlannedStep(step) for step in steps_of(protocol))
                for model, protocol in protocols.items()
            },
            trials=tuple(PlannedTrial(**one) for one in (self.trials() if trials is None else trials)),
            hypotheses=self.hypotheses,
            task_languages=self.task_languages,
        )
        write_plan(planned, self.paths)

    def write_all(self) -> "FakeStudy":
        """Plan, and one finished attempt of every trial."""
        self.write_plan()
        for trial in self.trials():
            self.attempt(trial["trial"]).run_all()
        return self

    def attempt(self, trial: str, number: int = 1, **changes: Any) -> "FakeAttempt":
        described = next(one for one in self.trials() if one["trial"] == trial)
        return FakeAttempt(self, described, number, changes)


class FakeAttempt:
    """One journal: begun on construction, then step by step. A step is named as people call it: ``perplexity:en``."""

    def __init__(self, study: FakeStudy, trial: dict[str, Any], number: int, changes: dict[str, Any]) -> None:
        self.study = study
        self.trial = trial
        self.number = number
        self.name: str = trial["trial"]
        self.path = study.paths.attempt_journal(self.name, number)
        self.writer = JournalWriter(self.path)
        self.started = self._started(changes)
        self.writer.write(self.started)

    def _started(self, changes: dict[str, Any]) -> AttemptStarted:
        started: dict[str, Any] = {
            "schema": SCHEMA, "studyctl": "0.1.0", "study": self.study.root.name, "trial": self.name, "attempt": self.number,
            "host": "node1", "pid": 4242, "device": "cpu", "threads": 2, "versions": {"torch": "2.13.0"}, "spec_hash": "spec-1",
            "backend_version": self.backend.version,
        }  # fmt: skip
        copied = (
            "model",
            "method",
            "variant",
            "backend",
            "seed",
            "settings",
            "calibration",
            "weights_key",
            "dtype",
        )
        return AttemptStarted(**(started | {name: self.trial[name] for name in copied} | changes))

    @property
    def backend(self) -> FakeBackend:
        return BACKENDS[self.trial["backend"]]

    @property
    def steps(self) -> dict[str, Step]:
        """What a worker would do for the trial, by name; all windows of a language are one step."""
        own = [Step(StepKind.LOAD)]
        if self.trial["variant"] != "dense":
            own.append(Step(StepKind.COMPRESS, key=self.trial["weights_key"]))
        return {str(step): step for step in (*own, *self.study.evaluations)}

    def batch(self, step: str, number: int = 0) -> Step:
        """Return what is journaled for a step: of a language, a batch of its windows."""
        return self.steps[step].batches()[number]

    def begin(self, step: str, batch: int = 0) -> None:
        self.writer.write(StepStarted(step=self.batch(step, batch)))
        self.progress(step, 1, 2, "block")

    def progress(self, step: str, done: float, total: float, unit: str, note: str = "") -> None:
        self.writer.write(Progress(step=self.batch(step), done=done, total=total, unit=unit, note=note))

    def warn(self, step: str, message: str, **details: Any) -> None:
        self.writer.write(Warned(step=self.batch(step), message=message, details=details))

    def end(self, step: str, batch: int = 0) -> None:
        finished = StepFinished(
            step=self.batch(step, batch),
            weights_key=self.trial["weights_key"],
            weights_hash=self.study.weights_hashes.get(self.name, f"hash-of-{self.name}"),
            seconds=SECONDS,
            peak_memory_bytes=MEMORY + len(step),
        )
        if step == ("load" if self.trial["variant"] == "dense" else "compress"):
            finished.file = self.study.files.get(self.name)
        if step == "compress":
            finished.seconds = SECONDS * self.backend.seconds
            finished.peak_memory_bytes = int((MEMORY + len(step)) * self.backend.memory)
            finished.bits_per_weight = self.trial["bits_per_weight"]
            finished.sparsity = self.trial["sparsity"]
        if finished.step.windows is not None:
            finished.measured = WINDOWS
        self.writer.write(finished)

    def run(self, step: str) -> None:
        for batch in range(len(self.steps[step].batches())):
            self.begin(step, batch)
            self.record(step, batch)
            self.end(step, batch)

    def record(self, step: str, batch: int = 0) -> None:
        """Write what a step finds."""
        match self.batch(step, batch):
            case Step(kind=StepKind.COMPRESS):
                self._layers()
            case Step(kind=StepKind.PERPLEXITY) as windows:
                self._perplexity(windows)
            case Step(kind=StepKind.TASK, subject=str(task)):
                self._task(task)

    def run_all(self, *steps: str) -> "FakeAttempt":
        for step in steps or self.steps:
            self.run(step)
        return self.finish()

    def fail_step(
        self, step: str, error: str = "out of memory at block 3", cause: str = "out_of_memory"
    ) -> None:
        failed = StepFailed(
            step=self.batch(step), error=error, cause=FailureCause(cause), hint="use fewer samples"
        )
        self.writer.write(failed)

    def fail(
        self, step: str, error: str = "out of memory at block 3", cause: str = "out_of_memory"
    ) -> "FakeAttempt":
        self.fail_step(step, error, cause)
        return self.finish("stopped" if cause == "stopped" else "failed", error=error)

    def finish(self, state: str = "done", error: str | None = None) -> "FakeAttempt":
        self.writer.write(AttemptFinished(state=state, seconds=20.0, peak_memory_bytes=2000, error=error))
        self.writer.close()
        return self

    def _layers(self) -> None:
        for block in range(2):
            for linear in ("self_attn.q_proj", "mlp.down_proj"):
                self.writer.write(
                    Layer(
                        block=block, linear=linear, relative_error=0.01 * (block + 1), sparsity=self.trial["sparsity"],
                        bits_per_weight=self.trial["bits_per_weight"], weights=64, seconds=0.5,
                    )
                )  # fmt: skip
        self.warn("compress", "damping was raised", linear="mlp.down_proj", damping=0.1)

    def _perplexity(self, batch: Step) -> None:
        language, windows = batch.subject, batch.windows
        assert language is not None
        assert windows is not None
        value = (
            perplexity(self.trial["model"], self.trial["variant"], language)
            if language in LANGUAGES
            else 40.0
        )
        dense = self.trial["variant"] == "dense"
        # A ratio on a limit of the app's colours is not to be above it for a rounding.
        nll = math.log(value if dense else value * (1 - 4e-15)) * TOKENS
        for window in range(*windows):
            record = Window(
                language=language,
                window=window,
                document=window,
                nll_nats=nll,
                tokens=TOKENS,
                bytes=BYTES * (window + 1) // WINDOWS - BYTES * window // WINDOWS,
                characters=4 * TOKENS,
            )
            if not dense:
                record.kl_nats = KL * self.backend.kl * TOKENS
                record.top1 = round(TOP1 * TOKENS)
                record.signal, record.noise = 10 ** (SNR_DB / 10), 1.0
            self.writer.write(record)
        counts = None if dense else _kl_counts((windows[1] - windows[0]) * TOKENS)
        self.writer.write(
            TextBatch(language=language, sequence_length=TOKENS + 1, bos=False, kl_counts=counts)
        )

    def _task(self, task: str) -> None:
        for half, items in enumerate((range(ITEMS // 2), range(ITEMS // 2, ITEMS))):
            table = item_table(task, self.trial["variant"], items)
            path = self.study.paths.part(self.name, self.number, f"{task}.{half}")
            pq.write_table(table, path)
            texts = ""
            if self.study.texts:
                key = self.study.texts_key(task, self.trial["model"])
                texts = keep_texts(self.study.paths, key, item_texts(task)).name
            self.writer.write(Items(task=task, part=path.name, rows=table.num_rows, texts=texts))
        right = sum(correct(self.trial["variant"], item) for item in range(ITEMS))
        metrics = ("acc", "acc_norm") if task == "arc_easy" else ("acc",)
        for metric in metrics:
            main = metric == "acc"
            self.writer.write(
                TaskFigure(
                    task=task, metric=metric, value=right / ITEMS, stderr=0.1, items=ITEMS, main=main, averaged=main,
                    shots=0, limit=0,
                )
            )  # fmt: skip


def _kl_counts(tokens: int) -> dict[int, int]:
    """Return the KL of tokens of which a tenth is at the 95th percentile, and the others are below it."""
    high, low = _kl_bin(KL_P95), _kl_bin(KL_P95 / 10)
    return {low: tokens - tokens // 10, high: tokens // 10}


def _kl_bin(value: float) -> int:
    return math.ceil(math.log(value / kl_counts.LOWEST, kl_counts.RATIO))
