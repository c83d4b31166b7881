"""What a study will take, before anything is measured and while it runs."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from studyctl.contract.records import Progress, Record, StepFinished, StepStarted
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.journal.stored import Results, Stored
from studyctl.plan import estimate as module
from studyctl.plan.compare import compare
from studyctl.plan.estimate import Clock, Estimate, estimate, peak_bytes
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.trials import Trial
from studyctl.spec.loading import load_spec
from tests.plan.stored import stored_result
from tests.run.studies import write_spec

METHODS = {
    "wanda": 'method = "wanda"\nsparsity = 0.5',
    "sparsegpt": 'method = "sparsegpt"\nsparsity = 0.5',
    "sparsegpt, then gptq": 'method = ["sparsegpt", "gptq"]\nsparsity = 0.5\ngroup_size = 16',
    "awq": 'method = "awq"\ngroup_size = 16',
    "awq by the block": 'method = "awq"\ngroup_size = 16\nobjective = "block"',
}


@pytest.fixture
def folder(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(module, "rate", lambda device, dtype, hidden: 1e6)
    return tmp_path


def planned(folder: Path, method: str = "wanda", windows: int = 4) -> StudyPlan:
    spec = write_spec(folder, change=("windows = 4", f"windows = {windows}"))
    spec.write_text(spec.read_text().replace(METHODS["wanda"], METHODS[method]))
    plan = make_plan(load_spec(spec))
    plan.raise_errors()
    return plan


def estimated(plan: StudyPlan, stored: Stored | None = None) -> Estimate:
    stored = stored or Stored()
    return estimate(plan, compare(plan, stored, None), stored)


def clock_of(plan: StudyPlan, stored: Stored | None = None) -> Clock:
    stored = stored or Stored()
    return Clock(plan, compare(plan, stored, None), stored)


def of_method(plan: StudyPlan) -> Trial:
    """Return the trial of the variant that looks at data."""
    return next(trial for trial in plan.trials if trial.variant.calibration)


def dense_took(plan: StudyPlan, seconds: float, batches: int | None = None) -> Stored:
    """Return a store where each batch of windows of the uncompressed model took so long.

    Args:
        plan: Asks for them.
        seconds: Of each batch.
        batches: How many of each language are stored; None: all.
    """
    dense = plan.trials[0]
    assert dense.weights_key is not None
    results = {
        step.key or "": stored_result(dense, step.batches()[:batches], seconds=seconds)
        for step in dense.model.steps
        if step.kind is StepKind.PERPLEXITY and batches != 0
    }
    return Stored(results={dense.weights_key: (Results(results),)})


# -- before anything is measured


def test_methods_that_compute_more_take_longer(folder: Path) -> None:
    seconds = {method: estimated(planned(folder, method)).seconds for method in METHODS}
    assert seconds["wanda"] < seconds["sparsegpt"] < seconds["sparsegpt, then gptq"]
    assert seconds["sparsegpt"] < seconds["awq"] < seconds["awq by the block"]


def test_windows_take_two_operations_for_each_weight_of_the_blocks_and_token(folder: Path) -> None:
    more, fewer = (estimated(planned(folder, windows=windows)).seconds for windows in (8, 4))
    # Linears of two blocks: q, o 32 × 32, k, v 16 × 32, gate, up, down 64 × 32; four norms of 32, one at the end.
    weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32) + 5 * 32
    head = 2 * 320 * (32 + 16)
    tokens = 2 * 4 * 32  # two languages
    of_all = 3 * 2 * weights + (1 + 2 * 3.2) * head  # dense and two variants
    assert more - fewer == pytest.approx(tokens * of_all / 1e6)


def test_an_estimate_has_everything_before_anything_is_measured(folder: Path) -> None:
    shown = estimated(planned(folder, "sparsegpt, then gptq"))
    assert not shown.measured
    assert min(shown.seconds, shown.host_bytes, shown.disk_bytes) > 0
    assert shown.device_bytes == 0


def test_the_uncompressed_model_needs_least_memory(folder: Path) -> None:
    dense, *others = (
        peak_bytes(planned(folder, "sparsegpt"), t)[0] for t in planned(folder, "sparsegpt").trials
    )
    assert all(dense <= other for other in others)


# -- from what was measured


def test_what_a_language_took_is_what_it_takes_the_other_variants(folder: Path) -> None:
    plan = planned(folder, windows=20)
    shown = estimated(plan, dense_took(plan, 1000.0))
    assert shown.measured
    sizes = estimated(plan).seconds
    perplexities = 2 * 3 * 1000.0  # of two languages, three batches each
    assert shown.seconds > 2 * perplexities > sizes  # each variant compares logits on top


def test_windows_that_are_stored_take_no_more_time(folder: Path) -> None:
    plan = planned(folder, windows=16)
    nothing, half, whole = (
        Clock(plan, compare(plan, Stored(), None), Stored()),
        clock_of(plan, dense_took(plan, 1.0, 1)),
        clock_of(plan, dense_took(plan, 1.0)),
    )
    step, dense = StepId(StepKind.PERPLEXITY, "en"), plan.trials[0].id
    left = [clock._pending[dense].get(step) for clock in (nothing, half, whole)]
    assert left[0] is not None
    assert left[1] is not None
    assert left[1].seconds == pytest.approx(left[0].seconds / 2)
    assert left[2] is None


# -- the time left of a run


class Run:
    """Tells a clock what the worker of a study reports, at seconds that pass as the test says."""

    def __init__(self, plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.plan, self.clock = plan, clock_of(plan)

    def begin(self, trial: Trial, step: Step) -> None:
        self._report(trial, StepStarted(step=step))

    def progress(self, trial: Trial, step: Step, done: float) -> None:
        first, last = step.windows or (0, 1)  # of a text the windows before the batch count
        done = first + done * (last - first)
        self._report(trial, Progress(step=step, done=done, total=last, unit="block"))

    def finish(self, trial: Trial, step: Step, seconds: float) -> None:
        self._report(trial, StepFinished(step=step, seconds=seconds))

    def _report(self, trial: Trial, record: Record) -> None:
        record.trial = trial.id
        self.clock.record(record)

    def left(self) -> float:
        seconds = self.clock.seconds_left()
        assert seconds is not None
        return seconds


def test_time_left_is_not_known_before_a_step_is_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(planned(folder), monkeypatch)
    dense = run.plan.trials[0]
    run.begin(dense, dense.steps[0])
    run.progress(dense, dense.steps[0], 0.5)
    assert run.clock.seconds_left() is None
    run.finish(dense, dense.steps[0], 1.0)
    assert run.left() > 0


def test_the_time_left_goes_down_as_time_goes_by(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(planned(folder), monkeypatch)
    lefts = []
    for trial in run.plan.trials:
        for step in trial.steps:
            for batch in step.batches():
                run.begin(trial, batch)
                sizes = module._seconds(run.plan, trial, batch) / len(step.batches())
                for tenth in range(1, 10):
                    run.now += sizes * 3 / 10
                    if tenth > 5:  # at first it says nothing
                        run.progress(trial, batch, tenth / 10)
                    lefts.append(run.clock.seconds_left())
                run.finish(trial, batch, 3 * sizes)
                lefts.append(run.clock.seconds_left())
    known = [left for left in lefts if left is not None]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(known))
    assert known[-1] == 0


def test_progress_of_the_running_step_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(planned(folder), monkeypatch)
    dense, trial = run.plan.trials[0], of_method(run.plan)
    for step in dense.steps:
        run.finish(dense, step, module._seconds(run.plan, dense, step))
    before, (compress, *_) = run.left(), trial.steps
    run.begin(trial, compress)
    run.progress(trial, compress, 0.25)
    assert before - run.left() == pytest.approx(module._seconds(run.plan, trial, compress) / 4)


def test_what_a_method_took_is_not_taken_for_another_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(planned(folder), monkeypatch)
    dense, trial = run.plan.trials[0], of_method(run.plan)
    for step in dense.steps:
        run.finish(dense, step, module._seconds(run.plan, dense, step))
    before = run.left()
    compress = trial.steps[0]
    sizes = module._seconds(run.plan, trial, compress)
    run.finish(trial, compress, 100 * sizes)
    other = next(one for one in run.plan.trials if one.variant.method == "rtn")
    rtn = module._seconds(run.plan, other, other.steps[0])
    # No compression but this was measured: that of rtn is corrected by it; evaluations are not.
    assert run.left() == pytest.approx(before - sizes + 99 * rtn)


def test_a_first_task_that_waited_for_an_import_does_not_make_all_others_longer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(planned(folder), monkeypatch)
    dense, *others = run.plan.trials
    perplexities = [step for step in dense.steps if step.kind is StepKind.PERPLEXITY]
    (task,) = (step for step in dense.steps if step.kind is StepKind.TASK)
    run.finish(dense, task, 100 * module._seconds(run.plan, dense, task))
    for step in perplexities:
        run.finish(dense, step, module._seconds(run.plan, dense, step))
    for trial in others[:2]:
        run.finish(trial, task, module._seconds(run.plan, trial, task))
    sizes = sum(
        module._seconds(run.plan, trial, step) for trial in others for step in trial.steps if step is not task
    )
    assert run.left() == pytest.approx(sizes)


def test_a_batch_of_windows_is_its_part_of_a_language(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(planned(folder, windows=12), monkeypatch)
    dense = run.plan.trials[0]
    step = next(step for step in dense.steps if step.kind is StepKind.PERPLEXITY)
    whole = module._seconds(run.plan, dense, step)
    for batch, left in zip(step.batches(), (4, 0), strict=True):
        run.finish(dense, batch, 1.0)
        pending = run.clock._pending[dense.id].get(step.id)
        assert (pending.seconds if pending else 0) == pytest.approx(whole * left / 12)


def test_a_text_with_fewer_windows_than_expected_ends_with_its_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(planned(folder, windows=20), monkeypatch)
    dense = run.plan.trials[0]
    step = next(step for step in dense.steps if step.kind is StepKind.PERPLEXITY)
    for batch in step.batches()[:2]:
        run.clock.record(StepFinished(trial=dense.id, step=batch, seconds=1.0, measured=10))
    assert step.id not in run.clock._pending[dense.id]


def test_a_published_checkpoint_keeps_no_weights(folder: Path) -> None:
    """It is loaded from its own files whenever it is measured, so it adds nothing to the weights that are kept."""
    spec = write_spec(folder)
    shutil.copytree(folder / "tiny", folder / "published")
    without = estimated(make_plan(load_spec(spec)))
    table = '[[compression]]\nmethod = "checkpoint"\nid = "./published"\nof = "./tiny"\n\n[text.mine]'
    spec.write_text(spec.read_text().replace("[text.mine]", table))
    plan = make_plan(load_spec(spec))
    plan.raise_errors()
    assert any(trial.checkpoint is not None for trial in plan.trials)
    assert estimated(plan).disk_bytes - without.disk_bytes < 60_000  # its journal and item rows


def test_what_is_left_is_the_sum_over_all_steps_however_many_were_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(planned(folder, windows=20), monkeypatch)
    for trial in run.plan.trials[:2]:
        for step in trial.steps[:-1]:
            for part in step.batches()[:1] if step.windows else [step]:
                run.finish(trial, part, 3.0)
        every = [(one.id, step.id) for one in run.plan.trials for step in one.steps]
        assert run.left() == pytest.approx(run.clock.estimate(every))
