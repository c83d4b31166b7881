"""Handling of stop signals, and a description of how another process ended."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Ctrl-C; ``timeout``, ``scancel``, systemd and the like; a terminal that was closed; what Slurm is asked to send ahead of a time limit
(``sbatch --signal``)."""


@contextmanager
def on_stop_signal(stop: Callable[[int], None]) -> Iterator[None]:
    """Call ``stop`` with the number of each signal that asks to stop, instead of ending the process.

    A SIGHUP that is ignored stays so: that is what ``nohup`` is for.
    """
    numbers = [
        number
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, lambda number, _: stop(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_stopping_to_parent() -> None:
    """Ignore the signals that ask to stop: they reach a whole process group, and the parent decides what becomes of its child."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def held_back() -> Iterator[None]:
    """Let the signals that ask to stop wait; a process that is started meanwhile keeps them waiting until it is ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
