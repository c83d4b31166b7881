"""A user's terminal: tmux at 80×24, and in it a shell of a virtual environment that has only the wheel and what it needs."""

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.tui.tmux import Tmux

ROOT = Path(__file__).parents[2]
PROMPT = "home>"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. Packages that it depends on are those of this one: to download them takes minutes."""
    folder = tmp_path_factory.mktemp("environment")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    place = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    (own,) = place.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


class Shell:
    """A shell in a terminal: types commands as a person does, and reads what they print."""

    def __init__(self, tmux: Tmux, folder: Path, environment: Path) -> None:
        self.tmux = tmux
        self.folder = folder
        self.times: list[tuple[str, float]] = []
        """Seconds of each step of the walk."""
        paths = os.pathsep.join((str(environment / "bin"), os.environ["PATH"]))
        variables = {
            "PATH": paths, "STUDYCTL_CACHE": str(folder / ".cache"), "XDG_DATA_HOME": str(folder / ".data"),
            "STUDYCTL_STATE": str(folder / ".state"), "OMP_NUM_THREADS": "1", "PYTHONPATH": "",
        }  # fmt: skip
        start = folder / ".bashrc"  # tmux begins a login shell, which sets PATH anew
        lines = [f"export {name}='{value}'" for name, value in variables.items()]
        start.write_text("\n".join([*lines, f"PS1='{PROMPT} '", ""]))
        size = ("-x", "80", "-y", "24", "-c", str(folder))
        tmux("new-session", "-d", *size, f"bash --noprofile --rcfile {start}")
        tmux.until_shown(PROMPT)

    def run(self, command: str, *, code: int = 0, step: str = "") -> str:
        """Type a command, wait for its end, and return what it printed."""
        began, end = time.monotonic(), f"end {len(self.times)}: exit code"
        self.tmux.type(f"clear; {command}; echo {end} $?")
        self.tmux("clear-history")
        self.tmux.keys("Enter")
        self.tmux.wait(lambda: re.search(rf"^{end} \d", self.tmux.everything(), re.M) is not None, command)
        printed = self.tmux.everything()
        self.times.append((step or command, time.monotonic() - began))
        assert re.search(rf"^{end} {code}$", printed, re.M), f"{command}\n{printed}"
        return printed

    def open(self, command: str, shown: str) -> None:
        """Type a command that opens the app, and wait until it shows a text."""
        began = time.monotonic()
        self.tmux.type(f"clear; {command}")
        self.tmux.keys("Enter")
        self.tmux.until_shown(shown)
        self.times.append((command, time.monotonic() - began))

    def leave(self) -> None:
        """Leave the app."""
        self.tmux.keys("C-q")
        self.tmux.until(lambda seen: seen.rstrip().endswith(PROMPT), "the shell")


@pytest.fixture
def shell(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell in an empty folder. ``pytest -rP`` prints how long each step took."""
    monkeypatch.delenv("TMUX", raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    with Tmux.server(tmp_path) as tmux:
        walk = Shell(tmux, folder, environment)
        yield walk
    for step, seconds in walk.times:
        print(f"{seconds:6.1f} s  {step}")  # noqa: T201
