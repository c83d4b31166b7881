"""What a study will take, before anything is measured."""

import shutil
from pathlib import Path

import pytest

from studyctl.contract.records import Progress, StepFinished
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.journal.stored import Results, Stored
from studyctl.plan import estimate as module
from studyctl.plan.compare import compare
from studyctl.plan.estimate import Clock, Estimate, StepTimes, estimate, usual_ratio
from studyctl.plan.memory import peak_host_bytes
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.spec.loading import load_spec
from tests.plan.stored import stored_result
from tests.run.studies import write_spec

WANDA = 'method = "wanda"'
METHODS = {
    "wanda": WANDA,
    "sparsegpt": 'method = "sparsegpt"',
    "sparsegpt, whole blocks": 'method = "sparsegpt"\norder = "block"',
    "sparsegpt, then gptq": 'method = ["sparsegpt", "gptq"]\ngroup_size = 16',
}


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    return tmp_path


def planned(folder: Path, method: str, windows: int = 4) -> StudyPlan:
    spec = write_spec(folder, change=("windows = 4", f"windows = {windows}"))
    spec.write_text(spec.read_text().replace(WANDA, METHODS[method]))
    plan = make_plan(load_spec(spec))
    plan.raise_errors()
    return plan


def estimated(plan: StudyPlan, stored: Stored | None = None) -> Estimate:
    stored = stored or Stored()
    return estimate(plan, compare(plan, stored, None), stored)


def compress_seconds(plan: StudyPlan, stored: Stored | None = None) -> float:
    todo = next(todo for todo in compare(plan, Stored(), None).todo if todo.trial.variant.calibration)
    (step,) = (step for step in todo.steps if step.kind is StepKind.COMPRESS)
    return sum(StepTimes(plan, stored or Stored()).parts_of(todo.trial, step))


def dense_took(plan: StudyPlan, seconds: float, batches: int | None = None) -> Stored:
    """Return a store where each batch of windows of the uncompressed model took so long.

    Args:
        plan: Asks for them.
        seconds: Of each batch.
        batches: How many of each language are there; None: all.
    """
    dense = plan.trials[0]
    assert dense.weights_key is not None
    found = {
        step.key or "": stored_result(dense, step.batches()[:batches], seconds=seconds)
        for step in dense.model.steps
        if step.kind is StepKind.PERPLEXITY and batches != 0
    }
    return Stored(results={dense.weights_key: Results(found)})


def test_methods_that_compute_more_take_longer(folder: Path) -> None:
    seconds = {method: compress_seconds(planned(folder, method)) for method in METHODS}
    assert max(seconds["wanda"], seconds["sparsegpt"]) < seconds["sparsegpt, whole blocks"]
    assert seconds["sparsegpt"] < seconds["sparsegpt, then gptq"]


def test_an_estimate_has_everything_before_anything_is_measured(folder: Path) -> None:
    found = estimated(planned(folder, "sparsegpt, then gptq"))
    assert not found.measured
    assert min(found.seconds, found.host_bytes, found.disk_bytes) > 0
    assert found.device_bytes == 0


def test_the_uncompressed_model_needs_least(folder: Path) -> None:
    plan = planned(folder, "sparsegpt")
    dense, *others = plan.trials
    assert dense.is_dense
    assert all(peak_host_bytes(plan, dense) <= peak_host_bytes(plan, trial) for trial in others)


def test_how_slow_the_models_dtype_passes_says_nothing_of_what_is_done_in_float32(folder: Path) -> None:
    seconds = {}
    for method in ("wanda", "sparsegpt"):
        plan = planned(folder, method)
        seconds[method] = [compress_seconds(plan, dense_took(plan, took)) for took in (1.0, 2.0, 3.0)]
    for one, two, three in seconds.values():
        assert two - one == pytest.approx(three - two)  # of the passes, in proportion
        assert two < 2 * one  # and of the rest, not at all
    rest = {method: 2 * one - two for method, (one, two, _) in seconds.items()}
    assert rest["sparsegpt"] > rest["wanda"] > 0


def test_what_all_batches_of_a_language_took_is_what_it_takes(folder: Path) -> None:
    plan = planned(folder, "wanda", windows=20)
    times = StepTimes(plan, dense_took(plan, 2.0))
    (perplexity, *_) = plan.trials[0].steps
    assert len(perplexity.batches()) == 3
    assert sum(times.parts_of(plan.trials[0], perplexity)) == 6.0
    assert times.measured


def test_windows_that_are_stored_take_no_more_time(folder: Path) -> None:
    plan = planned(folder, "wanda", windows=16)
    nothing, half = (estimated(plan, dense_took(plan, 1.0, batches)).seconds for batches in (0, 1))
    dense = plan.trials[0]
    whole = sum(
        sum(StepTimes(plan, Stored()).parts_of(dense, step))
        for step in dense.steps
        if step.kind is StepKind.PERPLEXITY
    )
    assert nothing - half == pytest.approx(whole / 2)


# -- the time left of a run


def clock_of(*steps: tuple[str, str, float, float], windows: int = 0) -> Clock:
    """Return a clock of steps: trial, step, estimated seconds of passes and of the rest."""
    expected = {}
    for trial, name, passing, rest in steps:
        step = StepId.parse(name)
        kind = module._Kind(0, step.kind, "awq" if step.kind is StepKind.COMPRESS else "")
        expected[trial, step] = module._Expected(kind, passing, rest, windows)
    return Clock(1, expected)


def finish(clock: Clock, trial: str, step: str, seconds: float) -> None:
    kind, subject = StepId.parse(step)
    clock.record(StepFinished(trial=trial, step=Step(kind, subject), seconds=seconds))


def finish_batch(clock: Clock, first: int, last: int, seconds: float, measured: int | None = None) -> None:
    batch = Step(StepKind.PERPLEXITY, "en", (first, last))
    clock.record(StepFinished(trial="m.a", step=batch, seconds=seconds, measured=measured))


def test_time_left_is_not_known_before_a_step_is_finished() -> None:
    clock = clock_of(("m.a", "task:0", 1.0, 0.0))
    assert clock.seconds_left() is None
    clock.record(Progress(trial="m.a", step=Step(StepKind.TASK, "0"), done=1, total=2, unit="item"))
    assert clock.seconds_left() is None


def test_time_left_takes_how_slow_other_steps_were_for_passes_only() -> None:
    clock = clock_of(("m.dense", "perplexity:en", 2.0, 0.0), ("m.awq", "compress", 4.0, 10.0))
    finish(clock, "m.dense", "perplexity:en", 6.0)
    assert clock.seconds_left() == pytest.approx(4.0 * 3 + 10.0)


def test_time_left_is_corrected_whole_by_what_steps_of_the_same_kind_took() -> None:
    clock = clock_of(("m.a", "compress", 4.0, 10.0), ("n.a", "compress", 2.0, 5.0))
    finish(clock, "m.a", "compress", 28.0)
    assert clock.seconds_left() == pytest.approx(14.0)


def test_a_short_step_that_waited_for_an_import_does_not_make_all_others_longer() -> None:
    tasks = [("m.a", f"task:{n}", 1.0, 0.0) for n in range(7)]
    clock = clock_of(*tasks, ("m.b", "task:0", 1.0, 0.0))
    for n, seconds in enumerate([9.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0]):
        finish(clock, "m.a", f"task:{n}", seconds)
    assert clock.seconds_left() == pytest.approx(2.0)


def test_a_batch_of_windows_is_its_part_of_a_language() -> None:
    clock = clock_of(("m.a", "perplexity:en", 20.0, 0.0), windows=20)
    finish_batch(clock, 0, 8, 16.0)
    assert clock.seconds_left() == pytest.approx(12.0 * 2)
    finish_batch(clock, 8, 16, 16.0)
    assert clock.seconds_left() == pytest.approx(4.0 * 2)
    finish_batch(clock, 16, 20, 8.0, measured=20)
    assert clock.seconds_left() == 0


def test_a_text_that_has_fewer_windows_than_were_reckoned_with_is_done_with_its_last() -> None:
    clock = clock_of(("m.a", "perplexity:en", 20.0, 0.0), windows=20)
    finish_batch(clock, 0, 8, 16.0, measured=10)
    finish_batch(clock, 8, 10, 4.0, measured=10)
    assert clock.seconds_left() == 0


@pytest.mark.parametrize(
    ("times", "ratio"),
    [
        ([], 1.0),
        ([(3.0, 0.0)], 1.0),  # nothing was estimated
        ([(6.0, 2.0)], 3.0),
        ([(1.0, 1.0), (1.0, 1.0), (300.0, 100.0)], 3.0),  # a long stage tells more than short ones
    ],
)
def test_the_usual_ratio_is_a_median_by_what_was_estimated(
    times: list[tuple[float, float]], ratio: float
) -> None:
    assert usual_ratio(times) == ratio
