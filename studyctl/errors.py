"""Errors that a user can cause, as data.

A :class:`Problem` says what is wrong, where, and what to do. Whatever finds problems collects a list of them and
raises once; formatters draw them for a terminal or as JSON.

::

    StudyError            carries problems; exit code FAILED unless a subclass says otherwise
    ├── SpecError         the spec, or what it names, cannot be run as it is (exit code BAD_SPEC)
    ├── HeldError         another runner holds the study
    └── StageError        a stage of a trial failed for a reason that the user can act on
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the process says to the shell."""

    DONE = 0
    """Everything that was asked for is stored."""
    FAILED = 1
    """Some trials failed, or could not be run."""
    BAD_SPEC = 2
    """The spec or the command line is wrong; nothing was run."""
    STOPPED = 130
    """Stopped on request (Ctrl-C or ``studyctl stop``); what was measured is stored."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it."""

    what: str
    file: Path | None = None
    line: int | None = None
    """From 1."""
    column: int | None = None
    """From 1, in characters."""
    length: int = 1
    """Characters to underline."""
    note: str = ""
    """Short text beside the underline, such as ``did you mean `sparsity`?``."""
    trial: str | None = None
    stage: str | None = None
    hint: str = ""
    """What to do."""
    severity: str = "error"
    """``error`` or ``warning``."""

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-serialisable form without empty fields."""
        fields = asdict(self) | {"file": str(self.file) if self.file else None}
        return {key: value for key, value in fields.items() if value not in (None, "")}


class StudyError(Exception):
    """Something a user can cause; carries one or more problems."""

    exit_code: ExitCode = ExitCode.FAILED
    cause = "error"
    """``error``: it would fail again; ``killed`` or ``out_of_memory``: it may not."""

    def __init__(self, problems: Problem | str | Sequence[Problem], hint: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, hint=hint)
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("; ".join(problem.what for problem in self.problems))


class SpecError(StudyError):
    """The spec, or something that it names, cannot be run as it is."""

    exit_code = ExitCode.BAD_SPEC


class HeldError(StudyError):
    """Another runner holds the study."""


class StageError(StudyError):
    """A stage failed for a reason that the user can act on."""

    def __init__(
        self, problems: Problem | str | Sequence[Problem], hint: str = "", cause: str = "error"
    ) -> None:
        super().__init__(problems, hint)
        self.cause = cause


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean `x`?`` for the closest allowed word, or an empty string."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""
