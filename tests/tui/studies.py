"""Studies in the states that the app must show, made of recorded journals."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path

import psutil

from studyctl.contract.hypotheses import By, Measure, Metric, PlannedHypothesis, Sides
from studyctl.contract.plan import VERSION, read_plan, write_plan
from studyctl.files import StudyPaths, write_atomic
from studyctl.store.publish import publish
from tests.store.builder import FakeStudy

TRIAL = "alpha.wanda-0.5"
"""A trial that runs, fails or was stopped in these studies."""


def write_runner(
    study: FakeStudy,
    attempts: Iterable[tuple[str, int]] = (),
    *,
    alive: bool = True,
    seconds_left: float = 720.0,
) -> None:
    """Write ``runner.json`` as this process (or one that is gone) would."""
    now = datetime.now(UTC)
    beat = now if alive else now - timedelta(minutes=5)
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid() if alive else 2**22 - 1,
        "created": psutil.Process().create_time(),
        "since": (beat - timedelta(hours=1)).isoformat(),
        "heartbeat": beat.isoformat(),
        "attempts": [
            {"trial": trial, "attempt": attempt, "device": "cpu", "pid": 1, "memory_bytes": 1 << 30}
            for trial, attempt in attempts
        ],
        "seconds_left": seconds_left,
        "memory_bytes": 6 << 30,
        "memory_total_bytes": 24 << 30,
        "load": 2.1,
        "cores": 2,
        "memory_use": {
            "seconds": 8.0,
            "memory_bytes": [(3 + beat // 10) << 30 for beat in range(40)],
            "device_bytes": [0] * 40,
        },
    }
    write_atomic(study.paths.runner, json.dumps(content))


_masters = tempfile.TemporaryDirectory()


def made_once(make: Callable[[Path], FakeStudy]) -> Callable[[Path], FakeStudy]:
    """Make a study of a name once a process and copy it from then on: publishing takes half a second."""

    made: dict[str, FakeStudy] = {}

    @wraps(make)
    def copied(root: Path) -> FakeStudy:
        if root.name not in made:
            folder = Path(tempfile.mkdtemp(dir=_masters.name))
            made[root.name] = make(folder / root.name)
        shutil.copytree(made[root.name].root, root)
        return replace(made[root.name], root=root)

    return copied


@made_once
def finished(root: Path) -> FakeStudy:
    """Everything is measured and published."""
    study = FakeStudy(root).write_all()
    publish(study.paths)
    return study


@made_once
def dense_only(root: Path) -> FakeStudy:
    """Dense of the first model is done and published, and nothing else."""
    study = FakeStudy(root)
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    publish(study.paths)
    return study


def running(root: Path) -> FakeStudy:
    """Dense of the first model is done and published; one trial compresses, block 1 of 2; the rest waits."""
    study = dense_only(root)
    study.attempt(TRIAL).begin("compress")
    write_runner(study, [(TRIAL, 1)])
    return study


@made_once
def failed(root: Path) -> FakeStudy:
    """One trial ran out of memory at block 3; the rest is done."""
    study = FakeStudy(root)
    study.write_plan()
    for trial in study.trials():
        if trial["trial"] != TRIAL:
            study.attempt(trial["trial"]).run_all()
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    attempt.fail("compress")
    publish(study.paths)
    return study


def died(root: Path) -> FakeStudy:
    """The runner was killed five minutes ago, in the middle of a trial."""
    study = running(root)
    write_runner(study, [(TRIAL, 1)], alive=False)
    return study


def empty(root: Path) -> FakeStudy:
    """Planned, and nothing was measured."""
    study = FakeStudy(root)
    study.write_plan()
    return study


RECORDED = Path(__file__).parent / "recorded" / "pocket"
"""A real run of the embedded study, see :mod:`tests.tui.record`."""
CUT = "SmolLM2-135M-Instruct.Q4_1-awq-4bit-g64"
"""The trial that runs in :func:`recorded_running`."""


def recorded(root: Path) -> StudyPaths:
    """A real study, finished and published."""
    shutil.copytree(RECORDED, root)
    publish(StudyPaths(root))
    return StudyPaths(root)


def recorded_with_hypotheses(root: Path) -> StudyPaths:
    """The same with hypotheses; its windows have no KL, and nobody recorded when they were stated."""
    shutil.copytree(RECORDED, root)
    paths = StudyPaths(root)
    plan = read_plan(paths)
    assert plan is not None
    write_plan(replace(plan, hypotheses=PAPERS_CLAIMS, version=VERSION), paths)
    publish(paths)
    return paths


def _claim(name: str, claim: str, measure: Measure, by: By | None = None) -> PlannedHypothesis:
    sides = Sides(("gptq-4bit-g64", "awq-4bit-g64"), ("sparsegpt-0.5", "wanda-0.5"))
    return PlannedHypothesis(
        name=name, claim=claim, hash=name, metrics=(Metric(measure),), pairs=(sides,), margin=measure.margin, by=by
    )  # fmt: skip


PAPERS_CLAIMS = (
    _claim("quantization-accuracy", "Quantization keeps more accuracy than pruning.", Measure.ACCURACY),
    _claim("each-language", "It costs less perplexity in each language.", Measure.PPL_RATIO, By.LANGUAGE),
    _claim("each-task", "It keeps more accuracy in each task.", Measure.ACCURACY, By.TASK),
    _claim("closer", "It stays closer to the dense model.", Measure.KL_RATIO),
)


def recorded_running(root: Path, recorded: Path = RECORDED) -> StudyPaths:
    """The same, or another recording, while its last trial compresses block 17 of 30."""
    shutil.copytree(recorded, root)
    paths = StudyPaths(root)
    journal = paths.attempt_journal(CUT, 1)
    lines = journal.read_text().splitlines(keepends=True)
    progress = next(
        record
        for record in map(json.loads, lines)
        if record["kind"] == "progress"
        and "compress" in (record.get("stage"), record.get("step", {}).get("kind"))
    )
    kept: list[str] = []
    block = -1
    for line in lines:
        record = json.loads(line)
        if record["kind"] == "layer" and record["block"] > block:
            block = record["block"]
            at_block = progress | {"seq": record["seq"], "at": record["at"], "done": max(0, block - 1)}
            kept.append(json.dumps(at_block, separators=(",", ":")) + "\n")
            if block == 17:
                break
        if record["kind"] != "progress":
            kept.append(line)
    journal.write_text("".join(kept))
    publish(paths, {CUT})
    write_runner(FakeStudy(root), [(CUT, 1)])
    return paths


def two_backends(root: Path) -> FakeStudy:
    """One model with a setting that three backends compress; one of them ran out of memory at another setting."""
    variants = (
        "dense", "wanda-0.5", "wanda-0.5@llm-compressor", "rtn-4bit-g64", "rtn-4bit-g64@gptqmodel", "rtn-4bit-g64@llm-compressor",
    )  # fmt: skip
    study = FakeStudy(root, models=("org/alpha",), variants=variants)
    study.write_plan()
    for trial in study.trials():
        attempt = study.attempt(trial["trial"])
        if trial["variant"] == "wanda-0.5@llm-compressor":
            attempt.begin("compress")
            attempt.fail("compress")
        else:
            attempt.run_all()
    publish(study.paths)
    return study
