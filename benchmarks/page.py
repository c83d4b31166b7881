"""Prints what a benchmark measured, and writes it into ``docs/performance.md``, a section a benchmark."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Written by `make bench`: each section is what its command printed on the day and the machine that it names. Times are medians of
rounds in turns. They belong to that machine; the ratios to a peer in the same run are what carries over.
"""

_lines: list[str] = []
"""Markdown of the benchmark that is running."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show rows under a header; the first column to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    alignment = ["---", *(["---:"] * (len(header) - 1))]
    _lines.extend(f"| {' | '.join(cells)} |" for cells in (header, alignment, *lines[1:]))
    _lines.append("")


def note(text: str) -> None:
    """Show a sentence about the tables before it."""
    print(text)
    _lines.extend([text[0].upper() + text[1:] + ".", ""])


def begin(name: str) -> None:
    """Begin the section of a benchmark."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"== {name} (load average {load})", flush=True)
    _lines.clear()


def write_section(name: str, title: str, order: Sequence[str]) -> None:
    """Put what was shown since :func:`begin` into the page, in place of the section that was there.

    Args:
        name: of the benchmark.
        title: the first sentence of its module's docstring.
        order: of all sections.
    """
    heading = f"## `python -m benchmarks {name}`"
    about = f"{title.rstrip('.')}. ({datetime.now(UTC):%d %B %Y}; {_machine()})"
    sections = {
        part.partition("\n")[0]: part for part in re.split(r"^(?=## )", PAGE.read_text(), flags=re.M)[1:]
    }
    sections[heading] = "\n".join([heading, "", about, "", *_lines])
    headings = [f"## `python -m benchmarks {one}`" for one in order]
    PAGE.write_text(
        "\n".join([INTRODUCTION, *(sections[one].rstrip() + "\n" for one in headings if one in sections)])
    )


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    processor = names.get("model name", platform.processor() or platform.machine())
    extensions = [
        flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in names.get("flags", "")
    ]
    return (
        f"{os.cpu_count()} cores of {processor}, {' '.join(extensions) or 'no vector extensions'}; "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )
