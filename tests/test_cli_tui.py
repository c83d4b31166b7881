"""The commands that open the terminal app, and what they do where there is no terminal."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from studyctl import cli
from studyctl.cli.arguments import complete_specs
from studyctl.cli.terminal import on_a_terminal
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.run import start
from studyctl.run.selection import Selection
from studyctl.run.start import Started
from studyctl_tui.app import StudyApp
from tests.tui import studies


@dataclass
class Output:
    code: int
    out: str
    err: str


class Stream:
    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDYCTL_RUNS", "runs")
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.cli.terminal.on_a_terminal", lambda: True)
    monkeypatch.setattr("studyctl.cli.runs.on_a_terminal", lambda: True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[StudyApp]:
    """The apps that were run; each says goodbye."""
    apps: list[StudyApp] = []

    def run(app: StudyApp) -> str:
        apps.append(app)
        return "small [goes] on running"

    monkeypatch.setattr(StudyApp, "run", run)
    return apps


@pytest.fixture
def studyctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> object:
    def call(*arguments: str) -> Output:
        monkeypatch.setattr(sys, "argv", ["studyctl", *arguments])
        monkeypatch.setattr(cli, "prepare_streams", lambda: None)  # those of pytest are read back
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return Output(int(end.value.code or 0), out, err)

    return call


def first_screen(app: StudyApp) -> str:
    return app._first


def test_watch_shows_the_studies(terminal: None, runs: Path, studyctl, opened) -> None:
    output = studyctl("watch")
    assert (output.code, output.out) == (0, "")
    assert output.err == "small [goes] on running\n"
    assert (first_screen(opened[0]), opened[0].study) == ("studies", None)


def test_watch_of_a_study_shows_the_monitor(terminal: None, runs: Path, studyctl, opened) -> None:
    study = studies.finished(runs / "small")
    assert studyctl("watch", "small").code == 0
    assert (first_screen(opened[0]), opened[0].study) == ("monitor", StudyPaths(study.root.resolve()))


def test_watch_without_a_terminal_prints_lines(runs: Path, studyctl, opened) -> None:
    studies.finished(runs / "small")
    output = studyctl("watch", "small")
    assert (output.code, output.out, opened) == (0, "small: 6/6 trials done\n", [])


def test_watch_plain_prints_lines_on_a_terminal_too(terminal: None, runs: Path, studyctl, opened) -> None:
    studies.finished(runs / "small")
    assert studyctl("watch", "small", "--plain").out == "small: 6/6 trials done\n"
    assert opened == []


def test_watch_of_all_without_a_terminal_is_the_list(runs: Path, studyctl, opened) -> None:
    studies.finished(runs / "small")
    output = studyctl("watch")
    assert "✓ done" in output.out
    assert opened == []


def test_watch_of_a_study_that_is_not_there(terminal: None, runs: Path, studyctl, opened) -> None:
    output = studyctl("watch", "nothing")
    assert output.code == ExitCode.FAILED
    assert "there is no study `nothing`" in output.err
    assert opened == []


def test_an_app_that_broke_is_a_failure(
    terminal: None, runs: Path, studyctl, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudyApp, "return_code", 1)
    assert studyctl("watch").code == 1


def test_edit_opens_the_editor_on_the_file(terminal: None, runs: Path, studyctl, opened) -> None:
    Path("mine.toml").write_text("[study]\n")
    assert studyctl("edit", "mine.toml").code == 0
    assert (first_screen(opened[0]), opened[0].spec) == ("spec", Path("mine.toml"))


def test_edit_begins_a_new_spec(terminal: None, runs: Path, studyctl, opened) -> None:
    assert studyctl("edit", "new.toml").code == 0
    assert opened[0].spec == Path("new.toml")
    assert not Path("new.toml").exists()


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("specs/mine", "there is no spec specs/mine", "studyctl edit specs/mine.toml"),
        ("nothing", "there is no spec `nothing`", "specs that ship"),
        ("folder.toml", "folder.toml is a folder", "name a spec in it"),
    ],
)
def test_edit_of_what_is_no_file(
    terminal: None, runs: Path, studyctl, opened, name: str, what: str, hint: str
) -> None:
    Path("folder.toml").mkdir()
    output = studyctl("edit", name)
    assert output.code != 0
    assert what in output.err
    assert hint in output.err
    assert opened == []


def test_sql_opens_the_query_editor(terminal: None, runs: Path, studyctl, opened) -> None:
    studies.finished(runs / "small")
    assert studyctl("sql", "small", "--tui").code == 0
    assert (first_screen(opened[0]), opened[0].study and opened[0].study.name) == ("sql", "small")


def test_sql_in_the_app_takes_no_query(terminal: None, runs: Path, studyctl, opened) -> None:
    studies.finished(runs / "small")
    output = studyctl("sql", "small", "from leaderboard", "--tui")
    assert output.code == ExitCode.FAILED
    assert "takes a study and nothing else" in output.err
    assert opened == []


@pytest.mark.parametrize("more", [[], ["--detach"]])
def test_run_starts_in_the_background_and_opens_the_monitor(
    terminal: None, runs: Path, studyctl, opened, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    study = studies.running(runs / "small")
    asked: list[tuple[Path, Selection, bool]] = []

    def run_study(path: Path, selection: Selection, console: object, *, detach: bool, **_: bool) -> Started:
        asked.append((path, selection, detach))
        return Started(study.paths, None, "small runs in the background", ExitCode.DONE)

    monkeypatch.setattr(start, "run_study", run_study)
    chosen = ("--only", "awq*", "--only", "gptq*", "--model", "tiny")
    output = studyctl("run", "mine.toml", *chosen, "--tui", *more)
    assert output.code == 0
    assert asked == [(Path("mine.toml"), Selection(("awq*", "gptq*"), ("tiny",)), True)]
    assert output.err == "small runs in the background\nsmall [goes] on running\n"
    assert (first_screen(opened[0]), opened[0].study) == ("monitor", study.paths)


@pytest.mark.parametrize(
    "arguments", [["run", "pocket", "--tui"], ["edit", "mine.toml"], ["sql", "small", "--tui"]]
)
def test_without_a_terminal_the_app_is_refused_with_a_hint_and_nothing_is_started(
    runs: Path, studyctl, opened, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    studies.finished(runs / "small")
    monkeypatch.setattr(start, "run_study", lambda *_, **__: pytest.fail("it was started"))
    output = studyctl(*arguments)
    assert output.code == ExitCode.FAILED
    assert "needs a terminal" in output.err
    assert "hint:" in output.err
    assert opened == []


@pytest.mark.parametrize(
    ("terminal_of", "term", "drawn"),
    [
        ("stdin stdout stderr", "xterm-256color", True),
        ("stdin stdout stderr", "dumb", False),
        ("stdin stderr", "xterm", False),
        ("stdout stderr", "xterm", False),
        ("stdin stdout", "xterm", False),
    ],
)
def test_what_counts_as_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal_of: str, term: str, drawn: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Stream(name in terminal_of))
    assert on_a_terminal() is drawn


def test_alone_it_mentions_watch(runs: Path, studyctl) -> None:
    studies.finished(runs / "small")
    output = studyctl()
    assert "studyctl watch " in output.out
    assert "studyctl show small" in output.out


def test_a_study_that_cannot_be_read_is_listed_with_the_reason(runs: Path, studyctl) -> None:
    studies.finished(runs / "a").paths.plan.write_text("{")
    studies.finished(runs / "b")
    output = studyctl("list")
    assert output.code == 0
    assert "! unreadable" in output.out
    assert "is no JSON" in output.out
    assert "hint: " in output.out
    assert "✓ done" in output.out


def test_specs_complete_as_they_are_typed(runs: Path) -> None:
    Path("specs").mkdir()
    Path("specs/mine.toml").write_text('[study]\nname = "mine"\n')
    assert list(complete_specs("spec")) == ["specs/mine.toml"]
    assert "pocket" in list(complete_specs("poc"))
