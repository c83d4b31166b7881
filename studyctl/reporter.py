"""How the engine tells what it is doing, without knowing who listens."""

from typing import Protocol

from studyctl.contract.records import Record


class Reporter(Protocol):
    """Receives progress and findings of a step. Journals, terminals and tests implement it."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """``done`` of ``total`` units (``block``, ``window``, ``item``) are finished."""

    def record(self, record: Record) -> None:
        """A result, such as a compressed layer."""

    def warning(self, message: str, **fields: object) -> None:
        """Something that the reader of the results must know, such as raised damping."""

    def check_stop(self) -> None:
        """Raise if the user asked to stop now; called between blocks and batches."""


class SilentReporter:
    """Hears everything and tells nobody."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Ignore it."""

    def record(self, record: Record) -> None:
        """Ignore it."""

    def warning(self, message: str, **fields: object) -> None:
        """Ignore it."""

    def check_stop(self) -> None:
        """Never stops."""
