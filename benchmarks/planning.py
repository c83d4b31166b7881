"""How long a plan of 100,000 trials takes, against the naive way: one hash of everything for every stage.

Every round is a process of its own: what a first call pays (building validators) is in the figures, imports are not.
"""

import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from benchmarks.page import note, table
from benchmarks.timing import Timing
from studyctl.contract.steps import Step, StepKind
from studyctl.files import StudyPaths
from studyctl.journal.stored import Results, Stored, StoredResult, StoredStep
from studyctl.plan.compare import compare
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.spec.loading import load_spec

MODELS = 10
VARIANTS = 10_000
LANGUAGES = 15
ROUNDS = 3
GOAL_SECONDS = 3.0
STEPS = ("load_spec", "make_plan", "compare", "compare, all stored")
"""The last is no part of the total: a study has nothing stored or everything, not both."""

ONE_LIST = "one list"
SEVERAL_LISTS = "three lists"
SWEEPS = {
    ONE_LIST: f'method = "magnitude"\nsparsity = {[i / VARIANTS for i in range(VARIANTS)]}',
    SEVERAL_LISTS: f'method = "wanda"\nsparsity = {[i / VARIANTS for i in range(VARIANTS // 4)]}\n'
    'order = ["block", "stage"]\npropagate = ["compressed", "dense"]',
}
SPEC = """
[study]
name = "large"

[calibration]
source = "pocket"
samples = 8
sequence_length = 128

[text.mine]
files = "text/{{language}}.txt"

[evaluation.perplexity]
source = "mine"
languages = {languages}
sequence_length = 128

{models}

[[compression]]
{sweep}
"""


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write_study(folder)
        cases = [*SWEEPS, "naive"]
        timings: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for turn in range(ROUNDS):
            for case in reversed(cases) if turn % 2 else cases:
                timings[case].append(_alone(case, folder))
    naive = Timing(tuple(sum(steps.values()) for steps in timings.pop("naive")))
    trials = MODELS * VARIANTS
    steps = trials * (LANGUAGES + 1)
    rows = []
    for sweep, rounds in timings.items():
        rows += [
            (f"{sweep}: {step}", str(Timing(tuple(steps[step] for steps in rounds))), "") for step in STEPS
        ]
        total = Timing(tuple(sum(steps[step] for step in STEPS[:3]) for steps in rounds))
        rows.append((f"{sweep}: in all", str(total), f"{total.median / naive.median:.2f} ×"))
    rows.append((f"naive: {steps:,} hashes of JSON", str(naive), "1.00 ×"))
    table(("step", "median (extremes)", "ratio"), rows)
    note(
        f"goal: under {GOAL_SECONDS:g} s in all for {trials:,} trials, {steps:,} steps; {ROUNDS} rounds in turns"
    )


def _alone(case: str, folder: Path) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(
            _naive_steps if case == "naive" else plan_steps, folder / f"{case}.toml"
        ).result()


def plan_steps(spec: Path) -> dict[str, float]:
    """Return the seconds of each step of planning, with what is known of the files in the cache already."""
    with patch.dict("os.environ", STUDYCTL_CACHE=str(spec.parent / "cache")):
        begun = time.perf_counter()
        document = load_spec(spec)
        loaded = time.perf_counter()
        plan = make_plan(document)
        planned = time.perf_counter()
        nothing = compare(plan, Stored(), None)
        compared = time.perf_counter()
    plan.raise_errors()
    everything = _everything(plan, StudyPaths(spec.parent / "runs"))
    begun_again = time.perf_counter()
    rest = compare(plan, everything, None)
    ended = time.perf_counter()
    if (len(nothing.todo), len(rest.todo)) != (len(plan.trials), 0):
        raise RuntimeError("the plan is not what this benchmark means to measure")
    return dict(
        zip(STEPS, (loaded - begun, planned - loaded, compared - planned, ended - begun_again), strict=True)
    )


def _everything(plan: StudyPlan, paths: StudyPaths) -> Stored:
    """Return what is stored when all is done; the trials share their results, since only keys are looked at."""
    stored = StoredStep(
        trial="any", attempt=1, step=Step(StepKind.COMPRESS), weights_key="", weights_hash="", seconds=1.0,
        peak_memory_bytes=1, peak_device_bytes=None, bits_per_weight=None, sparsity=None, available=None, at="",
        journal=paths.attempt_journal("any", 1), begin=0, end=0,
    )  # fmt: skip
    weights = StoredResult.of_steps([stored])
    texts = {
        step.key or "": StoredResult.of_steps([replace(stored, step=step)])
        for model in plan.models
        for step in model.steps
    }
    results: dict[str, tuple[Results, ...]] = {}
    for trial in plan.trials:
        assert trial.weights_key is not None
        keys = [step.key or "" for step in trial.model.steps]
        by_key = {trial.weights_key: weights} | {key: texts[key] for key in keys}
        results[trial.weights_key] = (Results(by_key),)
    return Stored(results=results)


def _naive_steps(spec: Path) -> dict[str, float]:
    """Hash everything that determines a stage, for every stage."""
    begun = time.perf_counter()
    for model in range(MODELS):
        for variant in range(VARIANTS):
            for stage in range(LANGUAGES + 1):
                parts = {
                    "model": f"model-{model}",
                    "dtype": "float32",
                    "settings": {"method": "magnitude", "sparsity": variant / VARIANTS, "pattern": None},
                    "stage": {"name": stage, "sequence_length": 128, "windows": 128, "bos": "auto"},
                }
                hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {spec.stem: time.perf_counter() - begun}


def _write_study(folder: Path) -> None:
    """Write models and texts, a spec for each sweep, and look at everything once, so that the cache knows it."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn")
    ) as process:  # torch stays out of the processes that plan
        process.submit(make_models, folder).result()
    languages = [f"l{number:02}" for number in range(LANGUAGES)]
    (folder / "text").mkdir()
    for language in languages:
        (folder / "text" / f"{language}.txt").write_text(f"one text in {language}\n" * 1000)
    models = "".join(f'[[models]]\nid = "./model-{number}"\ndtype = "float32"\n' for number in range(MODELS))
    for sweep, text in SWEEPS.items():
        (folder / f"{sweep}.toml").write_text(SPEC.format(languages=languages, models=models, sweep=text))
    time.sleep(3)  # nothing is remembered of a file that changed just now
    for sweep in SWEEPS:
        _alone(sweep, folder)


def make_models(folder: Path) -> None:
    from transformers.utils import logging

    from tests.run.studies import make_model

    logging.disable_progress_bar()
    for number in range(MODELS):
        make_model(folder / f"model-{number}", seed=number)
