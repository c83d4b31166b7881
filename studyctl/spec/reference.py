"""``docs/spec.md``: every table and key of a spec, generated from the models.

``python -m studyctl.spec.reference > docs/spec.md`` writes it.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from inspect import cleandoc

from studyctl.contract.methods import METHODS, ON_GGUF, PAIR
from studyctl.spec.assist import METHOD
from studyctl.spec.keys import Key, keys_of
from studyctl.spec.models import (
    BUNDLED_LANGUAGES,
    BUNDLED_TEXTS,
    TABLES,
    TABLES_BY_HEADER,
    Calibration,
    CalibrationOverride,
    CompressionTable,
    Spec,
    Table,
)

SHARED = ("models", "calibration", "backend")
"""Keys of every ``[[compression]]`` table."""

INTRODUCTION = f"""\
# Every table and key of a study spec

Generated from the models in `studyctl/spec/models.py` and `studyctl/contract/methods.py` by
`python -m studyctl.spec.reference > docs/spec.md`; a test compares the two. `studyctl validate SPEC` checks a spec,
`studyctl schema` prints a JSON schema for editors.

- A spec is a TOML file. `name` in `[study]` is also the name of the folder of its results under `runs/`.
- Unknown keys and values of a wrong type are errors: `bits = "4"` is not 4.
- Relative paths start at the folder of the file that contains them.
- "–" as default: the key may be left out and has no default value.
- In `[[compression]]`, a list in place of a value sweeps: each item makes a variant, and several lists multiply. The
  uncompressed model, `dense`, is always included.
- Texts that need no `[text]` table: {", ".join(f"`{name}`" for name in BUNDLED_TEXTS)}, in the languages
  {", ".join(f"`{language}`" for language in BUNDLED_LANGUAGES)}.
"""


def reference() -> str:
    """Return the text of ``docs/spec.md``."""
    parts = [INTRODUCTION, _section("## Tables", Spec, list(keys_of(Spec).values()))]
    for header, table in TABLES_BY_HEADER:
        parts.append(_section(f"## `{header}`", table, list(keys_of(table).values())))
        if table is Calibration:
            parts += _compression()
    return "\n".join(parts)


def _compression() -> Iterator[str]:
    """Yield the section on ``[[compression]]``: keys of all methods, then each method's options."""
    shared = [keys_of(TABLES["wanda"])[name] for name in SHARED]
    yield _section("## `[[compression]]`", CompressionTable, [replace(METHOD, choices=()), *shared])
    override = list(keys_of(CalibrationOverride).values())
    yield _section("### Keys of `calibration` in a variant", CalibrationOverride, override)
    for tag, table in TABLES.items():
        name = '["sparsegpt", "gptq"]' if tag == PAIR else f'"{tag.removesuffix(ON_GGUF)}"'
        with_grid = " with `grid`" if tag.endswith(ON_GGUF) else ""
        options = [key for key in keys_of(table).values() if key.name not in (*SHARED, "method")]
        data = "Uses" if METHODS[tag].settings.needs_data else "Needs no"
        where = ' with `imatrix = "calibration"`' if "imatrix" in table.model_fields else ""
        about = f"{data} calibration text{where}."
        yield _section(f"### `method = {name}`{with_grid}", table, options, about)


def _section(heading: str, table: type[Table], keys: list[Key], more: str = "") -> str:
    about = " ".join(filter(None, (cleandoc(table.__doc__ or ""), more))).replace("``", "`")
    defaults = ["required" if key.required else f"`{key.default_text}`".replace("``", "–") for key in keys]
    rows = [
        f"| `{key.name}` | {_type(key)} | {default} | {_cell(key.description)} |"
        for key, default in zip(keys, defaults, strict=True)
    ]
    return "\n".join(
        [heading, "", about, "", "| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    )


def _type(key: Key) -> str:
    if key.choices:
        words = ", ".join(f'`"{choice}"`' for choice in key.choices)
        return words if key.kind == "text" else f"{key.kind}: {words}"
    bounds = f", {key.bounds}" if key.bounds else ""
    return _cell(key.kind + bounds)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
