"""The question how to stop a run."""

from collections.abc import Callable

from rich.text import Text
from textual.app import App

from studyctl.contract.job import StopWhen
from studyctl_tui.shared.dialogs import Ask, Choice


def ask_how_to_stop(app: App[str], study: str, when: StopWhen, stop: Callable[[StopWhen], object]) -> None:
    """Ask how to stop the run of a study, and do it.

    Args:
        app: where to ask.
        study: its name.
        when: the choice that enter takes.
        stop: called with the choice; not if there is none.
    """
    choices = [
        Choice("x", "After the running steps", "after_step"),
        Choice("X", "At once; the running steps will be run again", "now"),
    ]
    if when == "now":
        choices.reverse()

    def answered(answer: str | None) -> None:
        if answer:
            stop("now" if answer == "now" else "after_step")

    body = Text("What was measured is kept; R goes on later.")
    app.push_screen(Ask(f"Stop {study}?", body, choices), answered)
