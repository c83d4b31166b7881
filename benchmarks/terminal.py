"""A program in a terminal that counts what it writes: the other end of a pseudo-terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType


class Terminal:
    """Runs a command in a terminal of its own."""

    def __init__(
        self, command: Sequence[str], folder: Path, columns: int, rows: int, environment: Mapping[str, str]
    ) -> None:
        self.bytes = 0
        """Written so far."""
        self.begun = time.perf_counter()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | dict(environment),
            start_new_session=True,
        )
        os.close(slave)
        self._seen = b""

    def read(self, seconds: float) -> bytes:
        """Return what is written within so many seconds."""
        until, parts = time.perf_counter() + seconds, []
        while (left := until - time.perf_counter()) > 0:
            if select.select([self._master], [], [], left)[0]:
                try:
                    parts.append(os.read(self._master, 1 << 16))
                except OSError:  # the program has ended
                    break
        data = b"".join(parts)
        self.bytes += len(data)
        return data

    def seconds_until(self, text: bytes, limit: float = 60.0) -> float:
        """Return the seconds from the start of the program until it has written a text.

        Raises:
            TimeoutError: it never did.
        """
        while time.perf_counter() - self.begun < limit:
            self._seen += self.read(0.02)
            if text in self._seen:
                return time.perf_counter() - self.begun
        raise TimeoutError(f"{text!r} was not written within {limit} s")

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self.read(0.5)
        self._process.wait(timeout=10)
        os.close(self._master)
