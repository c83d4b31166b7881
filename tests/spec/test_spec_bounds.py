"""Specs that ask for too much are refused before anything is expanded, with their count and at its place."""

import os
from pathlib import Path

import pytest

from studyctl.errors import Problem, SpecError
from studyctl.spec.loading import load_spec, parse_spec

from .specs import MINIMAL


def problems(text: str, path: Path = Path("mine.toml")) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, path)
    return caught.value.problems


def numbers(first: int, count: int) -> str:
    return str(list(range(first, first + count)))


def test_a_sweep_of_a_hundred_million_is_refused_with_its_factors() -> None:
    lists = f"block_size = {numbers(1, 200)}\ndamping = {[i / 1000 for i in range(1, 501)]}\n"
    sizes = f"group_size = {numbers(0, 500)}\nbits = [4, 8]\n"
    (problem,) = problems(f'{MINIMAL}\n[[compression]]\nmethod = "gptq"\n{lists}{sizes}')
    assert "100,000,000 variants" in problem.what
    assert "2 bits × 500 group_size × 200 block_size × 500 damping" in problem.what
    assert problem.line == 7


def test_more_combinations_than_a_machine_can_count_to_are_multiplied() -> None:
    decimals = str([i / 3000 for i in range(1, 3001)])
    options = {
        "group_size": numbers(0, 3000),
        "block_size": numbers(1, 3000),
        "ratios": numbers(1, 1000),
        "damping": decimals,
        "sparsity": str([i / 3001 for i in range(3000)]),
        "bits": "[2, 3, 4, 5, 6, 7, 8]",
        "calibration": "[" + ", ".join(f"{{ samples = {i} }}" for i in range(1, 2001)) + "]",
    }
    lists = "\n".join(f"{name} = {values}" for name, values in options.items())
    (problem,) = problems(f'{MINIMAL}\n[[compression]]\nmethod = ["sparsegpt", "gptq"]\n{lists}')
    assert f"{3000**4 * 1000 * 7 * 2000:,} variants" in problem.what


def test_tables_models_and_seeds_are_counted_together() -> None:
    models = "".join(f'[[models]]\nid = "a/m{i}"\n' for i in range(100))
    study = f'[study]\nname = "mine"\nseeds = {numbers(0, 200)}\n{models}[calibration]\nsource = "pocket"\n'
    fits = '[[compression]]\nmethod = "wanda"\nsparsity = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]\n'
    magnitude = '[[compression]]\nmethod = "magnitude"\nsparsity = 0.5\nmodels = ["*m1"]\n'
    assert len(parse_spec(study + fits + magnitude, Path("mine.toml")).spec.models) == 100
    rest = '[[compression]]\nmethod = "wanda"\npattern = "2:4"\n'
    # dense, once per model · nine and one variants, 200 seeds · one variant without a seed, of m1, m11, m21 ... m91
    (problem,) = problems(study + fits + magnitude.replace("*m1", "*1") + rest)
    assert f"{100 + 100 * 9 * 200 + 10 + 100 * 200:,} trials, 180,000 of them here" in problem.what
    assert study.count("\n") + 1 == problem.line


@pytest.mark.parametrize(
    ("key", "value"),
    [("windows", 10**30), ("windows", 10**7), ("sequence_length", 2**63), ("sequence_length", 10**12)],
)
def test_absurd_numbers_are_refused_at_their_place(key: str, value: int) -> None:
    (problem,) = problems(f'{MINIMAL}[evaluation.perplexity]\nsource = "pocket"\n{key} = {value}\n')
    assert (problem.line, problem.column) == (8, len(key) + 4)
    assert "at most 1000000" in problem.what


@pytest.mark.parametrize("digits", ["7" * 5000, "0x" + "f" * 5000])
def test_a_number_of_thousands_of_digits(digits: str) -> None:
    (problem,) = problems(MINIMAL.replace("[[models]]", f"seeds = [1, {digits}]\n[[models]]"))
    assert problem.line == 4
    assert len(problem.what) < 100


@pytest.mark.parametrize("value", ["[" * 100 + "]" * 100, "{ a = " * 100 + "1" + " }" * 100])
def test_nested_values_are_refused_at_their_place(value: str) -> None:
    (problem,) = problems(f"{MINIMAL}[text]\nmine = {value}\n")
    assert (problem.what, problem.line) == ("lists or tables are nested too deeply", 6)


def test_of_thousands_of_wrong_values_the_first_hundred_are_shown() -> None:
    text = f'{MINIMAL}[[compression]]\nmethod = "rtn"\nbits = {[9] * 5000}\n'
    assert len(problems(text)) == 100


def test_columns_count_characters_however_long_the_line() -> None:
    languages = ", ".join(f'"é{i}"' for i in range(300))
    problem = problems(f'{MINIMAL}[calibration]\nsource = "pocket"\nlanguages = ["en", {languages}]\n')[0]
    assert (problem.line, problem.column) == (8, len('languages = ["en", ') + 1)


def test_a_file_without_an_end_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"more than 1\.0 MiB"):
        load_spec(Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SpecError, match="not a plain file"):
        load_spec(tmp_path / "pipe.toml")


class TestExtends:
    def refusal(self, folder: Path, extends: str, name: str = "mine.toml", first: str = "") -> Problem:
        text = first + MINIMAL.replace("\n\n", f'\nextends = "{extends}"\n\n', 1)
        (folder / name).write_text(text)
        with pytest.raises(SpecError) as caught:
            load_spec(folder / name)
        return caught.value.problems[0]

    def test_a_chain_has_an_end(self, tmp_path: Path) -> None:
        for number in range(30):
            text = f'[study]\nname = "x"\nextends = "{number + 1}.toml"\n'
            (tmp_path / f"{number}.toml").write_text(text)
        (tmp_path / "30.toml").write_text(MINIMAL)
        with pytest.raises(SpecError, match="more than 20 specs extend one another"):
            load_spec(tmp_path / "0.toml")
        assert load_spec(tmp_path / "20.toml").spec.study.name == "x"

    @pytest.mark.parametrize("extends", ["notes.txt", "/etc/hosts", "disguised.toml"])
    def test_only_a_spec_is_read(self, tmp_path: Path, extends: str) -> None:
        (tmp_path / "notes.txt").write_text("secret")
        (tmp_path / "disguised.toml").symlink_to("notes.txt")
        problem = self.refusal(tmp_path, extends)
        assert (problem.what, problem.line) == ("a spec extends a .toml file only", 3)

    def test_a_folder_above_may_hold_what_is_shared(self, tmp_path: Path) -> None:
        (tmp_path / "base.toml").write_text(MINIMAL)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "a.toml").write_text('[study]\nname = "a"\nextends = "../base.toml"\n')
        assert load_spec(tmp_path / "mine" / "a.toml").spec.models[0].id == "Qwen/Qwen2.5-0.5B"

    def test_a_study_that_was_received_reads_no_other_file(self, tmp_path: Path) -> None:
        (tmp_path / "base.toml").write_text(MINIMAL)
        (tmp_path / "study" / "journal").mkdir(parents=True)
        problem = self.refusal(tmp_path / "study", "../base.toml", "spec.toml")
        assert "extends no other file" in problem.what
        problem = self.refusal(tmp_path, "base.toml", first='# studyctl: relative paths start at "/"\n')
        assert "extends no other file" in problem.what

    def test_a_link_that_leads_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / "loop.toml").symlink_to("loop.toml")
        assert "cannot be read" in self.refusal(tmp_path, "loop.toml").what
