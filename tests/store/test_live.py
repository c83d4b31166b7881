"""A study that is watched: states and progress from the journals, a second after they are written."""

from pathlib import Path

import pytest

from studyctl.store.live import Live, LiveTrial
from tests.store.builder import FakeStudy

TRIAL = "alpha.wanda-0.5"


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan()
    return study


def trial(live: Live, *running: str) -> LiveTrial:
    return next(one for one in live.refresh(running).trials if one.trial == TRIAL)


def test_a_trial_from_pending_to_done(study: FakeStudy) -> None:
    live = Live(study.paths)
    assert trial(live).state == "pending"
    attempt = study.attempt(TRIAL)
    assert (trial(live, TRIAL).state, trial(live, TRIAL).stage) == ("running", None)
    attempt.begin("compress")
    seen = trial(live, TRIAL)
    assert (seen.stage, seen.done, seen.total, seen.unit, seen.stages_done) == ("compress", 1, 2, "block", 0)
    attempt.writer.write("progress", stage="compress", done=2, total=2, unit="block", note="mlp.down_proj")
    assert (trial(live, TRIAL).done, trial(live, TRIAL).note) == (2, "mlp.down_proj")
    attempt.end("compress")
    assert (trial(live, TRIAL).done, trial(live, TRIAL).stages_done) == (None, 1)
    for stage in study.protocol:
        attempt.run(stage)
    attempt.finish()
    assert (trial(live).state, trial(live).stages_done) == ("done", 6)


def test_a_killed_attempt_is_stopped_once_its_runner_is_gone(study: FakeStudy) -> None:
    live = Live(study.paths)
    study.attempt(TRIAL).begin("compress")
    assert trial(live, TRIAL).state == "running"
    assert trial(live).state == "stopped"


def test_a_failure_says_where_and_why(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    attempt.fail("compress")
    seen = trial(Live(study.paths))
    assert (seen.state, seen.stage, seen.error) == ("failed", "compress", "out of memory at block 3")


def test_a_retry_starts_with_its_own_progress(study: FakeStudy) -> None:
    live = Live(study.paths)
    first = study.attempt(TRIAL, 1)
    first.begin("compress")
    trial(live, TRIAL)
    first.fail("compress")
    second = study.attempt(TRIAL, 2)
    assert trial(live, TRIAL).done is None
    second.begin("compress")
    assert (trial(live, TRIAL).done, trial(live, TRIAL).attempts) == (1, 2)


def test_an_edited_plan_is_taken_up(study: FakeStudy) -> None:
    live = Live(study.paths)
    assert len(live.refresh().trials) == 3
    study.paths.plan.rename(study.root / "old.json")
    study.write_plan(trials=study.trials()[:1], title="Shorter")
    snapshot = live.refresh()
    assert (len(snapshot.trials), snapshot.title, snapshot.count("pending")) == (1, "Shorter", 1)
