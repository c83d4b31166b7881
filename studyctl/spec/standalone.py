"""One text for a spec and what it extends."""

from collections.abc import MutableMapping
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Item

from studyctl import toml
from studyctl.spec.extends import Layers, move_paths
from studyctl.toml import TomlError


def merged_text(layers: Layers) -> str:
    """Return the text of a spec with everything in it that it inherits; comments and order are kept."""
    if layers.parent is None:
        return layers.text
    over, parent = tomlkit.parse(layers.text), tomlkit.parse(merged_text(layers.parent))
    if layers.parent.base != layers.base:
        move_paths(parent, layers.parent.base, layers.base)
    over["study"].pop("extends")
    _fill(over, parent)
    text = tomlkit.dumps(over)
    # tomlkit cannot fill every form of a table (dotted keys, tables in one line): then the data without the comments
    return text if _holds(text, layers.data) else tomlkit.dumps(layers.data)


def _fill(over: MutableMapping[str, Any], base: MutableMapping[str, Any]) -> None:
    """Add to ``over`` what only ``base`` has."""
    for name, value in base.items():
        if name not in over:
            # in a table of one line everything is written in one line
            over[name] = (
                value.unwrap() if isinstance(over, InlineTable) and isinstance(value, Item) else value
            )
        elif isinstance(over[name], dict) and isinstance(value, dict):
            _fill(over[name], value)


def _holds(text: str, data: dict[str, Any]) -> bool:
    try:
        return toml.read(text) == data
    except TomlError:
        return False
