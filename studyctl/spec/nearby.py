"""The specs in and below a folder, to offer for running."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from studyctl.files import runs_folder

DEEPEST = 4
"""Levels of subfolders that are searched."""
MOST = 200
"""Specs after which the search ends."""
LOOKED_AT = 1 << 16
"""The `study` table must begin within this many bytes of a file."""
_STUDY = re.compile(rb"^\s*(\[\s*study\s*\]|study\s*[.=])", re.MULTILINE)


def specs_below(folder: Path) -> list[Path]:
    """Return the specs in a folder and below it, nearest first, relative to the folder.

    Hidden folders, virtual environments and the folder of studies (whose specs are copies) are left out.
    """
    specs = (path.relative_to(folder) for path in _toml_files(folder) if _is_spec(path))
    return sorted(islice(specs, MOST), key=lambda path: (len(path.parts), path))


def _toml_files(folder: Path) -> Iterator[Path]:
    runs = runs_folder().resolve()
    for parent, folders, files in os.walk(folder):
        path = Path(parent)
        deep = len(path.relative_to(folder).parts) >= DEEPEST
        folders[:] = [] if deep else sorted(name for name in folders if _may_hold_specs(path / name, runs))
        yield from (path / name for name in sorted(files) if name.endswith(".toml"))


def _may_hold_specs(folder: Path, runs: Path) -> bool:
    return not (
        folder.name.startswith(".")
        or folder.name == "node_modules"
        or (folder / "pyvenv.cfg").exists()
        or folder.resolve() == runs
    )


def _is_spec(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _STUDY.search(file.read(LOOKED_AT)) is not None
    except OSError:
        return False
