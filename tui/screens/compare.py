"""Compare."""

from tui.screens.base import StudyScreen


class CompareScreen(StudyScreen):
    """Compare."""

    NAME = "Compare"
    ABOUT = "…"
