"""Which trial a free worker gets next."""

from types import SimpleNamespace
from typing import Any

import pytest

from studyctl.compress.settings import RTN, Dense
from studyctl.errors import StudyError
from studyctl.plan.compare import Cause, Reason, Todo
from studyctl.plan.trials import PlannedModel, Trial
from studyctl.plan.variants import DENSE, Variant
from studyctl.run.outcome import Selection
from studyctl.run.schedule import choose
from studyctl.spec.models import Model

ROUNDED = Variant("rtn-4bit-g64", RTN(group_size=64), None, "studyctl", ("*",), ("compression", 0))


def model(index: int) -> PlannedModel:
    identity: Any = SimpleNamespace(key=f"model{index}")
    return PlannedModel(index, Model(id=f"org/M{index}"), identity, "float32")


def trial(index: int, variant: Variant) -> Trial:
    return Trial(f"M{index}-{variant.name}", model(index), variant, None, "key")


def todo(*trials: Trial) -> dict[str, Todo]:
    return {entry.id: Todo(entry, ("perplexity:en",), Reason(Cause.NEW)) for entry in trials}


def chosen(waiting: dict[str, Todo], running: list[Trial], held: str | None) -> str | None:
    entry = choose(waiting, running, held)
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
    assert choose({}, [], None) is None


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), True),
        (Selection(("*",), ("*",)), True),
        (Selection(("rtn*",)), True),
        (Selection(("awq*",)), False),
        (Selection(("awq*", "rtn*")), True),
        (Selection(("M0-rtn-4bit-g64",)), True),
        (Selection(model=("M0",)), True),
        (Selection(model=("org/*",)), True),
        (Selection(model=("M1",)), False),
        (Selection(model=("M1", "M0")), True),
        (Selection(("rtn*",), ("M1",)), False),
    ],
)
def test_a_part_is_chosen_by_patterns_of_variant_trial_and_model(
    selection: Selection, *, expected: bool
) -> None:
    assert (trial(0, ROUNDED) in selection) is expected


@pytest.mark.parametrize(
    ("selection", "error"),
    [
        (
            Selection(("rtn*", "rtn-4bit-g46")),
            "no variant or trial of this study is called `rtn-4bit-g46`",
        ),
        (Selection(model=("M2",)), "no model of this study is called `M2`"),
        (Selection(("dense",), ("M1",)), "no trial of this study is of --only dense --model M1"),
    ],
)
def test_a_part_that_there_is_not_is_refused(selection: Selection, error: str) -> None:
    trials = [trial(0, DENSE), trial(0, ROUNDED), trial(1, ROUNDED)]
    with pytest.raises(StudyError) as raised:
        selection.check(trials)
    assert raised.value.problems[0].what == error


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("rtn-4bit-g46", "did you mean `rtn-4bit-g64`?"),
        ("rtn", "did you mean `rtn*`?"),
        ("qqq", "`studyctl plan` lists what there is"),
    ],
)
def test_what_was_meant_is_hinted_at(pattern: str, hint: str) -> None:
    with pytest.raises(StudyError) as raised:
        Selection(("*", pattern)).check([trial(0, ROUNDED)])
    assert [problem.hint for problem in raised.value.problems] == [hint]


def test_every_pattern_that_is_nothing_is_told() -> None:
    with pytest.raises(StudyError) as raised:
        Selection(("a", "b"), ("c",)).check([trial(0, ROUNDED)])
    assert len(raised.value.problems) == 3


def test_a_name_with_brackets_is_itself() -> None:
    rounded = trial(0, ROUNDED)
    bracketed = Trial("M[0]-rtn", rounded.model, ROUNDED, None, "key")
    assert bracketed in Selection(("M[0]-rtn",))
    assert bracketed not in Selection(("M[1]-rtn",))


def test_dense_is_dense() -> None:
    assert isinstance(DENSE.settings, Dense)
    assert trial(0, DENSE).is_dense
