"""The documents that are written from the models."""

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from pydantic import BaseModel

from studyctl.contract.methods import METHODS
from studyctl.spec.keys import key_at, keys_of
from studyctl.spec.models import BUNDLED_LANGUAGES, TABLES, TABLES_BY_HEADER
from studyctl.spec.reference import reference
from studyctl.spec.schema import DRAFT, json_schema

from .specs import FULL, MINIMAL

ROOT = Path(__file__).parents[2]
ALL_TABLES: list[type[BaseModel]] = [*(table for _, table in TABLES_BY_HEADER), *TABLES.values()]


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "spec.md").read_text() == reference(), (
        "python -m studyctl.spec.reference > docs/spec.md"
    )


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.__name__)
def test_every_key_is_described(table: type[BaseModel]) -> None:
    for key in keys_of(table).values():
        assert key.description, key.name
        assert f"| `{key.name}` |" in reference()


def test_what_is_known_of_a_key() -> None:
    data = tomlkit.parse(FULL).unwrap()
    bits = key_at(("compression", 2, "bits", 1), data)
    assert bits is not None
    assert (bits.kind, bits.bounds, bits.default, bits.swept) == (
        "whole number",
        "at least 2 and at most 8",
        4,
        True,
    )
    split = key_at(("text", "c4", "split", "calibration"), data)
    assert split is not None
    assert split.kind == "text or table of texts"
    assert key_at(("nowhere", "x"), data) is None


def test_the_bundled_languages_are_those_of_the_bundled_texts() -> None:
    for folder in (ROOT / "studyctl" / "pocket" / "text").iterdir():
        assert tuple(sorted(path.stem for path in folder.iterdir())) == BUNDLED_LANGUAGES


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Return whether a JSON schema accepts a value; knows the words that our schema uses, and no others."""
    return all(_accepts(word, argument, schema, value, root) for word, argument in schema.items())


TYPES = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _accepts(word: str, argument: Any, schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    import re

    table = value if isinstance(value, dict) else {}
    items = value if isinstance(value, list) else []
    number = value if TYPES["number"](value) else None
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    checks = {
        "$ref": lambda: accepts(root["$defs"][argument.rpartition("/")[2]], value, root),
        "type": lambda: TYPES[argument](value),
        "const": lambda: value == argument,
        "enum": lambda: value in argument,
        "anyOf": lambda: any(accepts(option, value, root) for option in argument),
        "oneOf": lambda: sum(accepts(option, value, root) for option in argument) == 1,
        "if": lambda: accepts(argument, value, root) or accepts(schema["else"], value, root),
        "required": lambda: not isinstance(value, dict) or all(name in table for name in argument),
        "properties": lambda: all(
            accepts(argument[name], table[name], root) for name in table if name in argument
        ),
        "patternProperties": lambda: all(
            accepts(inner, table[name], root)
            for pattern, inner in argument.items()
            for name in table
            if re.search(pattern, name)
        ),
        "propertyNames": lambda: all(accepts(argument, name, root) for name in table),
        "additionalProperties": lambda: all(
            argument is not False and accepts(argument, table[name], root)
            for name in table
            if name not in properties and not any(re.search(pattern, name) for pattern in patterns)
        ),
        "items": lambda: all(accepts(argument, item, root) for item in items),
        "prefixItems": lambda: all(
            accepts(inner, item, root) for inner, item in zip(argument, items, strict=False)
        ),
        "minItems": lambda: not isinstance(value, list) or len(value) >= argument,
        "maxItems": lambda: not isinstance(value, list) or len(value) <= argument,
        "minLength": lambda: not isinstance(value, str) or len(value) >= argument,
        "maxLength": lambda: not isinstance(value, str) or len(value) <= argument,
        "pattern": lambda: not isinstance(value, str) or re.search(argument, value) is not None,
        "minimum": lambda: number is None or number >= argument,
        "maximum": lambda: number is None or number <= argument,
        "exclusiveMinimum": lambda: number is None or number > argument,
        "exclusiveMaximum": lambda: number is None or number < argument,
        **dict.fromkeys(("$schema", "$defs", "title", "description", "default", "else"), lambda: True),
    }
    return bool(checks[word]())


def valid(text: str) -> bool:
    schema = json_schema()
    return accepts(schema, tomlkit.parse(text).unwrap(), schema)


def test_the_schema_accepts_what_is_right() -> None:
    assert json_schema()["$schema"] == DRAFT
    assert valid(MINIMAL)
    assert valid(FULL)
    for path in (ROOT / "specs").glob("*.toml"):
        assert valid(path.read_text()), path.name


@pytest.mark.parametrize(
    "table",
    [
        '[[compression]]\nmethod = "wanda"\nsparcity = 0.5',
        '[[compression]]\nmethod = "wanda"\nbits = 4',
        '[[compression]]\nmethod = "rtn"\nbits = [3, 9]',
        '[[compression]]\nmethod = "rtn"\nbits = "4"',
        '[[compression]]\nmethod = "dense"',
        '[[compression]]\nmethod = ["gptq", "wanda"]',
        '[[models]]\nid = "x"\ndtype = "bf16"',
        "[exection]\nretries = 1",
        "[evaluation.tasks]\nshots = 1",
    ],
)
def test_the_schema_refuses_what_is_wrong(table: str) -> None:
    assert not valid(f"{MINIMAL}{table}\n")


def test_a_spec_that_extends_another_may_leave_things_to_it() -> None:
    assert valid('[study]\nextends = "base.toml"\n[evaluation.tasks]\nshots = 1\n')
    assert not valid('[study]\nname = "x"\n')


def test_editors_complete_the_options_of_the_method() -> None:
    schema = json_schema()
    assert len(schema["properties"]["compression"]["items"]["oneOf"]) == len(METHODS) - 1
    awq = schema["$defs"]["AWQTable"]["properties"]
    assert awq["method"]["const"] == "awq"
    assert awq["ratios"] == {
        "anyOf": [
            {"maximum": 1000, "minimum": 1, "type": "integer"},
            {"type": "array", "items": {"maximum": 1000, "minimum": 1, "type": "integer"}, "minItems": 1},
        ],
        "default": 20,
        "description": "values of the exponent a that are tried",
    }
