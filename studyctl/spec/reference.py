"""``docs/spec.md``: every table and key of a spec, written from the models.

``python -m studyctl.spec.reference > docs/spec.md`` writes it anew.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from inspect import cleandoc

from pydantic import BaseModel

from studyctl.contract.methods import METHODS, PAIR
from studyctl.spec.keys import Key, keys_of
from studyctl.spec.models import (
    BUNDLED_LANGUAGES,
    BUNDLED_TEXTS,
    TABLES,
    Calibration,
    CalibrationOverride,
    CompressionTable,
    Execution,
    Fidelity,
    Model,
    Perplexity,
    Spec,
    Study,
    TaskData,
    Tasks,
    TextSource,
)

SHARED = ("models", "calibration", "backend")
"""Keys of every ``[[compression]]`` table."""

INTRODUCTION = f"""\
# Every table and key of a study spec

Written from the models in `studyctl/spec/models.py` and `studyctl/contract/methods.py` by
`python -m studyctl.spec.reference > docs/spec.md`; a test compares the two. `studyctl validate SPEC` checks a spec,
`studyctl schema` writes a JSON schema for editors.

- A spec is a TOML file. Its name in `[study]` names the folder of its results under `runs/`.
- Unknown keys and values of a wrong type are errors: `bits = "4"` is not 4.
- Relative paths start at the folder of the file that they are written in.
- Keys without a default are required or, where the table says "–", may be left out.
- In `[[compression]]`, wherever there is a value, a list sweeps: each of its values makes a variant, and several lists
  multiply. The uncompressed model, `dense`, is always there.
- Texts that need no `[text]` table: {", ".join(f"`{name}`" for name in BUNDLED_TEXTS)}, in the languages
  {", ".join(f"`{language}`" for language in BUNDLED_LANGUAGES)}.
"""

TABLES_IN_ORDER: tuple[tuple[str, type[BaseModel]], ...] = (
    ("[study]", Study),
    ("[[models]]", Model),
    ("[calibration]", Calibration),
    ("[text.<name>]", TextSource),
    ("[evaluation.perplexity]", Perplexity),
    ("[evaluation.fidelity]", Fidelity),
    ("[evaluation.tasks]", Tasks),
    ("[evaluation.tasks.data.<task>]", TaskData),
    ("[execution]", Execution),
)


def reference() -> str:
    """Return the text of ``docs/spec.md``."""
    parts = [INTRODUCTION, _overview()]
    for header, table in TABLES_IN_ORDER:
        parts.append(_section(f"## `{header}`", table, list(keys_of(table).values())))
        if table is Calibration:
            parts += _compression()
    return "\n".join(parts)


def _overview() -> str:
    rows = [
        (
            f"`{'[[' if key.kind == 'list of tables' else '['}{key.name}{']]' if key.kind == 'list of tables' else ']'}`",
            key,
        )
        for key in keys_of(Spec).values()
    ]
    lines = [f"| {header} | {key.description} | {'yes' if key.required else 'no'} |" for header, key in rows]
    return "\n".join(["| table | holds | required |", "| --- | --- | --- |", *lines, ""])


def _compression() -> Iterator[str]:
    """Yield the section on ``[[compression]]``: keys of all methods, then each method's options."""
    some = TABLES["wanda"]
    keys = [replace(keys_of(some)["method"], choices=(), kind="text or pair")]
    keys += [keys_of(some)[name] for name in SHARED]
    yield _section("## `[[compression]]`", CompressionTable, keys)
    yield _section(
        "### Keys of `calibration` in a variant",
        CalibrationOverride,
        list(keys_of(CalibrationOverride).values()),
    )
    for tag, table in TABLES.items():
        name = '["sparsegpt", "gptq"]' if tag == PAIR else f'"{tag}"'
        options = [key for key in keys_of(table).values() if key.name not in (*SHARED, "method")]
        data = (
            "Looks at calibration text." if METHODS[tag].settings.needs_data else "Needs no calibration text."
        )
        yield _section(f"### `method = {name}`", table, options, data)


def _section(heading: str, table: type[BaseModel], keys: list[Key], more: str = "") -> str:
    about = " ".join(filter(None, (cleandoc(table.__doc__ or ""), more))).replace("``", "`")
    rows = [f"| `{key.name}` | {_type(key)} | {_default(key)} | {_cell(key.description)} |" for key in keys]
    return "\n".join(
        [heading, "", about, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    )


def _type(key: Key) -> str:
    if key.choices:
        words = ", ".join(f'`"{choice}"`' for choice in key.choices)
        return words if key.kind == "text" else f"{key.kind}: {words}"
    bounds = f", {key.bounds}" if key.bounds else ""
    return _cell(key.kind + bounds)


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.default in (None, "", (), {}) or isinstance(key.default, BaseModel):
        return "–"
    return f"`{_toml(key.default)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + " }"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
