"""Names of variants and trials."""

from pathlib import Path

import pytest

from studyctl.contract.job import CalibrationData
from studyctl.plan.trials import PlannedModel, make_trials
from studyctl.plan.variants import Variant, expand_variants
from studyctl.spec.loading import Document, parse_spec
from studyctl.spec.models import Model

HEAD = """
[study]
name = "t"
{study}
[[models]]
id = "some/Model-1B"
[calibration]
source = "pocket"
"""


def document(tables: str, study: str = "") -> Document:
    return parse_spec(HEAD.format(study=study) + tables, Path("t.toml"))


def names(tables: str) -> list[str]:
    variants, problems = expand_variants(document(tables))
    assert problems == []
    return [variant.name for variant in variants]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('method = "wanda"\nsparsity = 0.5', ["wanda-0.5"]),
        ('method = "sparsegpt"\npattern = "2:4"', ["sparsegpt-2:4"]),
        ('method = "wanda"\nsparsity = [0.3, 0.5]', ["wanda-0.3", "wanda-0.5"]),
        ('method = "awq"\nbits = 4\ngroup_size = 64', ["awq-4bit-g64"]),
        ('method = "gptq"\nbits = 3\ngroup_size = 64\nact_order = true', ["gptq-3bit-g64-act_order"]),
        ('method = "rtn"\nsymmetric = [false, true]', ["rtn-4bit-g128-no_symmetric", "rtn-4bit-g128-symmetric"]),
        ('method = "gptq"\ndamping = 0.05', ["gptq-4bit-g128-damping:0.05"]),
        ('method = "wanda"\nsparsity = 0.5\norder = "stage"', ["wanda-0.5-order:stage"]),
        (
            'method = "awq"\nbits = [3, 4]\ncalibration = [{}, { languages = ["sw"] }]',
            ["awq-3bit-g128", "awq-3bit-g128-cal:sw", "awq-4bit-g128", "awq-4bit-g128-cal:sw"],
        ),
        ('method = "awq"\ncalibration = { languages = ["en", "sw"], samples = 8 }', ["awq-4bit-g128-cal:en+sw+samples:8"]),
        ('method = "awq"\nbackend = ["studyctl", "autoawq"]', ["awq-4bit-g128", "awq-4bit-g128@autoawq"]),
        ('method = ["sparsegpt", "gptq"]\nsparsity = 0.5\nbits = 4', ["sparsegpt+gptq-0.5-4bit-g128"]),
        ('method = "gptq"\ngrid = ["gguf:Q4_K_M", "gguf:Q4_0"]', ["gptq-Q4_K_M", "gptq-Q4_0"]),
        ('method = "gptq"\ngrid = "gguf:Q4_0"\ntarget = 0.5', ["gptq-Q4_0-target:0.5"]),
        ('method = "rtn"\ngrid = "gguf:Q4_0"', ["rtn-Q4_0"]),
        ('method = "gguf"\ntype = "Q4_K_M"\nimatrix = ["none", "calibration"]', ["gguf-Q4_K_M", "gguf-Q4_K_M-imatrix"]),
        ('method = "gptq"\ntarget = 0.5', ["gptq-4bit-g128-target:0.5"]),
    ],
)  # fmt: skip
def test_a_variant_is_named_by_what_is_not_a_default_or_is_swept(table: str, expected: list[str]) -> None:
    assert names(f"[[compression]]\n{table}") == ["dense", *expected]


def test_dense_is_always_there() -> None:
    assert names("") == ["dense"]


def test_a_variant_that_is_asked_for_twice_is_a_problem_at_the_second_table() -> None:
    twice = '[[compression]]\nmethod = "wanda"\nsparsity = 0.5\n' * 2
    variants, problems = expand_variants(document(twice))
    assert [variant.name for variant in variants] == ["dense", "wanda-0.5"]
    assert [(problem.what, problem.line) for problem in problems] == [
        ("variant `wanda-0.5` is asked for twice", 12)
    ]


def trial_ids(models: list[str], variants: list[Variant], seeds: tuple[int, ...] = (0,)) -> list[str]:
    data = CalibrationData(samples=4, sequence_length=16)
    calibrations = {variant.calibration: data for variant in variants if variant.calibration}
    planned = [
        PlannedModel(index, Model(id=model), None, "float32", calibrations=calibrations)
        for index, model in enumerate(models)
    ]
    return [trial.id for trial in make_trials(planned, variants, seeds)]


def test_a_trial_is_named_by_model_variant_and_seed() -> None:
    variants, _ = expand_variants(document('[[compression]]\nmethod = "wanda"\npattern = "2:4"'))
    assert trial_ids(["some/Model-1B"], variants) == ["Model-1B-dense", "Model-1B-wanda-2_4"]
    # Only what draws at random runs once for each seed.
    assert trial_ids(["some/Model-1B"], variants, (0, 7)) == [
        "Model-1B-dense",
        "Model-1B-wanda-2_4-s0",
        "Model-1B-wanda-2_4-s7",
    ]


def test_trials_that_would_collide_get_a_hash() -> None:
    variants, _ = expand_variants(document(""))
    ids = trial_ids(["one/Model", "two/model"], variants)
    assert len(set(name.lower() for name in ids)) == 2
    assert all(name.lower().startswith("model-dense-") for name in ids)


def test_a_filter_lets_only_its_models_in() -> None:
    variants, _ = expand_variants(document('[[compression]]\nmethod = "rtn"\nmodels = ["some/*"]'))
    assert trial_ids(["some/A", "other/B"], variants) == ["A-dense", "A-rtn-4bit-g128", "B-dense"]
