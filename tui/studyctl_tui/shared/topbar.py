"""The bar at the top: where one is, and how the study stands."""

from datetime import UTC, datetime

from rich.text import Text
from textual.widgets import Static

from studyctl.units import bytes_text, duration_text
from studyctl_tui.shared.view import View

GLYPHS = {"pending": "·", "running": "▶", "done": "✓", "failed": "✗", "stopped": "◌"}
"""Of the states of trials and stages: nothing is told by colour alone."""


class TopBar(Static):
    """``studyctl › mine › Monitor`` on the left, progress and time left on the right."""

    def __init__(self, name: str) -> None:
        super().__init__(classes="topbar")
        self._name = name
        self._right = Text()
        self._study = ""

    def show_view(self, view: View) -> None:
        """Draw what is new."""
        study, right = view.paths.name, standing(view)
        if (study, right) != (self._study, self._right):
            self._study, self._right = study, right
            self.refresh()

    def render(self) -> Text:
        """Put both sides on one line; the right side gives way last."""
        where = " › ".join(part for part in ("studyctl", self._study, self._name) if part)
        room = self.size.width - self._right.cell_len - 1
        left = Text(where, style="bold")
        left.truncate(max(0, room), overflow="ellipsis", pad=True)
        return Text.assemble(left, " ", self._right)


def standing(view: View) -> Text:
    """Return ``3/5 ✓  1 ✗  12 min left`` of a study."""
    snapshot = view.snapshot
    parts = [f"{snapshot.count('done')}/{len(snapshot.trials)} {GLYPHS['done']}"]
    if failed := snapshot.count("failed"):
        parts.append(f"{failed} {GLYPHS['failed']}")
    runner = snapshot.runner
    if runner is not None and snapshot.running:
        if runner.seconds_left is not None:
            parts.append(f"{duration_text(runner.seconds_left)} left")
        if runner.memory_bytes is not None and runner.load is not None:
            parts.append(f"{bytes_text(runner.memory_bytes)} · load {runner.load:.1f}")
    elif runner is not None:
        ago = (datetime.now(UTC) - runner.heartbeat).total_seconds()
        parts.append(f"runner died, last sign {duration_text(max(0.0, ago))} ago")
    if view.trouble is not None:
        parts.append("! trouble")
    return Text("  ".join(parts))
