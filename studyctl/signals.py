"""How a process ended, in words."""

import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path


def how_it_ended(process: str, returncode: int, words: Sequence[str] = ()) -> str:
    """Return what is to be told of a process that ended without saying how: its signal, its last words, or its exit code.

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
