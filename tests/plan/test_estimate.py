"""What a study will take, before anything is measured."""

import shutil
from pathlib import Path

import pytest

from studyctl.plan.compare import compare
from studyctl.plan.estimate import Clock, Estimate, StageTimes, estimate, usual_ratio
from studyctl.plan.memory import peak_host_bytes
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import SavedPlan
from studyctl.spec.loading import load_spec
from studyctl.store.index import Stored, StoredStage
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


def planned(folder: Path, method: str) -> StudyPlan:
    spec = write_spec(folder)
    spec.write_text(spec.read_text().replace(WANDA, METHODS[method]))
    plan = make_plan(load_spec(spec))
    plan.raise_errors()
    return plan


def estimated(plan: StudyPlan) -> Estimate:
    return estimate(plan, compare(plan, Stored(), SavedPlan()), Stored())


def compress_seconds(plan: StudyPlan, stored: Stored | None = None) -> float:
    todo = next(todo for todo in compare(plan, Stored(), SavedPlan()).todo if todo.trial.variant.calibration)
    return StageTimes(plan, stored or Stored()).of_todo(todo)["compress"]


def dense_took(plan: StudyPlan, seconds: float) -> Stored:
    """Return a store where each perplexity of the uncompressed model took so long."""
    dense = plan.trials[0]
    assert dense.weights_key is not None
    return Stored(
        results={
            dense.weights_key: {
                stage.key: StoredStage(
                    dense.id, 1, stage.name, stage.key, dense.weights_key, None, seconds, 0, 16.0, 0.0, "", Path(), 0, 0
                )
                for stage in dense.model.stages
                if stage.name.startswith("perplexity:")
            }
        }
    )  # fmt: skip


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


def test_time_left_takes_how_slow_other_stages_were_for_passes_only() -> None:
    clock = Clock(
        1,
        {
            ("m.dense", "perplexity:en"): ("perplexity", 2.0, 0.0),
            ("m.awq", "compress"): ("compress awq", 4.0, 10.0),
        },
    )
    clock.record({"kind": "stage_finished", "trial": "m.dense", "stage": "perplexity:en", "seconds": 6.0})
    assert clock.seconds_left() == pytest.approx(4.0 * 3 + 10.0)


def test_time_left_is_corrected_whole_by_what_stages_of_the_same_kind_took() -> None:
    clock = Clock(
        1, {("m.a", "compress"): ("compress awq", 4.0, 10.0), ("n.a", "compress"): ("compress awq", 2.0, 5.0)}
    )
    clock.record({"kind": "stage_finished", "trial": "m.a", "stage": "compress", "seconds": 28.0})
    assert clock.seconds_left() == pytest.approx(14.0)


def test_a_short_stage_that_waited_for_an_import_does_not_make_all_others_longer() -> None:
    tasks = {("m.a", f"task:{n}"): ("task", 1.0, 0.0) for n in range(7)}
    clock = Clock(1, {**tasks, ("m.b", "task:0"): ("task", 1.0, 0.0)})
    for n, seconds in enumerate([9.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0]):
        clock.record({"kind": "stage_finished", "trial": "m.a", "stage": f"task:{n}", "seconds": seconds})
    assert clock.seconds_left() == pytest.approx(2.0)


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
