"""Problems with what `--set` changed: they name it, and the file keeps the places of its own."""

from pathlib import Path

import pytest

from studyctl.errors import Problem, SpecError
from studyctl.spec.loading import load_spec

SPEC = """\
[study]
name = "x"
[[models]]
id = "a/b"
[evaluation.perplexity]
source = "pocket"
languages = ["en"]
[evaluation.fidelity]
[execution]
devices = "cpu"
"""


def problems(folder: Path, *changes: str, text: str = SPEC) -> list[Problem]:
    (folder / "x.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(folder / "x.toml", changes)
    return caught.value.problems


@pytest.mark.parametrize(
    ("change", "what", "note"),
    [
        ("models.0.dtype=float64", '`dtype` cannot be "float64"', "did you mean `float16`?"),
        ("evaluation.perplexty.windows=4", "unknown key `perplexty`", "did you mean `perplexity`?"),
        ("evaluation.perplexity.window=4", "unknown key `window`", "did you mean `windows`?"),
        ("execution.devices=gpu", "`gpu` is not a device", ""),
        ('evaluation.perplexity.languages=["en", "swahili"]', "has no language `swahili`", "write `sw`"),
    ],
)
def test_a_problem_of_the_command_line_has_no_place_in_the_file(
    tmp_path: Path, change: str, what: str, note: str
) -> None:
    (problem,) = problems(tmp_path, change)
    assert problem.what.startswith(f"`--set {change}`: ")
    assert what in problem.what
    assert problem.note == note
    assert not problem.as_dict().keys() & {"file", "line", "column"}


def test_problems_of_the_file_keep_their_places(tmp_path: Path) -> None:
    text = SPEC.replace('"cpu"', '"gpu"')
    of_file, of_change = problems(tmp_path, "models.0.dtype=float64", text=text)
    assert (of_file.line, of_file.column) == (10, 11)
    assert of_change.what.startswith("`--set models.0.dtype=float64`: ")


def test_a_table_that_the_command_line_began_lacks_its_keys_there(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "evaluation.tasks.own.quiz.answer=right")
    assert problem.what.startswith("`--set evaluation.tasks.own.quiz.answer=right`: ")
    assert "needs `file`" in problem.what


def test_what_is_wrong_with_an_inherited_table_stays_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(SPEC.replace('languages = ["en"]', 'langages = ["en"]'))
    text = '[study]\nname = "y"\nextends = "base.toml"\n'
    (problem,) = problems(tmp_path, "evaluation.perplexity.windows=4", text=text)
    assert problem.file is not None
    assert (problem.file.name, problem.line) == ("base.toml", 7)


def test_a_base_that_the_command_line_names_is_missing_there(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "study.extends=bse.toml")
    assert problem.what.startswith("`--set study.extends=bse.toml`: there is no spec")


@pytest.mark.parametrize("last", ["execution=[1]", "execution=1"])
def test_of_two_changes_of_one_place_the_last_has_the_problem(tmp_path: Path, last: str) -> None:
    (problem,) = problems(tmp_path, "execution.retries=many", last)
    assert problem.what.startswith(f"`--set {last}`: ")


def test_an_item_of_a_list_that_was_set_is_named_by_its_own_change(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "study.seeds=[0, 1]", "study.seeds.1=-1")
    assert problem.what.startswith("`--set study.seeds.1=-1`: ")
