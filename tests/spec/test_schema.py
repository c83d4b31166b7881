"""The JSON schema of a spec: what is right is valid, and one mistake gives one message, at the key that is wrong."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from jsonschema import Draft202012Validator

from studyctl.spec.schema import DRAFT, json_schema

from .specs import FULL, MINIMAL, refused

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()


def messages(text: str) -> list[tuple[str, str]]:
    return refused(text, SCHEMA)


def test_the_schema_is_one() -> None:
    assert SCHEMA["$schema"] == DRAFT
    Draft202012Validator.check_schema(SCHEMA)


SPECS = sorted((ROOT / "specs").glob("*.toml"))


@pytest.mark.parametrize(
    "text",
    [MINIMAL, FULL, *(path.read_text() for path in SPECS)],
    ids=["minimal", "full", *(path.stem for path in SPECS)],
)
def test_what_is_right_is_valid(text: str) -> None:
    assert messages(text) == []


def examples() -> Iterator[Any]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for number, text in enumerate(re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S)):
            if tomlkit.parse(text).keys() <= SCHEMA["properties"].keys():  # and is no profile
                yield pytest.param(text, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("text", examples())
def test_the_examples_of_the_documentation_are_valid(text: str) -> None:
    """Most show some tables only: names of what is missing then stand for it."""
    keys = tomlkit.parse(text).keys()
    missing = "[study]\nname = 'x'\n" * ("study" not in keys) + "[[models]]\nid = 'x'\n" * (
        "models" not in keys
    )
    assert messages(f"{text}\n{missing}") == []


WANDA, RTN_TABLE, GPTQ = (f'[[compression]]\nmethod = "{name}"\n' for name in ("wanda", "rtn", "gptq"))
PAIR = '[[compression]]\nmethod = ["sparsegpt", "gptq"]\n'
TEXT, TASKS, OWN = "[text.x]\n", '[evaluation.tasks]\nnames = ["a"]\n', "[evaluation.tasks.own.quiz]\n"


@pytest.mark.parametrize(
    ("table", "place"),
    [
        # a key that is unknown
        ("[exection]\nretries = 1", "exection"),
        (f"{WANDA}sparcity = 0.5", "compression[0].sparcity"),
        ('[[compression]]\nmetod = "wanda"\nsparsity = 0.5', "compression[0].metod"),
        ('[[compression]]\nmethod = "checkpoint"\nid = "x"\noff = "y"', "compression[0].off"),
        (f'{RTN_TABLE}gird = "gguf:Q4_K_M"', "compression[0].gird"),
        (f"{PAIR}sparsity = 0.5\nbit = 4", "compression[0].bit"),
        (f"{WANDA}sparsity = 0.5\ncalibration = {{ sampels = 8 }}", "compression[0].calibration.sampels"),
        (f"{WANDA}sparsity = 0.5\ncalibration = [{{}}, {{ sampels = 8 }}]", "compression[0].calibration[1].sampels"),
        (f'{TEXT}file = "x"', "text.x.file"),
        (f"{TEXT}files = {{ eval = 'x' }}", "text.x.files.eval"),
        ('[evaluation.tasks]\nnmes = ["a"]', "evaluation.tasks.nmes"),
        (f"{TEXT}files = {{ perplexity = {{ ar = {{ fiel = 'x' }} }} }}", "text.x.files.perplexity.ar.fiel"),
        (f'{OWN}fiel = "quiz.csv"', "evaluation.tasks.own.quiz.fiel"),
        (f"{TASKS}data = {{ a = {{ tests = 'x' }} }}", "evaluation.tasks.data.a.tests"),
        ('[[hypotheses]]\nname = "h"\nleft = { method = "gptq" }', "hypotheses[0].left.method"),
        # a key of another method
        (f"{WANDA}sparsity = 0.5\nbits = 4", "compression[0].bits"),
        (f'{RTN_TABLE}grid = "gguf:Q4_0"\nbits = 4', "compression[0].bits"),
        ('[[compression]]\nmethod = "gguf"\ngrid = "gguf:Q4_0"', "compression[0].grid"),
        # a method that there is not
        ('[[compression]]\nmethod = "wandaa"\nsparsity = 0.5', "compression[0].method"),
        ('[[compression]]\nmethod = "dense"', "compression[0].method"),
        ("[[compression]]\nmethod = 4\nbits = 4", "compression[0].method"),
        ('[[compression]]\nmethod = ["gptq", "wanda"]\nsparsity = 0.5', "compression[0].method"),
        ('[[compression]]\nmethod = ["wanda"]\nsparsity = 0.5', "compression[0].method"),
        # a value of another type
        (f'{GPTQ}bits = "4"', "compression[0].bits"),
        (f'{GPTQ}bits = [3, "4"]', "compression[0].bits[1]"),
        (f"{GPTQ}bits = 4.5", "compression[0].bits"),
        (f"{GPTQ}symmetric = 1", "compression[0].symmetric"),
        (f"{GPTQ}backend = 1", "compression[0].backend"),
        (f"{GPTQ}calibration = 1", "compression[0].calibration"),
        (f"{TEXT}files = 4", "text.x.files"),
        (f"{TEXT}files = {{ calibration = 4 }}", "text.x.files.calibration"),
        (f"{TEXT}files = {{ calibration = {{ ar = 4 }} }}", "text.x.files.calibration.ar"),
        (f'{TEXT}dataset = "d"\nconfig = 4', "text.x.config"),
        (f"{TASKS}data = {{ a = 4 }}", "evaluation.tasks.data.a"),
        (f'{OWN}file = "x"\nchoices = 4', "evaluation.tasks.own.quiz.choices"),
        ('[[hypotheses]]\nname = "h"\nleft = { methods = 4 }', "hypotheses[0].left.methods"),
        ("[execution]\ndevices = 4", "execution.devices"),
        ("[execution]\nkeep_trial_weights = true", "execution.keep_trial_weights"),
        # a value out of range
        (f"{GPTQ}bits = 9", "compression[0].bits"),
        (f"{GPTQ}bits = [4, 9]", "compression[0].bits[1]"),
        (f"{GPTQ}bits = []", "compression[0].bits"),
        (f'{GPTQ}grid = "gguf:Q9"', "compression[0].grid"),
        (f"{WANDA}sparsity = 50", "compression[0].sparsity"),
        (f'{WANDA}pattern = "2-4"', "compression[0].pattern"),
        (f'{WANDA}sparsity = 0.5\norder = "blocks"', "compression[0].order"),
        ('[[compression]]\nmethod = "awq"\norder = "stage"', "compression[0].order"),
        (f'{GPTQ}backend = ["studyctl", "autoqwa"]', "compression[0].backend[1]"),
        (f'{TEXT}files = {{ calibration = {{ "a b" = "x" }} }}', "text.x.files.calibration['a b']"),
        ('[[models]]\nid = "y"\ndtype = "bf16"', "models[1].dtype"),
        ('[execution]\nkeep_trial_weights = "much"', "execution.keep_trial_weights"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_message_at_its_key(table: str, place: str) -> None:
    assert [at for at, _ in messages(f"{MINIMAL}{table}\n")] == [place]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[models]]\nid = "x"', "'study' is a required property"),
        ('[study]\nname = "x"', "'models' is a required property"),
        ('[study]\ntitle = "x"\n[[models]]\nid = "x"', "'name' is a required property"),
        ('[study]\nnam = "x"\n[[models]]\nid = "x"', "'x' should not be valid under {'description': 'unknown key; keys are name, title, seeds, extends'}"),
        (f"{MINIMAL}{RTN_TABLE}x = 4", "4 should not be valid under {'description': 'unknown key; keys are method, bits, group_size, symmetric, models, calibration, backend'}"),
        (f"{MINIMAL}[[compression]]\nsparsity = 0.5", "'method' is a required property"),
        (f"{MINIMAL}[[compression]]\nmethod = 'gguf'", "'type' is a required property"),
        (f"{MINIMAL}[evaluation.tasks]\nshots = 1", "'names' is a required property"),
        (f"{MINIMAL}{OWN}", "'file' is a required property"),
    ],
)  # fmt: skip
def test_a_key_that_is_missing_is_named_once(text: str, message: str) -> None:
    assert [what for _, what in messages(text)] == [message]


@pytest.mark.parametrize(
    "table",
    [
        f"{GPTQ}bits = [3, 4]\nbackend = \"autoawq\"", f'{GPTQ}grid = ["gguf:Q4_0", "gguf:Q4_1"]', f'{PAIR}pattern = "2:4"\nbits = [3, 4]',
        f"{WANDA}sparsity = 0\ncalibration = {{ samples = 8 }}", f'{OWN}file = "q.csv"\nchoices = "options"',
        f'{TEXT}files = "a.txt"', f'{TEXT}files = {{ calibration = {{ ar = "a.txt" }}, perplexity = "{{language}}.txt" }}',
        f'{TEXT}files.perplexity = {{ ar = "a.txt", de = {{ file = "b.jsonl", field = "body" }} }}',
        f'{TASKS}data = {{ a = "x", b = {{ test = "x" }} }}', '[execution]\ndevices = ["cpu"]\nkeep_trial_weights = 0',
    ],
)  # fmt: skip
def test_a_value_may_have_each_of_its_types(table: str) -> None:
    assert messages(f"{MINIMAL}{table}\n") == []


def test_a_spec_that_extends_another_may_leave_things_to_it() -> None:
    assert messages('[study]\nextends = "base.toml"\n[evaluation.tasks]\nshots = 1\n') == []


def test_editors_complete_what_stands_above_the_conditions() -> None:
    keys = SCHEMA["properties"]["compression"]["items"]["properties"]
    assert keys["ratios"] == {
        "type": ["integer", "array"], "minimum": 1, "maximum": 1000, "minItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": 1000},
        "default": 20, "description": "values of the exponent a that are tried",
    }  # fmt: skip
    assert keys["method"]["enum"][:2] == ["magnitude", "wanda"]
    assert ["sparsegpt", "awq"] in keys["method"]["enum"]
    assert {"objective", "grid", "of"} <= keys.keys()
