"""Monitor."""

from tui.screens.base import StudyScreen


class MonitorScreen(StudyScreen):
    """Monitor."""

    NAME = "Monitor"
    ABOUT = "…"
