"""Which trials a run takes: patterns of variants, trials and models, and what is said of those that are nothing."""

import pytest

from studyctl.errors import ExitCode, SpecError
from studyctl.plan.trials import Trial
from studyctl.plan.variants import DENSE
from studyctl.run.selection import Selection
from tests.run.test_schedule import ROUNDED, trial


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
        (Selection(("dense",), ("M1",)), "no trial of this study matches --only dense --model M1"),
    ],
)
def test_a_part_that_there_is_not_is_refused(selection: Selection, error: str) -> None:
    trials = [trial(0, DENSE), trial(0, ROUNDED), trial(1, ROUNDED)]
    with pytest.raises(SpecError) as raised:
        selection.check(trials)
    assert raised.value.problems[0].what == error
    assert raised.value.exit_code is ExitCode.BAD_SPEC


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("rtn-4bit-g46", "did you mean `rtn-4bit-g64`?"),
        ("rtn", "did you mean `rtn*`?"),
        ("qqq", "`studyctl plan` lists what there is"),
    ],
)
def test_what_was_meant_is_hinted_at(pattern: str, hint: str) -> None:
    with pytest.raises(SpecError) as raised:
        Selection(("*", pattern)).check([trial(0, ROUNDED)])
    assert [problem.hint for problem in raised.value.problems] == [hint]


def test_every_pattern_that_is_nothing_is_told() -> None:
    with pytest.raises(SpecError) as raised:
        Selection(("a", "b"), ("c",)).check([trial(0, ROUNDED)])
    assert len(raised.value.problems) == 3


def test_a_name_with_brackets_is_itself() -> None:
    rounded = trial(0, ROUNDED)
    bracketed = Trial("M[0]-rtn", rounded.model, ROUNDED, None, "key")
    assert bracketed in Selection(("M[0]-rtn",))
    assert bracketed not in Selection(("M[1]-rtn",))
