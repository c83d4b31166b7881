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
        pytest.param("0.5", '"50%"', "write 0.5 for 50 %", id="percent in quotes"),
        pytest.param('["en"]', '["en"]\n[execution]\nkeep_trial_weights = 20', 'write "20 GiB"', id="bytes"),
        pytest.param(
            '["en"]', '["en"]\n[execution]\nkeep_trial_weights = "20"', 'write "20 GiB"', id="no unit"
        ),
        pytest.param('["en"]', '["en"]\n[evaluation.speed]\nthreads = 2', "write [2]", id="one of a list"),
        pytest.param(
            '"wanda"', '["gptq", "wanda"]', 'write ["wanda", "gptq"]', id="a pair in the wrong order"
        ),
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


@pytest.mark.parametrize("size", ['"20GB free"', '"20 GiB, or so"', "1023", '"5 bytes"', "-1"])
def test_a_size_that_nobody_means_is_refused(size: str) -> None:
    problem = problem_of('["en"]', f'["en"]\n[execution]\nkeep_trial_weights = {size}')
    assert problem.what == f'`keep_trial_weights` must be a size such as "20 GiB", not {size}'


@pytest.mark.parametrize(
    ("size", "number"), [("0", 0), ("1024", 1024), ('"1.5 GiB"', 3 << 29), ('" 20gb "', 20 * 10**9)]
)
def test_a_size_that_is_meant_is_taken(size: str, number: int) -> None:
    text = f"{SPEC}[execution]\nkeep_trial_weights = {size}\n"
    assert parse_spec(text, Path("x.toml")).spec.execution.keep_trial_weights == number


def test_a_number_that_is_one_of_two_has_no_quotes() -> None:
    task = '["en"]\n[evaluation.tasks.own.quiz]\nfile = "a.csv"\nfirst_number = "1"'
    problem = problem_of('["en"]', task)
    assert problem.what == '`first_number` cannot be "1"'
    assert problem.note == "write 1 without quotes"


@pytest.mark.parametrize(
    ("metric", "meant"),
    [("kl", "did you mean `kl_ratio`?"), ("zzz", "metrics are bits_per_byte, kl_ratio, ppl_ratio, ")],
)
def test_a_metric_that_does_not_exist(metric: str, meant: str) -> None:
    claim = f'["en"]\n[[hypotheses]]\nname = "h"\nmetric = "{metric}"\nleft = {{}}\nright = {{}}'
    assert problem_of('["en"]', claim).what.startswith(f"there is no metric `{metric}`; {meant}")


def test_a_misspelt_table_is_the_only_mistake() -> None:
    tasks = '["en"]\n[evaluation.tasks]\nlimit = 10\n[evaluation.task.own.quiz]\nfile = "a.csv"'
    problem = problem_of('["en"]', tasks)
    assert (problem.what, problem.note) == ("unknown key `task`", "did you mean `tasks`?")


def test_a_misspelt_placeholder_is_the_only_mistake() -> None:
    (problem,) = own('"{lang}.txt"', 'languages = ["ar", "de"]')
    assert (problem.what, problem.note) == ("unknown placeholder `{lang}`", "did you mean `{language}`?")


def test_a_sparsity_that_is_no_percentage_gets_no_advice() -> None:
    assert not problem_of("0.5", "-1").note
    assert not problem_of("0.5", "500").note


def test_the_closest_word_is_found_in_any_case() -> None:
    assert closest("GPTQ", ["awq", "gptq"]) == "gptq"
    assert closest("Awq", ["AWQ", "awq"]) == "AWQ"
    assert closest("zzz", ["awq"]) == ""


def test_the_beginning_of_one_word_only_is_close_to_it() -> None:
    assert closest("KL", ["kl_ratio", "ppl_ratio"]) == "kl_ratio"
    assert closest("gold", ["gold_nats_a", "gold_nats_b"]) == ""
    assert closest("k", ["kl_ratio"]) == "", "a letter is the beginning of anything"
    assert closest("", ["kl_ratio"]) == ""


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
