"""The documents that are written from the models."""

from pathlib import Path

import pytest
import tomlkit
from pydantic import BaseModel

from studyctl.spec.keys import key_at, keys_of
from studyctl.spec.models import BUNDLED_LANGUAGES, TABLES, TABLES_BY_HEADER
from studyctl.spec.reference import reference

from .specs import FULL

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
