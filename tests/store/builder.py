"""A small recorded study, written as a worker and a runner write one: for every test that needs results.

Two models, three variants (dense, wanda-0.5, rtn-4bit-g64), three languages, two tasks with items. Every figure follows
from a formula here, so that tests can say what the tables must hold.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from studyctl.files import StudyPaths
from studyctl.store.journal import SCHEMA, JournalWriter

MODELS = ("org/alpha", "org/beta")
VARIANTS = ("dense", "wanda-0.5", "rtn-4bit-g64")
LANGUAGES = ("en", "sw", "zh")
TASKS = ("arc_easy", "boolq")
ITEMS = 20
WINDOWS = 4
TOKENS = 100
"""Scored tokens of a window."""
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
"""Of ours: nats in every language, seconds of a stage, bytes of one (and one more for each letter of its name)."""


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
            "loglikelihoods": pa.array([[-1.0, -2.0 - item] for item in numbers], pa.list_(pa.float64())),
        }
    )  # fmt: skip


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

    @property
    def paths(self) -> StudyPaths:
        return StudyPaths(self.root)

    @property
    def protocol(self) -> dict[str, str]:
        stages = [f"perplexity:{language}" for language in self.languages] + [
            f"task:{task}" for task in self.tasks
        ]
        return {stage: f"key-of-{stage}" for stage in stages}

    def weights_key(self, trial: str) -> str:
        return f"weights-of-{trial}"

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

    def write_plan(self, **changes: Any) -> None:
        plan = {
            "version": 1,
            "study": self.root.name,
            "title": "A small study",
            "spec_hash": "spec-1",
            "at": "2026-01-01T00:00:00.000+00:00",
            "notes": ["The models of this study do not exist."],
            "protocols": {model: self.protocol for model in self.models},
            "trials": self.trials(),
        }
        self.root.mkdir(parents=True, exist_ok=True)
        self.paths.plan.write_text(json.dumps(plan | changes))

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
    """One journal: begun on construction, then stage by stage."""

    def __init__(self, study: FakeStudy, trial: dict[str, Any], number: int, changes: dict[str, Any]) -> None:
        self.study = study
        self.trial = trial
        self.number = number
        self.name: str = trial["trial"]
        self.path = study.paths.attempt_journal(self.name, number)
        self.writer = JournalWriter(self.path)
        started = {
            "schema": SCHEMA, "studyctl": "0.1.0", "study": study.root.name, "trial": self.name, "attempt": number,
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
        self.writer.write("attempt_started", **(started | {name: trial[name] for name in copied} | changes))

    @property
    def backend(self) -> FakeBackend:
        return BACKENDS[self.trial["backend"]]

    @property
    def stages(self) -> dict[str, str]:
        compress = {} if self.trial["variant"] == "dense" else {"compress": self.trial["weights_key"]}
        return {"load": "load"} | compress | self.study.protocol

    def begin(self, stage: str) -> None:
        self.writer.write("stage_started", stage=stage, key=self.stages[stage])
        self.writer.write("progress", stage=stage, done=1, total=2, unit="block", note="")

    def end(self, stage: str, **changes: Any) -> None:
        finished: dict[str, Any] = {
            "stage": stage,
            "key": self.stages[stage],
            "weights_key": self.trial["weights_key"],
            "weights_hash": self.study.weights_hashes.get(self.name, f"hash-of-{self.name}"),
            "seconds": SECONDS,
            "peak_memory_bytes": MEMORY + len(stage),
        }
        if stage == "compress":
            finished["seconds"] *= self.backend.seconds
            finished["peak_memory_bytes"] = int(finished["peak_memory_bytes"] * self.backend.memory)
            finished |= {name: self.trial[name] for name in ("bits_per_weight", "sparsity")}
        self.writer.write("stage_finished", **(finished | changes))

    def run(self, stage: str) -> None:
        self.begin(stage)
        kind, _, what = stage.partition(":")
        if kind == "compress":
            self._layers()
        elif kind == "perplexity":
            self._perplexity(stage, what)
        elif kind == "task":
            self._task(stage, what)
        self.end(stage)

    def run_all(self, *stages: str) -> "FakeAttempt":
        for stage in stages or self.stages:
            self.run(stage)
        return self.finish()

    def fail(
        self, stage: str, error: str = "out of memory at block 3", cause: str = "out_of_memory"
    ) -> "FakeAttempt":
        self.writer.write(
            "stage_failed",
            stage=stage,
            key=self.stages[stage],
            error=error,
            cause=cause,
            hint="use fewer samples",
        )
        return self.finish("stopped" if cause == "stopped" else "failed", error=error)

    def finish(self, state: str = "done", error: str | None = None) -> "FakeAttempt":
        self.writer.write("attempt_finished", state=state, seconds=20.0, peak_memory_bytes=2000, error=error)
        self.writer.close()
        return self

    def _layers(self) -> None:
        for block in range(2):
            for linear in ("self_attn.q_proj", "mlp.down_proj"):
                self.writer.write(
                    "layer", stage="compress", block=block, linear=linear, relative_error=0.01 * (block + 1),
                    sparsity=self.trial["sparsity"], bits_per_weight=self.trial["bits_per_weight"], weights=64, seconds=0.5,
                )  # fmt: skip
        self.writer.write(
            "warning", stage="compress", message="damping was raised", linear="mlp.down_proj", damping=0.1
        )

    def _perplexity(self, stage: str, language: str) -> None:
        value = (
            perplexity(self.trial["model"], self.trial["variant"], language)
            if language in LANGUAGES
            else 40.0
        )
        for window in range(WINDOWS):
            self.writer.write(
                "window",
                stage=stage,
                language=language,
                window=window,
                nll_nats=math.log(value) * TOKENS,
                tokens=TOKENS,
            )
        nll = math.log(value) * TOKENS * WINDOWS
        self.writer.write(
            "perplexity", stage=stage, language=language, perplexity=value, bits_per_byte=nll / math.log(2) / 2000,
            nll_nats=nll, tokens=TOKENS * WINDOWS, bytes=2000, sequence_length=TOKENS + 1, bos=False,
        )  # fmt: skip
        if self.trial["variant"] != "dense":
            self.writer.write(
                "fidelity", stage=stage, language=language, kl_nats=KL * self.backend.kl, kl_p95_nats=0.4, top1=0.9, snr_db=12.0,
                tokens=TOKENS * WINDOWS,
            )  # fmt: skip

    def _task(self, stage: str, task: str) -> None:
        for half, items in enumerate((range(ITEMS // 2), range(ITEMS // 2, ITEMS))):
            table = item_table(task, self.trial["variant"], items)
            path = self.study.paths.part(self.name, self.number, f"{task}.{half}")
            pq.write_table(table, path)
            self.writer.write("item", stage=stage, task=task, part=path.name, rows=table.num_rows)
        right = sum(correct(self.trial["variant"], item) for item in range(ITEMS))
        metrics = ("acc", "acc_norm") if task == "arc_easy" else ("acc",)
        for metric in metrics:
            self.writer.write(
                "task", stage=stage, task=task, metric=metric, value=right / ITEMS, stderr=0.1, items=ITEMS
            )
