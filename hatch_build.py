"""What hatchling runs when it builds a package: the README as the package's description."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_IMAGE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


class Description(MetadataHookInterface):
    """Takes pictures and links to files of the repository out of the README, as they lead nowhere outside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description; the texts of links stay."""
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = _LINK.sub(r"\1", _IMAGE.sub("", readme))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
