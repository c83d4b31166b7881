"""The JSON schema of a spec, with which editors complete keys and values and underline errors.

A mistake gives one message, at the key that is wrong:

- ``[[compression]]`` has a condition for each method, and no ``oneOf``, which fails for every method at once;
- a value of one of several types is one schema with a list of types: other keywords apply to values of their own type only;
- a table misses its required keys only where it has no unknown one, which is most likely the missing one misspelt;
- an unknown key is refused by a schema of its own. Editors put the message of ``additionalProperties: false`` on the whole table, and taplo
  repeats it at each of its keys.
"""

from collections.abc import Iterable
from itertools import product
from typing import Any

from studyctl.contract.methods import ON_GGUF, PAIR
from studyctl.spec.keys import METHOD_NAMES, PATTERNS, keys_of
from studyctl.spec.models import TABLES, OwnTask, Selector, Spec

DRAFT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Return the JSON schema (draft 2020-12) of a spec; where a list sweeps, a single value is allowed as well."""
    schema: Schema = _as_toml(Spec.model_json_schema())
    definitions: dict[str, Schema] = schema.pop("$defs")
    for table in TABLES.values():
        properties = definitions[table.__name__]["properties"]
        swept = {name: _value_or_list(properties[name]) for name in table.sweepable()}
        definitions[table.__name__]["properties"] = {
            name: swept.get(name, properties[name]) for name in keys_of(table)
        }
    for properties, names in (
        (definitions[Selector.__name__]["properties"], Selector.model_fields),
        (definitions[OwnTask.__name__]["properties"], ("question", "choices")),
    ):
        properties |= {name: _value_or_list(properties[name]) for name in names}
    study = definitions["Study"]
    tasks = [name for name in definitions["Tasks"]["properties"] if name != "own"]
    complete = {
        "required": schema.pop("required"),
        "properties": {
            "study": _if_known(study["properties"], {"required": study.pop("required")}),
            "evaluation": {"properties": {"tasks": _if_known(tasks, {"required": ["names"]})}},
        },
    }
    variants = {tag: definitions.pop(table.__name__) for tag, table in TABLES.items()}
    variants = {tag: _flat(table, definitions) for tag, table in variants.items()}
    definitions = {name: _flat(definition, definitions) for name, definition in definitions.items()}
    schema = _flat(schema, definitions)
    schema["properties"]["compression"]["items"] = _by_method(variants)
    # Without `extends`: a spec that builds on another may leave its keys to it.
    extends = {"required": ["study"], "properties": {"study": {"required": ["extends"]}}}
    schema["then"] = {"if": extends, "else": complete}
    return {"$schema": DRAFT, "title": "studyctl study", **schema, "$defs": definitions}


def _by_method(variants: dict[str, Schema]) -> Schema:
    """Return the schema of a ``[[compression]]`` table, whose ``method`` says which of these tables it is.

    Keys that are alike for all methods that have them are above the conditions, into which editors do not look to complete.
    """
    alike: dict[str, Schema] = {}
    for table in variants.values():
        for name, value in table["properties"].items():
            same = alike.setdefault(name, value) == value
            alike[name] = value if same else {"description": value.get("description", "")}
    pair = variants[PAIR]["properties"]["method"]["prefixItems"]
    pairs = product(*(part["enum"] for part in pair))
    alike["method"] = {
        "description": alike["method"]["description"],
        "enum": [*METHOD_NAMES, *map(list, pairs)],
    }
    methods: Schema = {}
    for tag in sorted(variants, key=lambda tag: tag.endswith(ON_GGUF)):  # the last one is asked first
        name = tag.removesuffix(ON_GGUF)
        is_pair: Schema = {"type": "array"}
        condition = {
            "required": ["method", *(["grid"] if name != tag else [])],
            "properties": {"method": is_pair if tag == PAIR else {"const": name}},
        }
        keys = variants[tag]["properties"].items()
        own = {key: value for key, value in keys if key != "method" and value != alike[key]}
        methods = {"if": condition, "then": {**variants[tag], "properties": own}, "else": methods}
    method: Schema = {"required": ["method"]}
    return {
        "type": "object",
        "properties": alike,
        "if": method,
        "then": methods,
        "else": _closed(alike, method),
    }


def _if_known(keys: Iterable[str], then: Schema) -> Schema:
    """Return the condition that holds where a table has these keys only."""
    return {"if": {"propertyNames": {"enum": list(keys)}}, "then": then}


def _closed(keys: Iterable[str], then: Schema) -> Schema:
    """Return the condition as :func:`_if_known`, and otherwise a message at each unknown key, with the keys that there are."""
    refused = {"not": {"description": f"unknown key; keys are {', '.join(keys)}"}}
    unknown = {"properties": dict.fromkeys(keys, True), "additionalProperties": refused}
    return {**_if_known(keys, then), "else": unknown}


def _flat(schema: Any, definitions: dict[str, Schema]) -> Any:
    """Return the schema without unions and closed tables, which give several messages for a mistake."""
    if isinstance(schema, list):
        return [_flat(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    flat = {key: _flat(value, definitions) for key, value in schema.items()}
    if "anyOf" in flat:
        flat = _union(flat.pop("anyOf"), flat, definitions)
    names = flat.get("propertyNames", {})
    if "enum" in names:
        keys = flat.pop("propertyNames")["enum"]
        flat["properties"] = dict.fromkeys(keys, flat.pop("additionalProperties"))
        flat |= _closed(keys, {})
    elif patterns := flat.get("patternProperties"):
        (pattern,) = patterns
        refused = {"not": {"description": f"a name has {PATTERNS[pattern]} only"}}
        others = {"patternProperties": {pattern: True}, "additionalProperties": refused}
        flat |= {"if": {"propertyNames": {"pattern": pattern}}, "else": others}
    elif flat.get("additionalProperties") is False:
        del flat["additionalProperties"]
        flat |= _closed(flat["properties"], {"required": flat.pop("required")} if "required" in flat else {})
    return flat


def _union(options: list[Schema], about: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return one schema for values of several types, of which each is named once.

    Where types are not apart, it stays a union: methods of installed packages may have such options.
    """
    types: list[str] = []
    union: Schema = {}
    for option in options:
        reference = option.get("$ref", "").rpartition("/")[2]
        keywords = _flat(definitions[reference], definitions) if reference else dict(option)
        kind = keywords.pop("type", [])
        # Words apply to values of every type, hence the condition; taplo completes those of `anyOf`, and of no condition.
        if words := keywords.pop("enum", [keywords.pop("const")] if "const" in keywords else None):
            keywords |= {"if": {"type": kind}, "then": {"enum": words}}
            keywords["anyOf"] = [{"enum": words, **about}, True]
        kinds = [kind] if isinstance(kind, str) else kind
        both_numbers = {"integer", "number"} <= {*types, *kinds}
        if not kinds or both_numbers or {*types} & {*kinds} or union.keys() & keywords.keys():
            return {"anyOf": options, **about}
        types += kinds
        union |= keywords
    return {**union, "type": types, **about}


def _value_or_list(items: Schema) -> Schema:
    about: Schema = {"description": items["description"]} if "description" in items else {}
    if items.get("default", [None]) != [None]:
        about["default"] = items["default"][0]
    many: Schema = {"type": "array", "items": items["items"], "minItems": 1}
    return {"anyOf": [items["items"], many], **about}


def _as_toml(schema: Any) -> Any:
    """Return the schema without null, which TOML does not have, and without the titles that Pydantic derives from names."""
    if isinstance(schema, list):
        return [_as_toml(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _as_toml(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    choices = [choice for choice in kept.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) > 1:
        return {"anyOf": choices, **kept}
    return {**(choices[0] if choices else {}), **kept}
