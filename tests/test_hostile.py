"""Whatever a received study holds, no command prints what a terminal would act on, and none reads markup in it."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from studyctl import cli
from studyctl.printable import escaped_json, on_one_line, printable, printed_line
from tests.hostile import BAD, UNSEEN, WORDS, hostile_study


class Output(NamedTuple):
    out: str
    err: str


Call = Callable[..., Output]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDYCTL_RUNS", "runs")
    monkeypatch.setenv("COLUMNS", "300")
    return hostile_study(tmp_path / "runs" / "bad").root


@pytest.fixture
def studyctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> Output:
        monkeypatch.setattr(sys, "argv", ["studyctl", *arguments])
        monkeypatch.setattr(cli, "prepare_streams", lambda: None)  # those of pytest are read back
        with pytest.raises(SystemExit):
            cli.main()
        return Output(*capsys.readouterr())

    return call


COMMANDS = [
    ["show", "bad"],
    ["list"],
    ["watch", "--plain"],
    ["watch", "bad", "--plain"],
    ["logs", "bad"],
    ["logs", "bad", "alpha.wanda-0.5"],
    ["sql", "bad", "from warnings"],
    ["sql", "bad", "from leaderboard"],
    ["sql", "bad", 'select message as "a\x1b[31m" from warnings'],
    ["sql", "bad", "select \x1b[31m"],
    ["sql", "bad", "from about", "--format", "json"],
    ["show", "bad", "--json"],
    ["list", "--json"],
    ["plan", "runs/bad/spec.toml"],
    ["plan", "runs/bad/spec.toml", "--json"],
    ["validate", "runs/bad/spec.toml"],
    ["export", "bad", "alpha.wanda-0.5", "out"],
    ["retry", "bad"],
    ["show", "nothing\x1b[31m"],
    [],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_what_a_terminal_acts_on(study: Path, studyctl: Call, command: list[str]) -> None:
    output = studyctl(*command)
    assert output.out or output.err
    assert not set(output.out + output.err) & set(UNSEEN)


@pytest.mark.parametrize(
    "command", [["show", "bad"], ["logs", "bad"], ["sql", "bad", "from warnings"]], ids=" ".join
)
def test_markup_is_text(study: Path, studyctl: Call, command: list[str]) -> None:
    assert WORDS in studyctl(*command).out


def test_colours_of_a_log_vanish_whole(study: Path, studyctl: Call) -> None:
    lines = studyctl("logs", "bad").out.splitlines()
    assert "         green" in lines


def test_json_says_the_same_with_escapes(study: Path, studyctl: Call) -> None:
    assert json.loads(studyctl("show", "bad", "--json").out)["about"]["title"] == BAD


def test_csv_is_raw_in_a_file_and_clean_on_a_terminal(
    study: Path, studyctl: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sql", "bad", "select title from about", "--format", "csv")
    assert list(csv.reader(io.StringIO(studyctl(*command).out, newline="")))[1] == [BAD]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = studyctl(*command).out
    assert WORDS in shown
    assert not set(shown) & set(UNSEEN)


def test_a_name_with_a_line_break_is_one_line_of_the_list(study: Path, studyctl: Call) -> None:
    study.rename(study.with_name("bad\n✓ mine  done"))
    (line,) = (line for line in studyctl("list").out.splitlines() if "mine" in line)
    assert line.startswith("bad⏎✓ mine  done")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("ü 漢字 العربية \u0301 \xa0\u3000", "ü 漢字 العربية \u0301 \xa0\u3000"),
        ("a\tb\nc", "a\tb\nc"),
        ("\ud800x", "�x"),
        ("a\x1b[31mb", "a[31mb"),
        (UNSEEN, ""),
    ],
)
def test_printable_text(text: str, clean: str) -> None:
    assert printable(text) == clean


def test_text_on_one_line_shows_what_was_there() -> None:
    assert on_one_line("a\r\nb\tc\x1bd\u202e") == "a⏎b c�d�"


def test_a_printed_line_is_as_a_terminal_shows_it_in_the_end() -> None:
    assert printed_line("10%\r50%\r\x1b[1;32m100%\x1b[0m\x1b]8;;http://x\x1b\\ done\r") == "100% done"


def test_escaped_json_is_the_same_json() -> None:
    text = json.dumps({BAD: "\U000e0041\ud800ü"}, ensure_ascii=False)
    assert json.loads(escaped_json(text)) == json.loads(text)
    assert escaped_json('"\U000e0041"') == '"\\udb40\\udc41"'
