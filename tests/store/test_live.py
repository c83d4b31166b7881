"""A study that is watched: states and progress from the journals, a second after they are written."""

from pathlib import Path

import pytest

from studyctl.contract.records import StepStarted
from studyctl.contract.steps import StepId, StepKind
from studyctl.store.live import Live, LiveTrial, Pace, pace
from studyctl.store.publish import publish
from tests.store import builder
from tests.store.builder import FakeStudy
from tests.tui.studies import write_runner

TRIAL = "alpha.wanda-0.5"
COMPRESS = StepId(StepKind.COMPRESS)


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan()
    return study


def trial(live: Live, *running: str, attempt: int = 1) -> LiveTrial:
    study = FakeStudy(live.paths.root)
    write_runner(study, [(name, attempt) for name in running], alive=bool(running))
    return next(one for one in live.refresh().trials if one.trial == TRIAL)


def test_a_trial_from_pending_to_done(study: FakeStudy) -> None:
    live = Live(study.paths)
    assert trial(live).state == "pending"
    attempt = study.attempt(TRIAL)
    assert (trial(live, TRIAL).state, trial(live, TRIAL).step) == ("running", None)
    attempt.begin("compress")
    seen = trial(live, TRIAL)
    assert (seen.step, seen.done, seen.total, seen.unit, seen.steps_done) == (COMPRESS, 1, 2, "block", 0)
    attempt.progress("compress", 2, 2, "block", "mlp.down_proj")
    assert (trial(live, TRIAL).done, trial(live, TRIAL).note) == (2, "mlp.down_proj")
    attempt.end("compress")
    assert (trial(live, TRIAL).done, trial(live, TRIAL).steps_done) == (None, 1)
    for step in study.protocol:
        attempt.run(step)
    attempt.finish()
    assert (trial(live).state, trial(live).steps_done) == ("done", 6)


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
    assert (seen.state, seen.step, seen.error) == ("failed", COMPRESS, "out of memory at block 3")


def test_a_retry_starts_with_its_own_progress(study: FakeStudy) -> None:
    live = Live(study.paths)
    first = study.attempt(TRIAL, 1)
    first.begin("compress")
    trial(live, TRIAL)
    first.fail("compress")
    second = study.attempt(TRIAL, 2)
    assert trial(live, TRIAL, attempt=2).done is None
    second.begin("compress")
    seen = trial(live, TRIAL, attempt=2)
    assert (seen.done, seen.attempts) == (1, 2)


def test_an_edited_plan_is_taken_up(study: FakeStudy) -> None:
    live = Live(study.paths)
    assert len(live.refresh().trials) == 3
    study.paths.plan.rename(study.root / "old.json")
    study.write_plan(trials=study.trials()[:1], title="Shorter")
    snapshot = live.refresh()
    assert (len(snapshot.trials), snapshot.title, snapshot.count("pending")) == (1, "Shorter", 1)


def test_what_did_not_change_is_the_same_object(study: FakeStudy) -> None:
    live = Live(study.paths)
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    trial(live, TRIAL)
    before = {one.trial: one for one in live.refresh().trials}
    attempt.progress("compress", 2, 2, "block")
    after = {one.trial: one for one in live.refresh().trials}
    assert [name for name in before if before[name] is not after[name]] == [TRIAL]


def test_only_journals_of_running_attempts_are_looked_at(study: FakeStudy) -> None:
    live = Live(study.paths)
    other = study.attempt("alpha.rtn-4bit-g64").run_all()
    attempt = study.attempt(TRIAL)
    trial(live, TRIAL)
    other.path.write_bytes(b"")  # would be an error, or a change, if anybody looked
    attempt.begin("compress")
    assert trial(live, TRIAL).step == COMPRESS
    states = {one.trial: one.state for one in live.refresh().trials}
    assert states["alpha.rtn-4bit-g64"] == "done"


def test_figures_appear_before_they_are_published(study: FakeStudy) -> None:
    live = Live(study.paths)
    study.attempt("alpha.dense").run_all()
    publish(study.paths)
    attempt = study.attempt(TRIAL)
    for step in ("load", "compress", "perplexity:en"):
        attempt.run(step)
    attempt.begin("perplexity:sw")
    trial(live, TRIAL)
    assert live.standings()[TRIAL].ppl_ratio == pytest.approx(1.5)
    assert live.standings()["alpha.dense"].state == "done"
    detail = live.trial(TRIAL)
    assert [(row.language, row.ppl_ratio) for row in detail.languages] == [("en", pytest.approx(1.5))]
    steps = {str(step.step): step for step in detail.steps}
    assert (steps["compress"].state, steps["compress"].seconds) == ("done", 2.0)
    assert (steps["perplexity:sw"].state, steps["perplexity:sw"].done) == ("running", 1)
    assert steps["task:boolq"].state == "pending"


def test_layers_of_a_running_compression(study: FakeStudy) -> None:
    live = Live(study.paths)
    attempt = study.attempt(TRIAL)
    attempt.run("load")
    attempt.begin("compress")
    attempt._layers()
    trial(live, TRIAL)
    layers = live.trial(TRIAL).layers
    assert [(layer.block, layer.linear) for layer in layers][:2] == [
        (0, "self_attn.q_proj"),
        (0, "mlp.down_proj"),
    ]


def test_a_failure_with_its_cause_and_what_to_do(study: FakeStudy) -> None:
    live = Live(study.paths)
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    attempt.fail("compress")
    trial(live)
    detail = live.trial(TRIAL)
    assert (detail.cause, detail.hint) == ("out_of_memory", "use fewer samples")
    assert [(one.attempt, one.state_if(running=False)) for one in detail.attempts] == [(1, "failed")]


def test_a_runner_that_died_is_still_named(study: FakeStudy) -> None:
    live = Live(study.paths)
    write_runner(study, [(TRIAL, 1)], alive=False)
    snapshot = live.refresh()
    assert snapshot.runner is not None
    assert not snapshot.running


def test_details_are_read_again_only_when_something_was_measured_or_warned_of(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    in_memory = Live._in_memory
    monkeypatch.setattr(
        Live, "_in_memory", lambda live, trials: (read.extend(trials), in_memory(live, trials))[1]
    )
    live = Live(study.paths)
    attempt = study.attempt(TRIAL)
    attempt.run("load")
    attempt.begin("compress")
    trial(live, TRIAL)
    first = live.trial(TRIAL)
    attempt.progress("compress", 2, 2, "block")
    live.refresh()
    assert live.trial(TRIAL).trial.done == 2
    assert read == [TRIAL]
    attempt.warn("compress", "damping was raised")
    live.refresh()
    assert len(live.trial(TRIAL).warnings) == len(first.warnings) + 1
    assert read == [TRIAL, TRIAL]


def test_progress_in_a_language_goes_on_from_batch_to_batch(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "WINDOWS", 10)
    study.write_plan()
    live = Live(study.paths)
    attempt = study.attempt(TRIAL)
    attempt.run("compress")
    attempt.begin("perplexity:en")
    attempt.progress("perplexity:en", 8, 10, "window")
    attempt.end("perplexity:en")
    attempt.writer.write(StepStarted(step=attempt.batch("perplexity:en", 1)))
    seen = trial(live, TRIAL)
    assert (str(seen.step), seen.done, seen.total, seen.steps_done) == ("perplexity:en", 8, 10, 1)
    attempt.end("perplexity:en", 1)
    attempt.begin("perplexity:sw")
    seen = trial(live, TRIAL)
    assert (str(seen.step), seen.done, seen.steps_done) == ("perplexity:sw", 1, 2)


class TestPace:
    def test_a_steady_step_has_one_time_left(self) -> None:
        points = [(100.0 + 2 * done, float(done)) for done in range(9)]  # 2 s per unit, 8 of 20 are done
        assert pace(16.0, points, 20.0) == Pace(16.0, 0.5, (24.0, 24.0))

    def test_the_fastest_and_the_slowest_quarter_bound_the_time_left(self) -> None:
        at = [0, 1, 2, 4, 6, 9, 12, 14, 16]  # quarters of two units each take 2, 4, 6 and 4 s
        points = [(float(second), float(done)) for done, second in enumerate(at)]
        assert pace(16.0, points, 12.0) == Pace(16.0, 0.5, (4.0, 12.0))

    @pytest.mark.parametrize(
        ("points", "expected"),
        [
            ([], Pace(7.0)),
            ([(0.0, 1.0)], Pace(7.0)),
            ([(0.0, 1.0), (0.0, 2.0)], Pace(7.0)),
            ([(0.0, 1.0), (2.0, 2.0)], Pace(7.0, 0.5)),
            ([(0.0, 0.0), (2.0, 8.0), (3.0, 9.0), (4.0, 10.0), (5.0, 10.0)], Pace(7.0, 2.0)),
        ],
        ids=["nothing", "once", "at one moment", "two records", "quarters that cannot be told apart"],
    )
    def test_too_little_progress_is_not_extrapolated(
        self, points: list[tuple[float, float]], expected: Pace
    ) -> None:
        assert pace(7.0, points, 100.0) == expected

    def test_a_step_that_was_resumed_counts_only_what_this_attempt_did(self) -> None:
        points = [(float(second), 50.0 + second) for second in range(5)]  # it began at 50 of 60
        assert pace(4.0, points, 60.0) == Pace(4.0, 1.0, (6.0, 6.0))

    def test_a_running_trial_has_it_from_its_journal(self, study: FakeStudy) -> None:
        live = Live(study.paths)
        attempt = study.attempt(TRIAL)
        attempt.begin("compress")
        seen = trial(live, TRIAL).pace
        assert seen is not None
        assert seen.seconds >= 0
        attempt.end("compress")
        assert trial(live, TRIAL).pace is None
