"""The specs that ship with studyctl and can be run by name."""

from pathlib import Path

import studyctl
from studyctl.errors import SpecError, did_you_mean


def bundled_folder() -> Path:
    """Return the folder of the specs that ship: inside the installed package, or next to it in a checkout."""
    package = Path(studyctl.__file__).parent
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


def bundled_names() -> list[str]:
    """Return the names of the specs that ship."""
    return sorted(path.stem for path in bundled_folder().glob("*.toml"))


def spec_path(name: str) -> Path:
    """Return the file of a spec given on the command line: a path, or the name of a spec that ships.

    Raises:
        SpecError: it is neither.
    """
    path = Path(name)
    if path.exists() or path.suffix == ".toml" or len(path.parts) > 1:
        return path
    if name in bundled_names():
        return bundled_folder() / f"{name}.toml"
    hint = f"{did_you_mean(name, bundled_names())} specs that ship: {', '.join(bundled_names())}".lstrip()
    raise SpecError(f"there is no spec `{name}`", hint)
