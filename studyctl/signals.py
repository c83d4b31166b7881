"""Signals by their names."""

import signal


def signal_name(returncode: int) -> str:
    """Return the name of the signal that ended a process, such as ``SIGKILL``, from its negative return code."""
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {-returncode}"
