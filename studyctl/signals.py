"""Signals that ask this process to stop; how another one ended, in words."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at each Ctrl-C and SIGTERM, in the place of ending the process."""
    signals = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, lambda *_: stop()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_it_ended(process: str, returncode: int, words: Sequence[str] = ()) -> str:
    """Return what to report of a process that ended without saying how: its signal, its last words, or its exit code.

    Args:
        process: what to call it.
        returncode: of the process.
        words: the lines that it printed last (:func:`last_lines`); none where they are shown elsewhere.
    """
    if returncode < 0:
        return f"{process} was killed by {signal_name(returncode)}"
    return words[-1] if words else f"{process} ended with exit code {returncode}"


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """Return the last lines of a log that say something, the last one last.

    Args:
        log: a text file.
        begin: byte from which on it is read.
    """
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(begin)
        return [line[:300] for one in deque(lines, 40) if (line := one.strip())]


def signal_name(returncode: int) -> str:
    """Return the name of the signal that ended a process, such as ``SIGKILL``, from its negative return code."""
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {-returncode}"
