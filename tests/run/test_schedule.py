"""Which trial a free worker gets next."""

from types import SimpleNamespace
from typing import Any

from studyctl.contract.methods import RTN, Dense, Wanda
from studyctl.contract.steps import Step, StepKind
from studyctl.plan.compare import Todo
from studyctl.plan.trials import PlannedModel, Trial
from studyctl.plan.variants import DENSE, Variant
from studyctl.run.jobs import Queue
from studyctl.spec.models import Model

ROUNDED = Variant("rtn-4bit-g64", RTN(group_size=64), None, "studyctl", ("*",), ("compression", 0))
MASKED = Variant("wanda-0.5", Wanda(sparsity=0.5), None, "studyctl", ("*",), ("compression", 1))


def model(index: int) -> PlannedModel:
    identity: Any = SimpleNamespace(key=f"model{index}")
    return PlannedModel(index, Model(id=f"org/M{index}"), identity, "float32")


def trial(index: int, variant: Variant) -> Trial:
    return Trial(f"M{index}-{variant.name}", model(index), variant, None, "key")


def todo(*trials: Trial) -> Queue:
    return Queue(Todo(entry, (Step(StepKind.PERPLEXITY, "en"),), "new") for entry in trials)


def chosen(waiting: Queue, running: list[Trial], held: str | None) -> str | None:
    entry = waiting.next(running, held)
    return entry.trial.id if entry else None


def test_dense_comes_before_the_variants_of_its_model() -> None:
    waiting = todo(trial(0, ROUNDED), trial(0, DENSE))
    assert chosen(waiting, [], None) == "M0-dense"


def test_variants_wait_for_their_dense_trial_and_not_for_that_of_another_model() -> None:
    waiting = todo(trial(0, ROUNDED), trial(1, ROUNDED))
    assert chosen(waiting, [trial(0, DENSE)], None) == "M1-rtn-4bit-g64"
    assert chosen(todo(trial(0, ROUNDED)), [trial(0, DENSE)], None) is None


def test_a_worker_takes_trials_of_the_model_that_it_holds_first() -> None:
    waiting = todo(trial(0, DENSE), trial(1, ROUNDED))
    assert chosen(waiting, [], "model1") == "M1-rtn-4bit-g64"
    assert chosen(waiting, [], "model0") == "M0-dense"


def test_two_workers_take_different_models() -> None:
    waiting = todo(trial(0, ROUNDED), trial(1, ROUNDED))
    assert chosen(waiting, [trial(0, ROUNDED)], None) == "M1-rtn-4bit-g64"


def test_nothing_is_left() -> None:
    assert Queue().next([], None) is None


def test_what_was_taken_is_gone() -> None:
    waiting = todo(trial(0, DENSE), trial(0, ROUNDED))
    for name in ("M0-dense", "M0-rtn-4bit-g64"):
        entry = waiting.next([], None)
        assert entry is not None
        assert entry.trial.id == name
        waiting.remove(entry)
    assert len(waiting) == 0


def test_dense_is_dense() -> None:
    assert isinstance(DENSE.settings, Dense)
    assert trial(0, DENSE).is_dense


class TestFirst:
    def test_a_trial_that_is_put_first_comes_before_those_of_the_held_model(self) -> None:
        waiting = todo(trial(0, ROUNDED), trial(1, ROUNDED), trial(1, MASKED))
        assert waiting.put_first("M1-wanda-0.5") == "M1-wanda-0.5 is run next"
        assert chosen(waiting, [], "model0") == "M1-wanda-0.5"

    def test_its_dense_trial_comes_before_it(self) -> None:
        waiting = todo(trial(0, DENSE), trial(1, DENSE), trial(1, ROUNDED), trial(1, MASKED))
        waiting.put_first("M1-wanda-0.5")
        assert chosen(waiting, [], "model0") == "M1-dense"
        waiting.remove(next(entry for entry in [waiting.next([], "model0")] if entry))
        assert (
            chosen(waiting, [trial(1, DENSE)], "model0") == "M0-dense"
        )  # it waits for the dense trial that runs
        assert chosen(waiting, [], "model0") == "M1-wanda-0.5"

    def test_of_several_the_last_that_was_asked_for_comes_first(self) -> None:
        waiting = todo(trial(0, ROUNDED), trial(1, ROUNDED), trial(2, ROUNDED))
        for index in (2, 1):
            waiting.put_first(f"M{index}-rtn-4bit-g64")
        assert chosen(waiting, [], None) == "M1-rtn-4bit-g64"
        waiting.put_first("M2-rtn-4bit-g64")
        assert waiting.first == ["M2-rtn-4bit-g64", "M1-rtn-4bit-g64"]

    def test_what_does_not_wait_cannot_be_first(self) -> None:
        waiting = todo(trial(0, ROUNDED))
        answer = waiting.put_first("M1-rtn-4bit-g64")
        assert answer == "M1-rtn-4bit-g64 does not wait: it runs, is done, or is not part of this run"
        assert waiting.first == []

    def test_an_edited_spec_keeps_the_order(self) -> None:
        entries = [Todo(trial(index, ROUNDED), (Step(StepKind.PERPLEXITY, "en"),), "new") for index in (0, 1)]
        assert chosen(Queue(entries, ["M1-rtn-4bit-g64"]), [], None) == "M1-rtn-4bit-g64"
