"""What people write who think of the thing and not of the key: the problem says what was meant."""

from pathlib import Path

import pytest

from studyctl.errors import Problem, SpecError, closest
from studyctl.spec.loading import parse_spec

SPEC = """
[study]
name = "x"
[[models]]
id = "a/b"
[calibration]
source = "pocket"
[[compression]]
method = "wanda"
sparsity = 0.5
[text.mine]
files = "a.txt"
[evaluation.perplexity]
source = "pocket"
languages = ["en"]
"""


def problem_of(old: str, new: str) -> Problem:
    assert old in SPEC
    with pytest.raises(SpecError) as caught:
        parse_spec(SPEC.replace(old, new), Path("x.toml"))
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        pytest.param('"wanda"', '"Wanda"', "did you mean `wanda`?", id="a method with a capital"),
        pytest.param('"wanda"', '"WANDA"', "did you mean `wanda`?", id="a method in capitals"),
        pytest.param("0.5", "50", "write 0.5 for 50 %", id="percent"),
        pytest.param("0.5", "[0.25, 62.5]", "write 0.625 for 62.5 %", id="percent in a list"),
        pytest.param('"a.txt"', '{ evaluation = "a.txt" }', "did you mean `perplexity`?", id="evaluation"),
        pytest.param('"a.txt"', '{ test = "a.txt" }', "did you mean `perplexity`?", id="test"),
        pytest.param('"a.txt"', '{ train = "a.txt" }', "did you mean `calibration`?", id="train"),
        pytest.param('["en"]', '["english"]', "write `en`", id="a language by its name"),
        pytest.param('["en"]', '["EN"]', "did you mean `en`?", id="a code in capitals"),
        pytest.param(
            "sparsity = 0.5",
            "sparsity = [0.5",
            "the list of `sparsity` begins on line 10",
            id="a list that goes on",
        ),
    ],
)
def test_what_was_meant_is_said_once(old: str, new: str, note: str) -> None:
    problem = problem_of(old, new)
    assert problem.note == note
    assert not problem.hint


def test_a_sparsity_that_is_no_percentage_gets_no_advice() -> None:
    assert not problem_of("0.5", "-1").note
    assert not problem_of("0.5", "500").note


def test_the_closest_word_is_found_in_any_case() -> None:
    assert closest("GPTQ", ["awq", "gptq"]) == "gptq"
    assert closest("Awq", ["AWQ", "awq"]) == "AWQ"
    assert closest("zzz", ["awq"]) == ""


FILES = 'files = "a.txt"'
OWN = SPEC.replace('source = "pocket"', 'source = "mine"').replace(
    'languages = ["en"]', 'languages = ["ar", "de"]'
)


def own(files: str, calibration: str = 'languages = ["ar"]') -> list[Problem]:
    text = OWN.replace(FILES, f"files = {files}").replace(
        'source = "mine"\n[[', f'source = "mine"\n{calibration}\n[['
    )
    try:
        parse_spec(text, Path("x.toml"))
    except SpecError as error:
        return error.problems
    return []


def test_texts_may_be_a_table_by_language() -> None:
    by_language = '{ ar = "a/*.txt", de = "b.jsonl" }'
    assert not own(f"{{ calibration = {by_language}, perplexity = {by_language} }}")
    (problem,) = own(f'{{ calibration = {by_language}, perplexity = {{ ar = "a.txt" }} }}')
    assert problem.what == "text source `mine` has no language `de`"
    assert problem.hint == "its languages are `ar`"


def test_one_text_for_two_languages_says_how_to_give_each_its_own() -> None:
    (problem,) = own('{ calibration = "a.txt", perplexity = "b.txt" }')
    assert (
        problem.hint == 'put {language} into the path in `files`, or write a table: perplexity = { ar = "…" }'
    )


def test_a_wrong_placeholder_in_a_table_is_found() -> None:
    (problem,) = own('{ calibration = "a.txt", perplexity = { ar = "a.txt", de = "{lang}.txt" } }')
    assert problem.what == "unknown placeholder `{lang}`"
