"""Studies for the benchmarks of the terminal app: ten thousand trials, and eight that run at once."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from studyctl.contract.records import Items, Layer, Progress, TaskFigure
from studyctl.contract.steps import Step, StepKind
from studyctl.journal import files as journal
from studyctl.journal.parts import write_items
from studyctl.store.publish import publish
from tests.store.builder import VARIANTS, FakeAttempt, FakeStudy, item_table
from tests.tui.studies import write_runner

MODELS = 3334
"""Times three variants: 10,002 trials."""
ITEMS = 50
"""Of each of two tasks of a trial: a million rows."""
WRITE_SECONDS = 0.5
"""How often a worker writes its progress."""


def large_study(root: Path) -> FakeStudy:
    """Write and publish a study of 10,002 trials, all done, with a million item rows."""
    study = FakeStudy(root, models=tuple(f"org/model{number:04}" for number in range(MODELS)))
    tables = {
        (task, variant): item_table(task, variant, range(ITEMS))
        for task in study.tasks
        for variant in VARIANTS
    }
    study.write_plan()
    with patch.object(journal, "_sync", os.fstat):  # a hundred thousand syncs would be of this file system
        for trial in study.trials():
            _write(study, trial, tables)
    publish(study.paths)
    return study


def _write(study: FakeStudy, trial: dict[str, Any], tables: dict[tuple[str, str], pa.Table]) -> None:
    attempt = FakeAttempt(study, trial, 1, {})
    for name, step in attempt.steps.items():
        task = step.subject
        if step.kind is not StepKind.TASK or task is None:
            attempt.run(name)
            continue
        attempt.begin(name)
        part = write_items(study.paths, attempt.name, 1, task, tables[task, trial["variant"]])
        attempt.writer.write(Items(task=task, part=part.name, rows=ITEMS))
        attempt.writer.write(TaskFigure(task=task, metric="acc", value=0.5, stderr=0.1, items=ITEMS))
        attempt.end(name)
    attempt.finish()


@contextmanager
def eight_running(root: Path) -> Iterator[FakeStudy]:
    """Yield a study of 24 trials of which eight run: their journals grow as workers let them grow, layer by layer."""
    study = FakeStudy(root, models=tuple(f"org/model{number}" for number in range(8)))
    study.write_plan()
    for model in range(8):
        study.attempt(f"model{model}.dense").run_all()
    publish(study.paths)
    attempts = [study.attempt(f"model{model}.wanda-0.5") for model in range(8)]
    for attempt in attempts:
        attempt.run("load")
        attempt.begin("compress")
    names = [(attempt.name, 1) for attempt in attempts]
    write_runner(study, names)
    done = threading.Event()

    def work() -> None:
        step, compress = 0, Step(StepKind.COMPRESS)
        while not done.wait(WRITE_SECONDS):
            step += 1
            for attempt in attempts:
                block = step % 30
                attempt.writer.write(
                    Progress(step=compress, done=block, total=30, unit="block", note="mlp.down_proj")
                )
                if step % 4 == 0:
                    attempt.writer.write(_layer(block))
            if step % 4 == 0:
                write_runner(study, names, seconds_left=max(0.0, 720.0 - step))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield study
    finally:
        done.set()
        thread.join()


def _layer(block: int) -> Layer:
    return Layer(
        block=block,
        linear="mlp.down_proj",
        relative_error=0.02,
        sparsity=0.5,
        bits_per_weight=9.0,
        weights=64,
        seconds=0.5,
    )
