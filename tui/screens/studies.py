"""Studies."""

from tui.screens.base import StudyScreen


class StudiesScreen(StudyScreen):
    """Studies."""

    NAME = "Studies"
    ABOUT = "…"
