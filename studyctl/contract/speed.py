"""What is known of the speed of files: its phases, and what a ratio proves. Formulas: :mod:`studyctl.findings.speed`."""

from enum import StrEnum

BAND = (0.95, 1.05)
"""Ratios that are no difference."""


class Phase(StrEnum):
    """A part of what a runtime does."""

    PREFILL = "prefill"
    """The tokens of a prompt, many at once."""
    DECODE = "decode"
    """One token after another."""


class SpeedVerdict(StrEnum):
    """What a ratio proves."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "="
    """The whole interval lies within the band."""
    UNDECIDED = "not told apart"
    BUSY = "the machine was too busy"
    """Dense differs from itself as much as from others."""
