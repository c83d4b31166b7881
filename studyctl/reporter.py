"""The interface through which the engine reports progress and results."""

from typing import Any, Protocol

from studyctl.contract.records import Record


class Reporter(Protocol):
    """Receives the progress and the records of a step. Implemented by the worker's recorder, terminals and tests."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Report that ``done`` of ``total`` units (``block``, ``window``, ``item``) are finished."""

    def record(self, record: Record) -> None:
        """Report a result, such as a compressed linear."""

    def warning(self, message: str, **fields: object) -> None:
        """Report something that the reader of the results must know, such as raised damping."""

    def check_stop(self) -> None:
        """Raise if the user asked to stop now; called between blocks and batches."""


class SilentReporter:
    """Ignores everything, and never stops."""

    def progress(self, *_: Any, **__: Any) -> None:
        """Ignore it."""

    record = warning = check_stop = progress
