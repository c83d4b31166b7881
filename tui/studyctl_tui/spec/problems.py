"""The problems of a spec, one below the other."""

from collections.abc import Sequence
from pathlib import Path

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from studyctl.errors import Problem

MARKS = {"error": ("✗", "bold $text-error"), "warning": ("!", "bold $text-warning")}
"""Glyph and style by severity; the theme's colours, which stay light or dark enough without colour."""


class ProblemList(OptionList):
    """A list to go through; enter goes to the place of a problem."""

    DEFAULT_CSS = """
    ProblemList {
        height: 1fr; background: $background; scrollbar-size-vertical: 1;
        &.-textual-compact { padding: 0 1; }
        &:focus { background-tint: transparent; }
    }
    """

    def __init__(self) -> None:
        super().__init__(compact=True, id="problems", markup=False)
        self._problems: Sequence[Problem] = ()

    def show(self, problems: Sequence[Problem], path: Path, nothing: str) -> None:
        """List problems.

        Args:
            problems: in order.
            path: the file that is edited; the others are named.
            nothing: what is said where there are none.
        """
        self._problems = problems
        before = self.highlighted
        self.clear_options()
        if problems:
            self.add_options([Option(drawn(problem, path)) for problem in problems])
            self.highlighted = min(before or 0, len(problems) - 1)
        else:
            self.add_option(Option(Content(nothing), disabled=True))

    def highlight(self, problem: Problem) -> None:
        """Mark the problem that the cursor was moved to."""
        if problem in self._problems:
            self.highlighted = self._problems.index(problem)


def drawn(problem: Problem, path: Path) -> Content:
    """Return a problem as it is listed: glyph, place, what is wrong, and what to do."""
    file = problem.file.name if problem.file is not None and problem.file != path else None
    place = ":".join(str(part) for part in (file, problem.line, problem.column) if part is not None)
    note = f" · {problem.note}" if problem.note else ""
    hint = f"\n  hint: {problem.hint}" if problem.hint else ""
    return Content.assemble(
        MARKS[problem.severity], " ", (place, "bold"), f" {problem.what}{note}", (hint, "italic")
    )


def counted(problems: Sequence[Problem]) -> str:
    """Return ``✗ 2  ! 1``, or an empty string for no problems."""
    parts = []
    for severity, (glyph, _) in MARKS.items():
        if number := sum(problem.severity == severity for problem in problems):
            parts.append(f"{glyph} {number}")
    return "  ".join(parts)
