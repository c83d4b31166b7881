"""A tmux server for tests: a terminal of 80×24 in which a shell or the app runs, as its user has it."""

import os
import pty
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
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

    def everything(self) -> str:
        """Return the screen and what was scrolled out of it, long lines whole."""
        return self("capture-pane", "-p", "-J", "-S", "-")

    def until(self, holds: Callable[[str], bool], what: str) -> None:
        self.wait(lambda: holds(self.screen()), what)

    def until_shown(self, text: str) -> None:
        self.until(lambda seen: text in seen, text)

    def until_gone(self, text: str) -> None:
        self.until(lambda seen: text not in seen, f"the end of {text}")

    @classmethod
    @contextmanager
    def server(cls, folder: Path) -> Iterator["Tmux"]:
        """Yield a server whose socket is in a folder; end it and all that runs in it."""
        server = cls(folder)
        try:
            yield server
        finally:
            subprocess.run(["tmux", "-S", server._socket, "kill-server"], check=False, capture_output=True)
