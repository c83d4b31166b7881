"""``--set key=value``: a spec's text with values set by the command line."""

from collections.abc import MutableMapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from studyctl import toml
from studyctl.errors import SpecError
from studyctl.spec.syntax import read_toml


def changed(text: str, path: Path, changes: Sequence[str]) -> str:
    """Return the text with values set; comments and order are kept.

    Args:
        text: of the spec.
        path: its file.
        changes: such as ``execution.devices="cpu"``, ``models.0.dtype=float32`` (a number is the place in a list), ``study.seeds=[0, 1]``.
            A value that is no TOML is a text.

    Raises:
        SpecError: the text is not TOML, or a change leads nowhere.
    """
    read_toml(text, path)
    document = tomlkit.parse(text)
    for change in changes:
        keys, equals, value = change.partition("=")
        names = [name.strip() for name in keys.split(".")]
        if not equals or not all(names):
            raise SpecError(
                f"`--set {change}` sets nothing", hint="write --set evaluation.perplexity.windows=4"
            )
        _set(document, names, _value(value.strip()), change)
    return tomlkit.dumps(document)


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
