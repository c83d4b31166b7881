"""Errors that a user can cause, as data.

A :class:`Problem` says what is wrong, where, and what to do. Checks collect all problems and raise them
together; formatters draw them for a terminal or as JSON.

::

    StudyError            carries problems; exit code FAILED unless a subclass says otherwise
    ├── SpecError         the spec, or what it names, cannot be run as it is (exit code BAD_SPEC)
    ├── HeldError         another runner holds the study
    └── StepError         a step of a trial failed for a reason that the user can act on
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from studyctl.printable import printable


class ExitCode(IntEnum):
    """Exit codes of the commands."""

    DONE = 0
    """All requested results are stored."""
    FAILED = 1
    """Some trials failed, or could not be run."""
    BAD_SPEC = 2
    """The spec or the command line is wrong; nothing was run."""
    TO_DO = 3
    """Of ``plan --exit-code``: ``run`` would have something to do."""
    STOPPED = 130
    """Stopped on request (Ctrl-C or ``studyctl stop``); what was measured is stored."""


class ProblemCode(StrEnum):
    """Kind of a problem, for code that acts on it. No code depends on the wording of a message."""

    OTHER = "other"
    NOT_LOOKED_UP = "not_looked_up"
    """A source could not be reached; it may well be fine."""
    CHANGED = "changed"
    """The content of a source is not what it was when the study was planned."""
    REFERENCE_LOST = "reference_lost"
    """The dense model's stored hidden states are gone; the next attempt computes them again."""
    REPLACED = "replaced"
    """The database was replaced while it was read, on a network disk that then has the old one no more."""
    UNEXPECTED = "unexpected"
    """A bug: the traceback is in the log."""


class FailureCause(StrEnum):
    """Why a step is not complete."""

    ERROR = "error"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    STOPPED = "stopped"


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
    """Short text next to the underline, such as ``did you mean `sparsity`?``."""
    trial: str | None = None
    stage: str | None = None
    hint: str = ""
    """What to do."""
    severity: str = "error"
    """``error`` or ``warning``."""
    code: ProblemCode = ProblemCode.OTHER

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-serialisable form without empty fields."""
        fields = asdict(self) | {"file": str(self.file) if self.file else None}
        if self.code is ProblemCode.OTHER:
            del fields["code"]
        return {key: value for key, value in fields.items() if value not in (None, "")}


class StudyError(Exception):
    """An error that a user can cause; carries one or more problems."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(
        self,
        problems: Problem | str | Sequence[Problem],
        hint: str = "",
        cause: FailureCause = FailureCause.ERROR,
        code: ProblemCode = ProblemCode.OTHER,
        file: Path | None = None,
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, hint=hint, code=code, file=file)
        self.cause = cause
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("; ".join(problem.what for problem in self.problems))
        for problem in self.problems:
            if problem.hint:  # Python shows it below the message
                self.add_note(_note(problem))


def _note(problem: Problem) -> str:
    """Return what to do, after the place in a spec or query."""
    places = {"line": problem.line, "column": problem.column}
    place = ", ".join(f"{name} {number}" for name, number in places.items() if number is not None)
    return printable(f"{place}: {problem.hint}" if place else problem.hint)


class SpecError(StudyError):
    """The spec, or something that it names, cannot be run as it is."""

    exit_code = ExitCode.BAD_SPEC


class HeldError(StudyError):
    """Another runner holds the study."""


class StepError(StudyError):
    """A step failed for a reason that the user can act on."""


def closest(word: str, allowed: Iterable[str]) -> str:
    """Return the allowed word that is most similar to this one, in any case, or that alone begins with it; else an empty string."""
    words = list(allowed)
    if word in words:
        return word
    by_lower = {one.lower(): one for one in reversed(words)}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if not close and len(word) > 1:
        close = [one for one in by_lower if one.startswith(word.lower())]
    return by_lower[close[0]] if len(close) == 1 else ""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``did you mean `x`?`` for the closest allowed word, or an empty string."""
    close = closest(word, allowed)
    return f"did you mean `{close}`?" if close else ""
