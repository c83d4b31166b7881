"""Handling of stop signals, and a description of how another process ended."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at each Ctrl-C and SIGTERM instead of ending the process."""
    signals = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, lambda *_: stop()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_it_ended(process: str, returncode: int, printed: Sequence[str] = ()) -> str:
    """Describe how a process ended: the signal that killed it, the last line that it printed, or its exit code.

    Args:
        process: its name in the message.
        returncode: of the process.
        printed: the last lines that it printed (:func:`last_lines`); empty to show its exit code instead.
    """
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:  # a real-time signal has a number only
            name = f"signal {-returncode}"
        return f"{process} was killed by {name}"
    return printed[-1] if printed else f"{process} ended with exit code {returncode}"


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """Return the last lines of a log (at most 40, without empty ones), in order.

    Args:
        log: a text file.
        begin: byte to start reading at.
    """
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        return [line.strip()[:300] for line in deque(file, 40) if line.strip()]
