"""Which weights an exported folder holds: written into it when it is made, asked for when a study is brought up to date."""

import json
from pathlib import Path
from typing import Any

ABOUT = "studyctl.json"
"""The model card's content for programs, in every exported folder."""


def exported_weights(folder: Path) -> str | None:
    """Return the ``weights_key`` of a folder that was exported; None: there is no such folder, or not from here.

    A folder is complete if it is there at all, so nothing else of it is looked at.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_bytes())
        return str(about["weights_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
