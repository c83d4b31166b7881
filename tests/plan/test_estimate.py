"""What a study will take, before anything is measured."""

import shutil
from pathlib import Path

import pytest

from studyctl.plan.compare import compare
from studyctl.plan.estimate import Estimate, StageTimes, estimate
from studyctl.plan.memory import peak_host_bytes
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import SavedPlan
from studyctl.spec.loading import load_spec
from studyctl.store.index import Stored
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


def compress_seconds(plan: StudyPlan) -> float:
    todo = next(todo for todo in compare(plan, Stored(), SavedPlan()).todo if todo.trial.variant.calibration)
    return StageTimes(plan, Stored()).of_todo(todo)["compress"]


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
