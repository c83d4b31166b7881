"""What would run, and why: a plan held against what is stored."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studyctl.plan.compare import Cause, compare
from studyctl.plan.planner import StudyPlan
from studyctl.plan.saved import SavedPlan
from studyctl.plan.trials import CalibrationWindows, PlannedModel, Stage, Trial, make_trials
from studyctl.plan.variants import expand_variants
from studyctl.spec.loading import parse_spec
from studyctl.store.index import Attempt, Failure, Stored

SPEC = """
[study]
name = "t"
[[models]]
id = "org/M"
[calibration]
source = "pocket"
samples = {samples}
[[compression]]
method = "wanda"
sparsity = 0.5
[[compression]]
method = "sparsegpt"
backend = "llm-compressor"
sparsity = 0.5
"""


def planned(samples: int = 4, windows: int = 8, languages: tuple[str, ...] = ("en", "de")) -> StudyPlan:
    document = parse_spec(SPEC.format(samples=samples), Path("t.toml"))
    variants, _ = expand_variants(document)
    identity: Any = SimpleNamespace(key="weights", linears={}, kind="folder")
    stages = tuple(
        Stage(f"perplexity:{language}", f"{language}-{windows}", {"windows": windows, "code": 1})
        for language in languages
    )
    windows = CalibrationWindows("text", samples, 16)
    calibrations = {variant.calibration: windows for variant in variants if variant.calibration}
    model = PlannedModel(0, document.spec.models[0], identity, "float32", stages, calibrations)
    trials = make_trials([model], variants, document.spec.study.seeds)
    missing = {variant.name: "its environment" for variant in variants if variant.backend != "studyctl"}
    return StudyPlan(document, [model], variants, trials, ["cpu"], {}, {}, [], [], missing)


def saved(plan: StudyPlan) -> SavedPlan:
    stages = {
        model.spec.id: {stage.name: dict(stage.parts) for stage in model.stages} for model in plan.models
    }
    return SavedPlan("", {trial.id: trial.parts() for trial in plan.trials}, stages)


def stored(plan: StudyPlan, *, without: tuple[str, ...] = (), failure: Failure | None = None) -> Stored:
    """Return a store that has every available result but those of the stages named."""
    result: Any = SimpleNamespace(seconds=1.0)
    found = Stored()
    for trial in plan.trials:
        keys = {"compress": trial.weights_key} | {stage.name: stage.key for stage in trial.model.stages}
        assert trial.weights_key is not None
        found.results[trial.weights_key] = {
            key: result
            for name, key in keys.items()
            if name not in without and name in trial.stage_names and key
        }
        finished: Any = {"state": "failed" if failure else "done"}
        failures = (failure,) if failure else ()
        attempt = Attempt(
            trial.id, 1, Path("x"), {"weights_key": trial.weights_key}, failures=failures, finished=finished
        )
        found.attempts[trial.id] = (attempt,)
    return found


def wanda(plan: StudyPlan) -> Trial:
    return next(trial for trial in plan.trials if trial.variant.name == "wanda-0.5")


def reasons(plan: StudyPlan, store: Stored, before: SavedPlan) -> dict[str, str]:
    return {todo.trial.variant.name: str(todo.reason) for todo in compare(plan, store, before).todo}


def test_everything_is_new_at_first() -> None:
    plan = planned()
    found = compare(plan, Stored(), SavedPlan())
    assert [(todo.trial.variant.name, todo.stages) for todo in found.todo] == [
        ("dense", ("perplexity:en", "perplexity:de")),
        ("wanda-0.5", ("compress", "perplexity:en", "perplexity:de")),
    ]
    assert {todo.reason.cause for todo in found.todo} == {Cause.NEW}
    assert [trial.variant.name for trial in found.unavailable] == ["sparsegpt-0.5@llm-compressor"]
    assert (found.stages, found.stages_to_run) == (8, 5)


def test_nothing_is_left_when_everything_is_stored() -> None:
    plan = planned()
    assert compare(plan, stored(plan), saved(plan)).todo == []


def test_another_calibration_reruns_what_depends_on_it_and_says_so() -> None:
    before, now = planned(samples=4), planned(samples=5)
    assert reasons(now, stored(before), saved(before)) == {"wanda-0.5": "calibration.samples 4 → 5"}


def test_a_language_more_runs_that_language_only() -> None:
    before, now = planned(), planned(languages=("en", "de", "sw"))
    found = compare(now, stored(before), saved(before))
    assert {todo.stages for todo in found.todo} == {("perplexity:sw",)}
    assert {str(todo.reason) for todo in found.todo} == {"new perplexity:sw"}


def test_another_protocol_names_the_key() -> None:
    before, now = planned(windows=8), planned(windows=16)
    assert reasons(now, stored(before), saved(before))["wanda-0.5"] == "perplexity.windows 8 → 16"


def test_a_failed_stage_is_run_again() -> None:
    plan = planned()
    failure = Failure("perplexity:de", "de-8", "boom", "error", "", "2026-01-01T00:00:00Z")
    store = stored(plan, without=("perplexity:de",), failure=failure)
    found = compare(plan, store, saved(plan))
    assert {todo.stages for todo in found.todo} == {("perplexity:de",)}
    assert {str(todo.reason) for todo in found.todo} == {"failed at perplexity:de"}


def test_a_killed_trial_goes_on() -> None:
    plan = planned()
    assert set(reasons(plan, stored(plan, without=("perplexity:de",)), saved(plan)).values()) == {
        "unfinished"
    }


@pytest.mark.parametrize(
    "changed", [{"dtype": "bfloat16"}, {"identity": SimpleNamespace(key="other", linears={})}]
)
def test_other_weights_change_every_key(changed: dict[str, Any]) -> None:
    plan = planned()
    other = replace(plan.models[0], **changed)
    keys = {trial.weights_key for trial in plan.trials}
    new = {trial.weights_key for trial in make_trials([other], plan.variants, (0,))}
    assert not keys & new


def test_what_could_not_be_looked_up_has_no_key_and_counts_as_missing() -> None:
    plan = planned()
    identity: Any = SimpleNamespace(key=None, linears={})
    unknown = replace(plan.models[0], identity=identity)
    trials = make_trials([unknown], plan.variants, (0,))
    assert {trial.weights_key for trial in trials} == {None}
    assert len(compare(replace(plan, trials=trials), stored(plan), SavedPlan()).todo) == 2


def test_seeds_make_different_weights() -> None:
    plan = planned()
    keys = [
        trial.weights_key
        for trial in make_trials(plan.models, plan.variants, (0, 1))
        if trial.seed is not None
    ]
    assert len(set(keys)) == len(keys) == 4
    assert wanda(plan).seed == 0
