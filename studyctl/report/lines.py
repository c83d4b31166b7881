"""One line for a record of a journal: the words of ``studyctl run``, ``studyctl logs`` and ``studyctl prefetch``."""

from typing import Any

from rich.console import Console
from rich.text import Text

from studyctl.units import duration_text

Record = dict[str, Any]


def line_of(record: Record) -> str | None:
    """Return what a person wants to read of a record, or None if it is no event."""
    trial, stage = record.get("trial", ""), record.get("stage", "")
    match record["kind"]:
        case "attempt_started":
            return f"▶ {trial} on {record['device']} (attempt {record['attempt']})"
        case "stage_finished":
            return f"  {trial}  {stage}  {duration_text(record['seconds'])}"
        case "warning":
            return f"! {trial}  {stage}: {record['message']}"
        case "stage_failed":
            return f"✗ {trial}  {stage}: {record['error']}"
        case "attempt_finished" if record["state"] == "done":
            return f"✓ {trial}  {duration_text(record['seconds'])}"
        case "attempt_finished":
            return f"  {trial}  {record['state']}"
    return None


def position_of(record: Record) -> str:
    """Return ``block 17/30`` of a progress record."""
    note = f"  {record['note']}" if record.get("note") else ""
    return f"{record['unit']} {record['done']:g}/{record['total']:g}{note}"


class ConsoleReporter:
    """Tells a person at a terminal what long work outside of a run is doing."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._said = ""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Print each new note once."""
        text = note or unit
        if text != self._said:
            self._said = text
            self.console.print(Text(text), soft_wrap=True)

    def record(self, kind: str, **fields: object) -> None:
        """Nothing outside of a run makes results."""

    def warning(self, message: str, **fields: object) -> None:
        """Print it."""
        self.console.print(Text(f"warning: {message}"), soft_wrap=True)

    def check_stop(self) -> None:
        """Ctrl-C ends the process."""
