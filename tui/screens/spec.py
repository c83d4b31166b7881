"""Spec."""

from tui.screens.base import StudyScreen


class SpecScreen(StudyScreen):
    """Spec."""

    NAME = "Spec"
    ABOUT = "…"
