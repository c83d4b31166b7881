"""SQL."""

from tui.screens.base import StudyScreen


class SqlScreen(StudyScreen):
    """SQL."""

    NAME = "SQL"
    ABOUT = "…"
