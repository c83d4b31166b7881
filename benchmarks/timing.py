"""Measuring things in turns, so that what else the machine does falls on all of them alike."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of every round of one case."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the middle, in seconds."""
        return median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the quartiles, in seconds; the extremes of fewer than four rounds."""
        if len(self.rounds) < 4:
            return min(self.rounds), max(self.rounds)
        low, _, high = quantiles(self.rounds, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        return f"{self.median:.3f} s ({self.spread[0]:.3f}–{self.spread[1]:.3f})"


def in_turns(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Call every case ``rounds`` times: A B, then B A, so that neither always comes first.

    Args:
        cases: functions that return the seconds they took, by name.
        rounds: calls of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds):
        for name in reversed(list(cases)) if turn % 2 else cases:
            seconds[name].append(cases[name]())
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def command_seconds(command: Sequence[str], folder: Path, **environment: str) -> float:
    """Return the seconds of a command in ``folder``; what it prints is shown if it fails."""
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds
