"""The bar at the top: the study, the screen, and the progress."""

from datetime import UTC, datetime

from rich.text import Text
from textual.reactive import reactive
from textual.widgets import Static

from studyctl.units import bytes_text, duration_text
from studyctl_tui.shared.view import View

GLYPHS = {"pending": "·", "running": "▶", "done": "✓", "failed": "✗", "stopped": "◌"}
"""Symbols of the states of trials and steps: no state is shown by colour alone."""


class TopBar(Static):
    """``studyctl › mine › Monitor`` on the left, progress and time left on the right."""

    study: reactive[str] = reactive("")
    standing: reactive[Text] = reactive(Text())

    def __init__(self, name: str) -> None:
        super().__init__(classes="topbar")
        self._name = name

    def show_view(self, view: View) -> None:
        """Draw what is new."""
        self.study, self.standing = view.paths.name, standing(view)

    def render(self) -> Text:
        """Put both sides on one line; the left side is cut first."""
        room = self.size.width - self.standing.cell_len - 1
        left = Text(" › ".join(filter(None, ("studyctl", self.study, self._name))), style="bold")
        left.truncate(max(0, room), overflow="ellipsis", pad=True)
        return Text.assemble(left, " ", self.standing)


def standing(view: View) -> Text:
    """Return ``3/5 ✓  1 ✗  12 min left`` of a study."""
    snapshot = view.snapshot
    parts = [f"{snapshot.count('done')}/{len(snapshot.trials)} {GLYPHS['done']}"]
    if failed := snapshot.count("failed"):
        parts.append(f"{failed} {GLYPHS['failed']}")
    runner = snapshot.runner
    if runner is not None and snapshot.running:
        if runner.timing:
            parts.append(runner.timing)
        if runner.seconds_left:
            parts.append(f"{duration_text(runner.seconds_left)} left")
        if runner.memory_bytes is not None and runner.load is not None:
            parts.append(f"{bytes_text(runner.memory_bytes)} · load {runner.load:.1f}")
    elif runner is not None:
        ago = (datetime.now(UTC) - runner.heartbeat).total_seconds()
        parts.append(f"runner died, last sign {duration_text(max(0.0, ago))} ago")
    if view.trouble is not None:
        parts.append("! trouble")
    return Text("  ".join(parts))
