"""How long a command takes that needs no torch, against a Python that does nothing."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.page import note, table
from benchmarks.timing import command_seconds, in_turns
from studyctl.store.publish import publish
from tests.store.builder import FakeStudy

ROUNDS = 21
GOAL_SECONDS = 0.25
IMPORTS_SHOWN = 8
PEER = "python -c pass"
POCKET = Path(__file__).parents[1] / "specs" / "pocket.toml"


def main() -> None:
    studyctl = str(Path(sys.executable).with_name("studyctl"))
    commands = {
        PEER: [sys.executable, "-c", "pass"],
        "studyctl --help": [studyctl, "--help"],
        "studyctl validate pocket.toml": [studyctl, "validate", str(POCKET)],
        "studyctl": [studyctl],
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        publish(FakeStudy(folder / "runs" / "recorded").write_all().paths)  # for `studyctl` alone to list
        timings = in_turns(
            {label: partial(command_seconds, command, folder) for label, command in commands.items()}, ROUNDS
        )
        peer = timings[PEER].median
        table(
            ("command", "median (quartiles)", "more", "ratio"),
            [
                (label, str(timing), f"{timing.median - peer:.3f} s", f"{timing.median / peer:.1f} ×")
                for label, timing in timings.items()
            ],
        )
        note(f"goal: under {GOAL_SECONDS} s more than `{PEER}`, {ROUNDS} rounds in turns")
        _print_imports("--help", [], folder)
        _print_imports("validate", [str(POCKET)], folder)


class Import(NamedTuple):
    """One line of ``-X importtime``."""

    depth: int
    name: str
    microseconds: int
    """Of its own code, without what it imports."""


def _print_imports(command: str, arguments: list[str], folder: Path) -> None:
    """Print where the imports of a command go: own time summed by package, with the module that asks for it first."""
    imports = min(
        (_imports([command, *arguments], folder) for _ in range(3)),
        key=lambda entries: sum(entry.microseconds for entry in entries),
    )
    spent: dict[str, list[int]] = defaultdict(list)
    asked: dict[str, str] = {}
    for entry, owner in _with_owners(imports):
        spent[_package(entry.name)].append(entry.microseconds)
        asked.setdefault(_package(entry.name), owner)
    dearest = sorted(spent, key=lambda package: -sum(spent[package]))[:IMPORTS_SHOWN]
    table(
        (f"imports of {command}", "ms", "modules", "first asked for by"),
        [
            (package, f"{sum(spent[package]) / 1000:.1f}", str(len(spent[package])), asked[package])
            for package in dearest
        ],
    )
    total = sum(map(sum, spent.values())) / 1000
    note(f"all: {total:.0f} ms in {len(imports)} modules (importtime itself slows them)")


def _imports(arguments: list[str], folder: Path) -> list[Import]:
    command = [sys.executable, "-X", "importtime", "-m", "studyctl", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return list(_parsed(done.stderr))


def _parsed(log: str) -> Iterator[Import]:
    for line in log.splitlines():
        columns = line.removeprefix("import time:").split("|")
        if len(columns) == 3 and columns[0].strip().isdigit():
            name = columns[2].rstrip()
            yield Import(len(name) - len(name.lstrip()), name.strip(), int(columns[0]))


def _package(module: str) -> str:
    """Return the package that a module counts for; studyctl's own are told apart."""
    if module.startswith("studyctl."):
        return module
    return module.partition(".")[0].lstrip("_") or module


def _with_owners(imports: list[Import]) -> list[tuple[Import, str]]:
    """Return each import with the nearest module of studyctl above it; the log has a module after all that it imports."""
    above: list[Import] = []
    owned: list[tuple[Import, str]] = []
    for entry in reversed(imports):
        while above and above[-1].depth >= entry.depth:
            above.pop()
        owner = next(
            (one.name for one in reversed(above) if one.name.startswith("studyctl")), "(when called)"
        )
        above.append(entry)
        owned.append((entry, owner))
    return owned[::-1]
