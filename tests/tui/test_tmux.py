"""The app as its user has it: in tmux at 80×24, with a line that breaks and comes back."""

import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.tui import studies

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
PATIENCE_SECONDS = 60.0
"""Until something is on the screen; it is there in one or two, where nothing else runs."""


def _drain(terminal: int) -> None:
    with suppress(OSError):  # the terminal is closed
        while os.read(terminal, 1 << 16):
            pass


class Tmux:
    """A server of its own, so that it meets no session of the user's."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux.sock")

    def __call__(self, *arguments: str) -> str:
        command = ["tmux", "-S", self._socket, "-f", os.devnull, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def client(self) -> Iterator[None]:
        """Attach a terminal."""
        master, slave = pty.openpty()
        command = ["tmux", "-S", self._socket, "attach"]
        environment = os.environ | {"TERM": "xterm-256color"}
        attached = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        drain = threading.Thread(target=_drain, args=(master,), daemon=True)
        drain.start()
        try:
            self.wait(lambda: bool(self("list-clients").strip()), "the client")
            yield
        finally:
            attached.terminate()
            attached.wait(timeout=PATIENCE_SECONDS)
            os.close(master)

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"{what} never came:\n{self.screen()}"
            time.sleep(0.1)

    def keys(self, *keys: str) -> None:
        self("send-keys", *keys)

    def type(self, text: str) -> None:
        self("send-keys", "-l", text)

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def until(self, holds: Callable[[str], bool], what: str) -> None:
        self.wait(lambda: holds(self.screen()), what)

    def until_shown(self, text: str) -> None:
        self.until(lambda seen: text in seen, text)

    def until_gone(self, text: str) -> None:
        self.until(lambda seen: text not in seen, f"the end of {text}")


@pytest.fixture
def tmux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmux]:
    monkeypatch.delenv("TMUX", raising=False)
    server = Tmux(tmp_path)
    yield server
    subprocess.run(
        ["tmux", "-S", str(tmp_path / "tmux.sock"), "kill-server"], check=False, capture_output=True
    )


def test_a_session_with_the_app(runs: Path, tmux: Tmux) -> None:
    study = studies.recorded(runs / "pocket")
    command = str(Path(sys.executable).with_name("studyctl"))
    tmux(
        "new-session",
        "-d",
        "-x",
        "80",
        "-y",
        "24",
        "-c",
        str(runs.parent),
        f"{command} watch pocket; echo the app has ended; cat",
    )

    # Open, move, filter.
    tmux.until_shown("gptq-4bit-g64")
    tmux.keys("Down", "Down")
    tmux.until_shown("wanda-0.5")
    tmux.keys("/")
    tmux.type("gptq")
    tmux.until_gone("sparsegpt-0.5")
    tmux.keys("Escape")
    tmux.until_shown("sparsegpt-0.5")

    # Edit the spec: a problem shows at its place; mended, saved.
    tmux.keys("4")
    tmux.until_shown("[study]")
    tmux.keys("C-End")
    tmux.keys("Enter")
    tmux.type("[evaluation.nothing]")
    tmux.until_shown("unknown key")
    for _ in range(len("[evaluation.nothing]") + 1):
        tmux.keys("BSpace")
    tmux.type("# seen in tmux")
    tmux.until(lambda seen: "unknown key" not in seen, "a spec without problems")
    tmux.keys("C-s")
    tmux.wait(lambda: study.spec.read_text().rstrip().endswith("# seen in tmux"), "the saved spec")

    # Ask.
    tmux.keys("M-5")
    tmux.until_shown("SQL")
    tmux.keys("F5")
    tmux.until_shown("5 rows")

    # The line breaks and comes back: the app is where it was, and leaves when told to.
    with tmux.client():
        tmux("detach-client")
    assert tmux("list-clients").strip() == ""
    with tmux.client():
        tmux.until_shown("5 rows")
        tmux.keys("C-q")
        tmux.until_shown("the app has ended")
