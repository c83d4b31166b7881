"""What would run, and why: a plan compared with what is stored."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studyctl.contract.identity import TextIdentity
from studyctl.contract.job import CalibrationData
from studyctl.contract.plan import Planned
from studyctl.contract.records import SCHEMA, AttemptFinished, AttemptStarted, StepFailed
from studyctl.contract.steps import ALL_WINDOWS, Span, Step, StepKind, batch_spans
from studyctl.journal.stored import Attempt, Results, Stored
from studyctl.plan import compare as plan_compare
from studyctl.plan.compare import Comparison, Todo
from studyctl.plan.devices import Place
from studyctl.plan.planner import StudyPlan
from studyctl.plan.saved import planned as planned_form
from studyctl.plan.trials import Evaluation, PlannedModel, Trial, make_trials
from studyctl.plan.variants import expand_variants
from studyctl.spec.loading import parse_spec
from tests.plan.stored import stored_result

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


def planned(
    samples: int = 4,
    windows: int = 8,
    languages: tuple[str, ...] = ("en", "de"),
    length: int = 16,
    code: int = 1,
    text_key: str = "0" * 20,
) -> StudyPlan:
    document = parse_spec(SPEC.format(samples=samples), Path("t.toml"))
    variants, _ = expand_variants(document)
    identity: Any = SimpleNamespace(key="weights", linears={}, kind="folder")
    evaluations = tuple(
        Evaluation(
            Step(StepKind.PERPLEXITY, language, (0, windows), f"{language} {length} {code} {text_key}"),
            {"text": text_key, "sequence_length": length, "code": code},
        )
        for language in languages
    )
    text = TextIdentity("pocket", "calibration", "en", "text")
    data = CalibrationData(samples=samples, sequence_length=16, texts=(text,))
    calibrations = {variant.calibration: data for variant in variants if variant.calibration}
    model = PlannedModel(0, document.spec.models[0], identity, "float32", evaluations, calibrations)
    trials = make_trials([model], variants, document.spec.study.seeds)
    missing = {variant.name: "its environment" for variant in variants if variant.backend != "studyctl"}
    return StudyPlan(document, [model], variants, trials, Place(["cpu"]), {}, {}, [], [], missing)


def saved(plan: StudyPlan) -> Planned:
    return planned_form(plan, "")


def stored(
    plan: StudyPlan,
    *,
    without: tuple[str, ...] = (),
    failure: StepFailed | None = None,
    available: int | None = None,
) -> Stored:
    """Return a store that has every available result but those of the steps named."""
    store = Stored()
    for trial in plan.trials:
        assert trial.weights_key is not None
        by_key = {
            step.key: stored_result(trial, step.batches(available), available=available)
            for step in trial.steps
            if str(step) not in without and step.key
        }
        store.results[trial.weights_key] = (Results(by_key),)
        store.attempts[trial.id] = (
            Attempt(
                trial.id,
                1,
                Path("x"),
                AttemptStarted(
                    schema=SCHEMA,
                    studyctl="0",
                    model="org/M",
                    method="",
                    variant="",
                    weights_key=trial.weights_key,
                ),
                failures=(failure,) if failure else (),
                finished=AttemptFinished(state="failed" if failure else "done"),
            ),
        )
    return store


def compare(plan: StudyPlan, store: Stored, before: Planned | None) -> Comparison:
    """Compare, while the weights of every trial are kept."""
    return plan_compare.compare(plan, store, before, frozenset(store.results))


def wanda(plan: StudyPlan) -> Trial:
    return next(trial for trial in plan.trials if trial.variant.name == "wanda-0.5")


def steps(todo: Todo) -> tuple[str, ...]:
    return tuple(map(str, todo.steps))


def reasons(plan: StudyPlan, store: Stored, before: Planned | None) -> dict[str, str]:
    return {todo.trial.variant.name: todo.reason for todo in compare(plan, store, before).todo}


def test_everything_is_new_at_first() -> None:
    plan = planned()
    comparison = compare(plan, Stored(), None)
    assert [(todo.trial.variant.name, steps(todo)) for todo in comparison.todo] == [
        ("dense", ("perplexity:en", "perplexity:de")),
        ("wanda-0.5", ("compress", "perplexity:en", "perplexity:de")),
    ]
    assert {todo.reason for todo in comparison.todo} == {"new"}
    assert [trial.variant.name for trial in comparison.unavailable] == ["sparsegpt-0.5@llm-compressor"]
    assert (comparison.steps, comparison.steps_to_run) == (8, 5)


def test_nothing_is_left_when_everything_is_stored() -> None:
    plan = planned()
    assert compare(plan, stored(plan), saved(plan)).todo == []


def test_another_calibration_reruns_what_depends_on_it_and_says_so() -> None:
    before, now = planned(samples=4), planned(samples=5)
    assert reasons(now, stored(before), saved(before)) == {"wanda-0.5": "calibration.samples 4 → 5"}


def test_a_language_more_runs_that_language_only() -> None:
    before, now = planned(), planned(languages=("en", "de", "sw"))
    comparison = compare(now, stored(before), saved(before))
    assert {steps(todo) for todo in comparison.todo} == {("perplexity:sw",)}
    assert {todo.reason for todo in comparison.todo} == {"new perplexity:sw"}


def test_another_protocol_names_the_key() -> None:
    before, now = planned(), planned(length=32)
    comparison = compare(now, stored(before), saved(before))
    assert {todo.reason for todo in comparison.todo} == {"perplexity.sequence_length 16 → 32"}


def test_other_code_is_told_as_such() -> None:
    before, now = planned(), planned(code=2)
    comparison = compare(now, stored(before), saved(before))
    assert {todo.reason for todo in comparison.todo} == {"perplexity.code 1 → 2"}


def test_other_content_is_named_without_its_hash() -> None:
    before, now = planned(), planned(text_key="1" * 20)
    comparison = compare(now, stored(before), saved(before))
    assert {todo.reason for todo in comparison.todo} == {"perplexity:en text changed"}


class TestWindows:
    def test_more_of_them_are_measured_and_named(self) -> None:
        before, now = planned(windows=8), planned(windows=16)
        assert reasons(now, stored(before), saved(before)) == dict.fromkeys(
            ["dense", "wanda-0.5"], "perplexity.windows 8 → 16"
        )
        assert {steps(todo) for todo in compare(now, stored(before), saved(before)).todo} == {
            ("perplexity:en", "perplexity:de")
        }

    def test_all_of_a_text_are_named_so(self) -> None:
        before, now = planned(windows=8), planned(windows=ALL_WINDOWS)
        store = stored(before, available=20)
        assert set(reasons(now, store, saved(before)).values()) == {"perplexity.windows 8 → all"}

    def test_all_of_a_text_are_not_counted_where_its_end_is_not_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def counted(end: int) -> tuple[Span, ...]:
            assert end < 10**6, "as many batches would not fit into memory"
            return batch_spans(end)

        monkeypatch.setattr("studyctl.journal.stored.batch_spans", counted)
        before, now = planned(windows=8), planned(windows=ALL_WINDOWS)
        assert set(reasons(now, stored(before), saved(before)).values()) == {"perplexity.windows 8 → all"}

    def test_fewer_of_them_are_there_already(self) -> None:
        before, now = planned(windows=16), planned(windows=8)
        assert compare(now, stored(before), saved(before)).todo == []

    def test_fewer_of_them_that_are_no_whole_batch_are_not(self) -> None:
        before, now = planned(windows=16), planned(windows=12)
        assert set(reasons(now, stored(before), saved(before)).values()) == {"perplexity.windows 16 → 12"}

    @pytest.mark.parametrize("windows", [20, 128, ALL_WINDOWS])
    def test_more_than_a_text_has_are_not_missed(self, windows: int) -> None:
        plan = planned(windows=windows)
        assert compare(plan, stored(plan, available=20), saved(plan)).todo == []

    def test_a_batch_that_is_missing_makes_its_language_run(self) -> None:
        plan = planned(windows=24)
        store = stored(plan)
        dense = plan.trials[0]
        assert dense.weights_key is not None
        (step, _) = dense.steps
        first, _, last = step.batches()
        (have,) = store.results[dense.weights_key]
        torn = {**have.by_key, step.key: stored_result(dense, [first, last])}
        store.results[dense.weights_key] = (Results(torn),)
        (todo,) = compare(plan, store, saved(plan)).todo
        assert (todo.trial, todo.steps, todo.reason) == (dense, (step,), "unfinished")


def test_results_of_an_earlier_version_run_again_once_and_that_is_said() -> None:
    now = planned(code=2)
    before = replace(saved(now), version=1)
    comparison = compare(now, stored(planned()), before)
    assert {todo.reason for todo in comparison.todo} == {"version 0.1 → 0.2, once: results have new keys"}


def test_a_failed_step_is_run_again() -> None:
    plan = planned()
    batch = Step(StepKind.PERPLEXITY, "de", (0, 8), "de 16 1")
    failure = StepFailed(step=batch, error="boom", at="2026-01-01T00:00:00Z")
    store = stored(plan, without=("perplexity:de",), failure=failure)
    comparison = compare(plan, store, saved(plan))
    assert {steps(todo) for todo in comparison.todo} == {("perplexity:de",)}
    assert {todo.reason for todo in comparison.todo} == {"failed at perplexity:de"}


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
    assert len(compare(replace(plan, trials=trials), stored(plan), None).todo) == 2


def test_seeds_make_different_weights() -> None:
    plan = planned()
    keys = [
        trial.weights_key
        for trial in make_trials(plan.models, plan.variants, (0, 1))
        if trial.seed is not None
    ]
    assert len(set(keys)) == len(keys) == 4
    assert wanda(plan).seed == 0


# -- weights that were not kept


def test_a_language_more_compresses_again_where_the_weights_are_gone() -> None:
    before, now = planned(languages=("en",)), planned()
    store = stored(before)
    kept = compare(now, store, saved(before)).todo
    assert {steps(todo) for todo in kept} == {("perplexity:de",)}
    gone = plan_compare.compare(now, store, saved(before), frozenset()).todo
    assert {todo.trial.variant.name: (todo.again, steps(todo)) for todo in gone} == {
        "dense": (False, ("perplexity:de",)),
        "wanda-0.5": (True, ("compress", "perplexity:de")),
    }
    assert {todo.reason for todo in gone} == {"new perplexity:de"}


def test_weights_that_nothing_needs_are_not_made_again() -> None:
    plan = planned()
    assert plan_compare.compare(plan, stored(plan), saved(plan), frozenset()).todo == []
