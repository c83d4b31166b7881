"""Specs that the tests of the spec share."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tomlkit
from jsonschema import Draft202012Validator, ValidationError

from studyctl.errors import Problem, SpecError
from studyctl.spec.loading import Document, parse_spec

MINIMAL = """\
[study]
name = "mine"

[[models]]
id = "Qwen/Qwen2.5-0.5B"
"""

FULL = """\
#:schema ./study.schema.json
[study]
name = "slm-compression"            # folder under runs/
title = "Pruning vs quantization for small language models"
seeds = [0, 1]

[[models]]
id = "Qwen/Qwen2.5-0.5B"
revision = "main"
dtype = "bfloat16"
bos = "auto"

[[models]]
id = "Qwen/Qwen2.5-0.5B-Instruct"
chat_template = true

[calibration]
source = "c4"
languages = ["en"]
samples = 128
sequence_length = 2048

[[compression]]
method = "sparsegpt"
sparsity = [0.3, 0.5, 0.7]

[[compression]]
method = "sparsegpt"
pattern = ["2:4", "4:8"]

[[compression]]
method = "awq"
bits = [3, 4]
group_size = 128
models = ["Qwen/*"]
calibration = [{}, { languages = ["sw"] }]
backend = ["studyctl", "autoawq"]

[[compression]]
method = ["sparsegpt", "gptq"]
pattern = "2:4"
bits = 4

[[compression]]
method = "checkpoint"
id = "Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4"
of = "Qwen/Qwen2.5-0.5B-Instruct"

[text.c4]
dataset = "allenai/c4"
config = { en = "en", de = "de", sw = "sw" }
split = { calibration = "train", perplexity = "validation" }

[text.mine]
files = { calibration = "corpus/{language}/train.jsonl", perplexity = "corpus/{language}/test.jsonl" }

[evaluation.perplexity]
source = "mine"
languages = ["de", "en", "sw"]
sequence_length = 2048
windows = 128

[evaluation.fidelity]
metrics = ["kl", "top1", "snr"]

[evaluation.tasks]
names = ["boolq", "arc_easy", "openbookqa"]
shots = 0
limit = 0
include = ["my_tasks/"]
keep_texts = false
[evaluation.tasks.data]
arc_easy = "tasks/arc_easy_test.jsonl"
openbookqa = { test = "tasks/openbookqa_test.jsonl", fewshot = "tasks/openbookqa_validation.jsonl" }
[evaluation.tasks.main]
openbookqa = "acc_norm"

[execution]
devices = ["cuda:0", "cuda:1"]
retries = 1
keep_weights = false
on_finish = "ntfy pub my-topic"
"""


def document(text: str, path: str = "mine.toml") -> Document:
    """Return the document of a spec that is right."""
    return parse_spec(text, Path(path))


def problems(text: str, path: str = "mine.toml") -> list[Problem]:
    """Return what is wrong with a spec."""
    try:
        parse_spec(text, Path(path))
    except SpecError as error:
        return error.problems
    return []


def marked(problem: Problem, text: str) -> str:
    """Return the characters that a problem underlines."""
    assert problem.line is not None
    assert problem.column is not None
    line = text.split("\n")[problem.line - 1]
    return line[problem.column - 1 :][: problem.length]


def mistakes(text: str) -> list[tuple[str, str]]:
    """Return ``(what, underlined)`` of everything that is wrong with a spec."""
    return [(problem.what, marked(problem, text)) for problem in problems(text)]


def refused(text: str, schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Return ``(place, message)`` of everything that a JSON schema refuses in a spec, as editors show it."""
    errors = Draft202012Validator(schema).iter_errors(tomlkit.parse(text).unwrap())
    return [(error.json_path.removeprefix("$."), error.message) for error in _leaves(errors)]


def _leaves(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    """Yield the errors, and of a union those of each of its members."""
    for error in errors:
        yield from _leaves(error.context) if error.context else (error,)
