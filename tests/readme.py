"""Puts the results of the embedded study into the README: ``python -m tests.readme runs/pocket``, after ``make quickstart``."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from studyctl import __version__
from studyctl.files import StudyPaths, digest
from studyctl.report.show import show
from studyctl.store import results

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SECTIONS = ("Leaderboard", "Findings", "In short")
PLACE = re.compile(r"<!-- transcript.*?-->\n.*?<!-- end -->\n", re.DOTALL)


def origin() -> str:
    """Return what the transcript belongs to: the version, and the content of the spec."""
    return f"studyctl {__version__}, specs/pocket.toml {digest((ROOT / 'specs' / 'pocket.toml').read_text())}"


def transcript(paths: StudyPaths) -> str:
    """Return the sections of ``studyctl show`` that a newcomer reads first, as Markdown."""
    console = Console(file=io.StringIO(), width=110)
    with results.open(paths) as opened:
        show(opened, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    parts = [part for part in text.split("\n\n") if part.startswith(SECTIONS)]
    lines = "\n\n".join(parts).rstrip().splitlines()
    shown = "\n".join(["$ studyctl show pocket", *map(str.rstrip, lines)])
    return (
        f"<!-- transcript: python -m tests.readme; {origin()} -->\n```console\n{shown}\n```\n<!-- end -->\n"
    )


def main(run: Path) -> None:
    text = transcript(StudyPaths(run))
    README.write_text(PLACE.sub(lambda _: text, README.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
