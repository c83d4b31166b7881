"""Drawing problems: what is wrong, the underlined line, and what to do. Nothing is shown by colour alone.

::

    error: unknown key `sparcity`
      --> specs/mine.toml:14:1
       |
    14 | sparcity = [0.3, 0.5]
       | ^^^^^^^^ did you mean `sparsity`?
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from studyctl.errors import Problem
from studyctl.printable import printable

TAB = "    "
STYLES = {"error": "bold red", "warning": "bold yellow"}


def draw(problems: Sequence[Problem], console: Console) -> None:
    """Print problems with their lines, and at the end how many there are and in which files."""
    for problem in problems:
        for line in _drawn(problem, console.width):
            console.print(line, soft_wrap=True, highlight=False)
        console.print()
    summary = _summary(problems)
    if summary:
        console.print(summary, soft_wrap=True, highlight=False, markup=False)


def as_json(problems: Sequence[Problem]) -> list[dict[str, object]]:
    """Return problems in JSON's types, without empty fields."""
    return [problem.as_dict() for problem in problems]


def _drawn(problem: Problem, width: int) -> Iterator[Text]:
    style = STYLES.get(problem.severity, "bold")
    yield Text.assemble((problem.severity, style), ": ", (problem.what, "bold"))
    gutter = len(str(problem.line or 0))
    place = _place(problem)
    if place:
        yield Text.assemble(" " * gutter, ("-->", "cyan"), f" {place}")
    source = _source(problem)
    bar = (f"{' ' * gutter} |", "cyan")
    if source is None:
        if problem.note:
            yield Text.assemble(" " * (gutter + 1), ("= ", "cyan"), problem.note)
    else:
        line, before, carets = _clipped(source, problem.column or 1, problem.length, width - gutter - 3)
        yield Text.assemble(bar)
        yield Text.assemble((f"{problem.line} |", "cyan"), " ", line)
        yield Text.assemble(
            bar, " " * (before + 1), ("^" * carets, style), (f" {problem.note}".rstrip(), style)
        )
    if problem.hint:
        first, *rest = problem.hint.splitlines()
        yield Text.assemble(" " * (gutter + 1), ("= ", "cyan"), ("hint", "bold"), f": {first}")
        yield from (Text(" " * (gutter + 9) + line) for line in rest)


def _place(problem: Problem) -> str:
    if problem.file is not None:
        numbers = [str(number) for number in (problem.line, problem.column) if number is not None]
        return ":".join([_shown(problem.file), *numbers])
    return " ".join(filter(None, (problem.trial, problem.stage)))


def _shown(path: Path) -> str:
    """Return a path relative to the working directory if it is inside."""
    if not path.is_absolute():
        return str(path)
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _source(problem: Problem) -> str | None:
    """Return the line of a problem; None if it has none or its file cannot be read."""
    if problem.file is None or problem.line is None:
        return None
    try:
        lines = problem.file.read_bytes().decode("utf-8-sig", errors="replace").split("\n")
    except OSError:
        return None
    return lines[problem.line - 1].removesuffix("\r") if problem.line <= len(lines) else None


def _clipped(source: str, column: int, length: int, room: int) -> tuple[str, int, int]:
    """Return the part of a line that fits, and the terminal cells before and of the underlined part."""
    before, marked, after = source[: column - 1], source[column - 1 :][:length], source[column - 1 + length :]
    before, marked, after = (printable(text.replace("\t", TAB), "�") for text in (before, marked, after))
    room = max(room, 20)
    if cell_len(before + marked + after) > room:
        kept = max(room // 3, room - cell_len(marked + after))
        if cell_len(before) > kept:
            before = "…" + set_cell_size(before[::-1], kept - 1)[::-1]
        left = room - cell_len(before)
        if cell_len(marked) > left:
            marked, after = set_cell_size(marked, left - 1) + "…", ""
        elif cell_len(marked + after) > left:
            after = set_cell_size(after, left - cell_len(marked) - 1) + "…" if left > cell_len(marked) else ""
    return before + marked + after, cell_len(before), max(1, cell_len(marked))


def _summary(problems: Sequence[Problem]) -> str:
    files = list(dict.fromkeys(_shown(problem.file) for problem in problems if problem.file is not None))
    if not files:
        return ""
    counts = Counter("warning" if problem.severity == "warning" else "problem" for problem in problems)
    parts = [f"{number} {word}{'s' if number > 1 else ''}" for word, number in counts.items()]
    return f"{', '.join(parts)} in {', '.join(files)}"
