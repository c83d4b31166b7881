"""The JSON schema of a spec, with which editors complete keys and options and underline errors."""

from typing import Any

from studyctl.contract.methods import ON_GGUF, PAIR
from studyctl.spec.keys import keys_of
from studyctl.spec.models import TABLES, Selector, Spec

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a spec.

    ``[[compression]]`` is one of the methods' tables, selected by ``method``; where a list sweeps, a single value is
    allowed as well.
    """
    schema: dict[str, Any] = Spec.model_json_schema()
    for tag, table in TABLES.items():
        properties = schema["$defs"][table.__name__]["properties"]
        for name in table.sweepable():
            properties[name] = _value_or_list(properties[name])
        if tag != PAIR:
            properties["method"] |= {"const": tag.removesuffix(ON_GGUF)}
        schema["$defs"][table.__name__]["properties"] = {name: properties[name] for name in keys_of(table)}
    selector = schema["$defs"][Selector.__name__]["properties"]
    for name in selector:
        selector[name] = _value_or_list(_without_null(selector[name]))
    tables = schema["properties"]["compression"]["items"]
    # The pair's method is a list, which OpenAPI's discriminator cannot express; `const` tells the tables apart anyway.
    tables.pop("discriminator", None)
    required = _required(schema)
    return {"$schema": DRAFT, "title": "studyctl study", **_as_toml(schema), **required}


def _required(schema: dict[str, Any]) -> dict[str, Any]:
    """Take the required keys out of the schema and return them as a condition: they may come from an extended spec."""
    some = {"anyOf": [{"required": ["names"]}, {"required": ["own"]}]}
    inside = {
        "study": {"required": schema["$defs"]["Study"].pop("required")},
        "evaluation": {"properties": {"tasks": some}},
    }
    extends = {"required": ["study"], "properties": {"study": {"required": ["extends"]}}}
    return {
        "required": ["study"],
        "if": extends,
        "else": {"required": schema["required"], "properties": inside},
    }


def _value_or_list(items: dict[str, Any]) -> dict[str, Any]:
    single = _without_null(items["items"])
    about: dict[str, Any] = {key: items[key] for key in ("description", "default") if key in items}
    if isinstance(about.get("default"), list):
        about["default"] = about["default"][0]
    many: dict[str, Any] = {"type": "array", "items": single, "minItems": 1}
    return {"anyOf": [single, many], **about}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if not choices:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**choices[0], **rest} if len(choices) == 1 else {"anyOf": choices, **rest}


def _as_toml(schema: Any) -> Any:
    """Return the schema without null, which TOML does not have, and without the titles that Pydantic derives from names."""
    if isinstance(schema, list):
        return [_as_toml(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        for key, value in _without_null(schema).items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    return {key: _as_toml(value) for key, value in kept.items()}
