"""Content that changes after it was planned: the step that would use it fails, and no figure of it is stored under the old key.

The moments: after the plan, while the dense trial runs, and between two variants. Attempts run in this process, one after the
other as a worker runs them, so that a test says exactly when a file changes.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from studyctl.contract.records import AnyRecord, Record, StepFailed, StepFinished
from studyctl.contract.steps import StepKind
from studyctl.errors import ExitCode, ProblemCode
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.index import read_stored
from studyctl.journal.stored import Stored
from studyctl.plan.compare import compare
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.run.jobs import make_job
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from studyctl.work.attempt import Attempt
from studyctl.work.engine import Engine
from tests.run.studies import SPEC

Change = Callable[[Path], None]
FIGURES = {
    "perplexity": "select trial_id, language, nll_nats, bits_per_byte from perplexity order by all",
    "fidelity": "select trial_id, language, kl_nats, top1, snr_db from fidelity order by all",
    "items": "select trial_id, task, item, predicted, loglikelihoods from items order by all",
}


def write_study(folder: Path) -> Path:
    """Write a study that uses every kind of content; the wanda variants calibrate on a text and on token ids."""
    np.save(folder / "ids.npy", np.arange(4 * 32, dtype=np.int32).reshape(4, 32))
    shutil.copytree(folder / "tiny", folder / "published")
    (folder / "tasks" / "functions.py").write_text(
        "def text(doc):\n    return doc['question'] + ' Answer:'\n"
    )
    yaml = folder / "tasks" / "boats.yaml"
    yaml.write_text(yaml.read_text().replace('"{{question}}\\nAnswer:"', "!function functions.text"))
    more = """
[[compression]]
method = "wanda"
sparsity = 0.5
calibration = { ids = "ids.npy" }

[[compression]]
method = "checkpoint"
id = "./published"
of = "./tiny"

[text.mine]"""
    spec = folder / "small.toml"
    spec.write_text(SPEC.format(languages='["en", "de"]', execution="").replace("\n[text.mine]", more))
    return spec


def other_text(purpose: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "text" / "en" / f"{purpose}.jsonl"
        lines = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({"text": line[::-1]}) + "\n" for line in lines))

    return change


def other_items(folder: Path) -> None:
    path = folder / "tasks" / "boats.jsonl"
    path.write_text(path.read_text().replace("where is boat", "where was boat"))


def other_definition(folder: Path) -> None:
    path = folder / "tasks" / "boats.yaml"
    path.write_text(path.read_text() + 'target_delimiter: "\\n"\n')


def other_function(folder: Path) -> None:
    path = folder / "tasks" / "functions.py"
    path.write_text(path.read_text().replace("Answer", "Result"))


def other_ids(folder: Path) -> None:
    np.save(folder / "ids.npy", np.arange(4 * 32, dtype=np.int32)[::-1].reshape(4, 32))


def other_weights(name: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name / "model.safetensors"
        tensors = {key: value.roll(1, 0) for key, value in load_file(path).items()}
        save_file(tensors, folder / "new.safetensors", metadata={"format": "pt"})
        # In place, which is what `dd` and some downloaders do: whoever has mapped the file sees it.
        with path.open("r+b") as file:
            file.write((folder / "new.safetensors").read_bytes())

    return change


def other_tokenizer(folder: Path) -> None:
    path = folder / "tiny" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unk_token": "</s>"}))


CHANGES: dict[str, tuple[Change, StepKind, str]] = {
    "text": (other_text("test"), StepKind.PERPLEXITY, "perplexity text `mine` in en"),
    "calibration text": (other_text("train"), StepKind.COMPRESS, "calibration text `mine` in en"),
    "token ids": (other_ids, StepKind.COMPRESS, "the token ids `ids.npy`"),
    "task items": (other_items, StepKind.TASK, "task `boats`"),
    "task definition": (other_definition, StepKind.TASK, "task `boats`"),
    "task function": (other_function, StepKind.TASK, "task `boats`"),
    "model": (other_weights("tiny"), StepKind.LOAD, "model `./tiny`"),
    "tokenizer": (other_tokenizer, StepKind.LOAD, "model `./tiny`"),
    "checkpoint": (other_weights("published"), StepKind.COMPRESS, "model `./published`"),
}
"""What changes, the step that notices it, and what it calls the content."""
OF_DENSE = ("text", "task items", "task definition", "task function", "model", "tokenizer")
"""What the dense trial uses."""


class Runner:
    """Runs the attempts of a plan, and lets a test act when a record is written."""

    def __init__(self, folder: Path, plan: StudyPlan) -> None:
        self.paths = StudyPaths(folder / "runs" / "small")
        self.plan = plan
        self.engine = Engine()
        self.stop: str | None = None
        self.act: Callable[[Record], None] = lambda record: None

    def send(self, record: Record) -> None:
        """Stand in for the channel to a runner: every record passes here, right after it was written."""
        self.act(record)

    def wait_for_lease(self) -> None:
        pass

    def run(self, *names: str) -> None:
        dense = next(trial for trial in self.plan.trials if trial.is_dense)
        todo = {one.trial.variant.name: one for one in compare(self.plan, Stored(), None).todo}
        for name in names:
            stored = read_stored(self.paths)
            job = make_job(self.paths, self.plan, todo[name], stored, "cpu", dense.weights_key)
            Attempt(job, self.engine, self).run()  # type: ignore[arg-type]

    @property
    def variants(self) -> list[str]:
        return [variant.name for variant in self.plan.variants if variant.name != "dense"]

    def finished(self) -> set[str]:
        """Return the steps that have a result, by trial."""
        return {f"{one.trial} {one.step}" for one in self._records() if isinstance(one, StepFinished)}

    def failed(self) -> set[tuple[str, StepKind, str]]:
        """Return the steps that failed since content changed: trial, kind, and what is said to have changed."""
        failed = [one for one in self._records() if isinstance(one, StepFailed)]
        assert all(one.code is ProblemCode.CHANGED and one.permanent for one in failed), failed
        assert all("run the study again" in one.hint for one in failed)
        cut = " changed since the study was planned"
        return {(one.trial, one.step.kind, one.error.partition(cut)[0]) for one in failed}

    def _records(self) -> list[AnyRecord]:
        return [one for path in self.paths.journal.glob("*.jsonl") for one in read_journal(path)]


@pytest.fixture
def runner(workplace: Path) -> Iterator[Runner]:
    threads = torch.get_num_threads()
    plan = make_plan(load_spec(write_study(workplace)))
    plan.raise_errors()
    yield Runner(workplace, plan)
    torch.set_num_threads(threads)


def users(runner: Runner, kind: str) -> set[str]:
    """Return the trials that use content of a kind."""
    only = {"calibration text": "tiny-wanda-0.5", "checkpoint": "tiny-checkpoint-published"}
    if kind == "token ids":
        return {trial.id for trial in runner.plan.trials if "cal_ids" in trial.id}
    return {only[kind]} if kind in only else {trial.id for trial in runner.plan.trials}


def results_on(kind: str, finished: set[str], trial: str) -> set[str]:
    """Return the results of a trial that depend on content of a kind."""
    step = {StepKind.PERPLEXITY: "perplexity:en", StepKind.TASK: "task:boats"}.get(CHANGES[kind][1])
    return {one for one in finished if one.startswith(f"{trial} ") and (step is None or one.endswith(step))}


@pytest.mark.parametrize("kind", CHANGES)
def test_after_the_plan(workplace: Path, runner: Runner, kind: str) -> None:
    change, step, what = CHANGES[kind]
    change(workplace)
    runner.run("dense", *runner.variants)
    assert runner.failed() == {(trial, step, what) for trial in users(runner, kind)}
    for trial in users(runner, kind):
        assert results_on(kind, runner.finished(), trial) <= {f"{trial} load"}


@pytest.mark.parametrize("kind", OF_DENSE)
def test_while_the_dense_trial_runs(workplace: Path, runner: Runner, kind: str) -> None:
    change, step, what = CHANGES[kind]

    def change_once_loaded(record: Record) -> None:
        if isinstance(record, StepFinished) and record.step.kind is StepKind.LOAD:
            change(workplace)
            runner.act = lambda record: None

    runner.act = change_once_loaded
    runner.run("dense", *runner.variants)
    # What is in memory stays what was planned: of the model itself only who comes later sees another one.
    loaded = {"tiny-dense"} if step is StepKind.LOAD else set()
    assert runner.failed() == {(trial, step, what) for trial in users(runner, kind) - loaded}
    if loaded:
        assert len(results_on(kind, runner.finished(), "tiny-dense")) == 1 + 3


def test_weights_that_are_overwritten_while_dense_runs_are_not_those_in_memory(
    workplace: Path, runner: Runner, tmp_path: Path
) -> None:
    undisturbed = Runner(tmp_path / "undisturbed", runner.plan)
    undisturbed.run("dense")

    def overwrite(record: Record) -> None:
        if isinstance(record, StepFinished) and record.step.kind is StepKind.LOAD:
            other_weights("tiny")(workplace)

    runner.act = overwrite
    runner.run("dense")
    for one in (undisturbed, runner):
        publish(one.paths)
    assert figures(runner.paths) == figures(undisturbed.paths)


@pytest.mark.parametrize("kind", CHANGES)
def test_between_two_variants(workplace: Path, runner: Runner, kind: str) -> None:
    change, step, what = CHANGES[kind]
    first, *others = sorted(runner.variants, key=lambda name: f"tiny-{name}" in users(runner, kind))
    if len(users(runner, kind)) > 1:
        first, *others = runner.variants
    runner.run("dense", first)
    before = runner.finished()
    change(workplace)
    runner.run(*others)
    assert runner.failed() == {
        (trial, step, what) for trial in users(runner, kind) if results_on(kind, before, trial) == set()
    }


def test_the_next_run_measures_what_changed_and_has_the_figures_of_a_new_study(
    workplace: Path, runner: Runner, tmp_path: Path
) -> None:
    runner.run("dense", *runner.variants)
    assert runner.failed() == set()
    for kind in CHANGES:
        CHANGES[kind][0](workplace)
    runner.run("dense", *runner.variants)  # of the old plan: all of it fails
    console = Console(quiet=True)
    again = run_study(workplace / "small.toml", Selection(), console, trust=True)
    assert again.code == ExitCode.DONE
    new = run_study(workplace / "small.toml", Selection(), console, root=StudyPaths(tmp_path / "new"))
    assert new.code == ExitCode.DONE
    assert figures(again.paths) == figures(new.paths)


def figures(paths: StudyPaths) -> dict[str, list[dict[str, Any]]]:
    return {name: run_sql(paths, query).to_pylist() for name, query in FIGURES.items()}
