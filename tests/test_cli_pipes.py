"""Output that goes into a pipe or a file: it has no width, and nothing is left out."""

import io
import sys
from pathlib import Path

import pytest

from studyctl.cli.arguments import stdout
from studyctl.store.publish import publish
from tests.store.builder import FakeStudy
from tests.test_cli import studyctl

STUDY = "a-study-whose-name-alone-takes-more-than-half-of-the-columns-that-a-terminal-has"
LANGUAGES = tuple(f"l{number:02}" for number in range(30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipes")
    study = FakeStudy(
        folder / "runs" / STUDY,
        languages=LANGUAGES,
        models=("org/alpha",),
        variants=("dense", "rtn-4bit-g64"),
    )
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    study.attempt("alpha.rtn-4bit-g64").run_all()
    study.paths.logs.mkdir(exist_ok=True)
    log = study.paths.attempt_log("alpha.rtn-4bit-g64", 1)
    log.write_text("word " * 200 + "end of the line\n")
    publish(study.paths)
    return folder


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("STUDYCTL_RUNS", str(folder / "runs"))


def piped(folder: Path, *arguments: str) -> list[str]:
    output = studyctl(*arguments, cwd=folder)
    assert (output.returncode, output.stderr) == (0, "")
    return output.stdout.splitlines()


def test_sql_prints_every_column(folder: Path) -> None:
    header, _, rtn = piped(folder, "sql", STUDY, "from leaderboard order by trial_id")
    csv = piped(folder, "sql", STUDY, "from leaderboard order by trial_id", "--format", "csv")
    names, _, values = (line.split(",") for line in csv)
    assert header.split() == names
    assert len(names) > 25
    assert len(rtn.split()) == len(names), "a NULL is written out"
    assert {value for value in values if value.isalpha()} <= set(rtn.split())


def test_sql_prints_every_row(folder: Path) -> None:
    lines = piped(folder, "sql", STUDY, "select range as n, repeat('x', 300) as text from range(2500)")
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(2500))
    assert {line.split()[1] for line in lines[1:]} == {"x" * 300}


def test_show_prints_all_languages_in_one_table(folder: Path) -> None:
    lines = piped(folder, "show", STUDY)
    start = next(index for index, line in enumerate(lines) if line.startswith("Perplexity"))
    assert lines[start + 1].split() == ["variant", *LANGUAGES]
    dense, compressed = lines[start + 2 : start + 4]
    assert len(dense.split()) == 1 + len(LANGUAGES)
    assert compressed.count("×") == len(LANGUAGES)


def test_list_prints_whole_names(folder: Path) -> None:
    _, row = piped(folder, "list")
    assert row.split()[:4] == [STUDY, "✓", "done", "2/2"]


def test_logs_print_whole_lines(folder: Path) -> None:
    (line,) = (line for line in piped(folder, "logs", STUDY) if "word word" in line)
    assert line.split() == ["word"] * 200 + ["end", "of", "the", "line"]


def test_columns_is_the_width_where_it_is_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``watch studyctl show STUDY`` sets it."""
    monkeypatch.setenv("COLUMNS", "70")
    lines = piped(folder, "show", STUDY)
    assert max(map(len, lines)) <= 70
    assert set(LANGUAGES) <= set(" ".join(lines).split())
    assert len(piped(folder, "sql", STUDY, "from leaderboard")[0]) > 70


@pytest.mark.parametrize("columns", ["0", "wide", ""])
def test_columns_that_are_no_width_are_none(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert stdout().width > 100_000
