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
    """Describe how a process ended that did not say so itself: its signal, its last words, or its exit code.

    Args:
        process: what to call it.
        returncode: of the process.
        words: the lines that it printed last (:func:`last_lines`); none where they are shown elsewhere.
    """
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:  # a real-time signal has a number only
            name = f"signal {-returncode}"
        return f"{process} was killed by {name}"
    return words[-1] if words else f"{process} ended with exit code {returncode}"


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """Return the last lines of a log that are not empty, the last one last.

    Args:
        log: a text file.
        begin: byte from which on it is read.
    """
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        return [line.strip()[:300] for line in deque(file, 40) if line.strip()]
