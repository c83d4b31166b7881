"""Records of a journal as lines of text, for ``studyctl run``, ``logs``, ``watch``, ``export`` and ``prefetch``."""

from collections import defaultdict

from rich.console import Console
from rich.text import Text

from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    AttemptStarted,
    Progress,
    StepFailed,
    StepFinished,
    Warned,
)
from studyctl.contract.steps import StepId
from studyctl.reporter import SilentReporter
from studyctl.units import duration_text


class Lines:
    """Turns records into lines; the batches of a text become one line when the last of them is done."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, StepId], float] = defaultdict(float)
        """Of the batches so far, by trial and step."""

    def of(self, record: AnyRecord) -> str | None:
        """Return the line of a record; None if it has none."""
        trial = record.trial
        match record:
            case AttemptStarted():
                return f"▶ {trial} on {record.device} (attempt {record.attempt})"
            case StepFinished(step=step):
                self._seconds[trial, step.id] += record.seconds or 0.0
                if not record.is_last:
                    return None
                return f"  {trial}  {step}  {duration_text(self._seconds.pop((trial, step.id)))}"
            case Warned():
                return f"! {trial}  {record.step}: {record.message}"
            case StepFailed():
                return f"✗ {trial}  {record.step}: {record.error}"
            case AttemptFinished(state="done"):
                return f"✓ {trial}  {duration_text(record.seconds or 0.0)}"
            case AttemptFinished():
                return f"  {trial}  {record.state}"
        return None


def position_of(record: Progress) -> str:
    """Return the position of a progress record: ``block 17/30``."""
    note = f"  {record.note}" if record.note else ""
    return f"{record.unit} {record.done:g}/{record.total:g}{note}"


def progress_line(record: Progress) -> str:
    """Return the progress of a trial's running step, on one line."""
    return f"  {record.trial}  {record.step}  {position_of(record)}"


class ConsoleReporter(SilentReporter):
    """Prints the progress of long work outside of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last = ""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Print each new note once."""
        text = note or unit
        if text != self._last:
            self._last = text
            self.console.print(Text(text), soft_wrap=True)

    def warning(self, message: str, **fields: object) -> None:
        """Print a warning."""
        self.console.print(Text(f"warning: {message}"), soft_wrap=True)
