"""``--set key=value``: a spec's text with values set by the command line."""

from collections.abc import MutableMapping, MutableSequence, Sequence
from typing import Any

import tomlkit

from studyctl import toml
from studyctl.errors import SpecError
from studyctl.spec.keys import value_at
from studyctl.spec.positions import Place, Setting


def changed(text: str, changes: Sequence[str]) -> str:
    """Return the text with values set; comments and order are kept.

    Args:
        text: of the spec; it is TOML.
        changes: such as ``execution.devices="cpu"``, ``models.0.dtype=float32`` (a number is the place in a list), ``study.seeds=[0, 1]``.
            A value that is no TOML is a text.

    Raises:
        SpecError: a change leads nowhere.
    """
    document = tomlkit.parse(text)
    for change in changes:
        names, (_, equals, value) = _names(change), change.partition("=")
        if not equals or not all(names):
            raise SpecError(
                f"`--set {change}` sets nothing", hint="write --set evaluation.perplexity.windows=4"
            )
        _set(document, names, _value(value.strip()), change)
    return tomlkit.dumps(document)


def mark(places: Place, data: dict[str, Any], changes: Sequence[str]) -> None:
    """Make the changes the places of what they set.

    Args:
        places: of the text before the changes.
        data: of the text after them.
        changes: those that :func:`changed` made.
    """
    for change in changes:
        place, value, setting = places, data, Setting(change)
        *above, last = _names(change)
        for name in above:
            part = _part(value, name)
            place = place.children.setdefault(part, Place(setting, setting, kind="implicit table"))
            value = value_at((part,), value)
        place.children[_part(value, last)] = Place(setting, setting)


def _part(value: Any, name: str) -> str | int:
    # A later change may have put a list in the place of a table.
    return int(name) if isinstance(value, list) and name.isdigit() else name


def _names(change: str) -> list[str]:
    return [name.strip() for name in change.partition("=")[0].split(".")]


def _value(text: str) -> Any:
    try:
        return toml.read(f"value = {text}")["value"]
    except toml.TomlError:
        return text


def _set(table: Any, names: list[str], value: Any, change: str) -> None:
    *above, last = names
    for name in above:
        if isinstance(table, MutableMapping):
            if name not in table:
                table[name] = tomlkit.table()
            table = table[name]
        else:
            table = _item(table, name, change)
    if isinstance(table, MutableMapping):
        table[last] = value
    else:
        _item(table, last, change)
        table[int(last)] = value


def _item(values: Any, name: str, change: str) -> Any:
    if not isinstance(values, MutableSequence):
        raise SpecError(f"`--set {change}`: there is no table or list above `{name}`")
    if not name.isdigit() or int(name) >= len(values):
        hint = f"its places are 0 to {len(values) - 1}; what the spec extends is not changed"
        raise SpecError(f"`--set {change}`: `{name}` is no place in a list of {len(values)}", hint=hint)
    return values[int(name)]
