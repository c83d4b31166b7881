"""The model card tells what a folder is, without having to know the study."""

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import yaml

from studyctl.compress.weights.packing import Packing
from studyctl.contract.identity import FileIdentity, ModelIdentity, TextIdentity
from studyctl.contract.job import CalibrationData, Job
from studyctl.export.card import CardFacts, model_card
from studyctl.export.folder import Exported
from studyctl.store.figures import Figures
from studyctl.store.results import LanguageResult, Standing, TaskResult

_Row = TypeVar("_Row", bound=NamedTuple)


def row(kind: type[_Row], **values: Any) -> _Row:
    return kind(**(dict.fromkeys(kind._fields) | {"variant": "gptq-3bit-g64"} | values))


FIGURES = Figures(
    [
        row(
            LanguageResult, language="en", perplexity=22.0, dense_perplexity=20.0, ppl_ratio=1.1, ppl_ratio_low=1.05,
            ppl_ratio_high=1.152, kl_nats=0.0312, kl_nats_low=0.0299, kl_nats_high=0.0325, top1=0.91, bits_per_byte=1.3,
            dense_bits_per_byte=1.25, bits_per_byte_change=0.05, bits_per_byte_change_low=0.025,
            bits_per_byte_change_high=0.075, dense_knows=True,
        ),
        row(LanguageResult, language="sw", dense_perplexity=200.0, dense_knows=False),
    ],
    [
        row(TaskResult, task="boolq", metric="acc", value=0.61, stderr=0.01, dense_value=0.63, change=-0.02,
            change_low=-0.05, change_high=0.01, main=True, averaged=True, above_chance=False),
        row(TaskResult, task="arc", metric="acc", value=0.5, stderr=0.01, dense_value=0.52, change=-0.02, main=True,
            averaged=True, above_chance=True),
    ],
    row(
        Standing, tasks=2, acc=0.555, acc_change=-0.02, acc_change_low=-0.04, acc_change_high=0.0, tasks_above_chance=1,
        acc_above_chance=0.5, acc_change_above_chance=-0.02,
    ),
)  # fmt: skip
GPTQ = {
    "method": "gptq", "bits": 3, "group_size": 64, "symmetric": False, "act_order": True, "static_groups": False,
    "block_size": 128, "damping": 0.01, "order": "stage", "propagate": "compressed",
}  # fmt: skip
CALIBRATION = CalibrationData(
    samples=128,
    sequence_length=2048,
    texts=tuple(
        TextIdentity(
            "c4",
            "calibration",
            language,
            "t",
            files=(FileIdentity(Path("/somewhere/c4", language), "0" * 64),),
        )
        for language in ("en", "sw")
    ),
)
PACKING = Packing(4, 64, symmetric=False, indexed=True)


def facts(
    settings: dict[str, Any] = GPTQ,
    packing: Packing | None = PACKING,
    *,
    figures: Figures = FIGURES,
    why_plain: str = "",
    dtype: str = "bfloat16",
    sparsity: float = 0.0,
    base: ModelIdentity | None = None,
) -> CardFacts:
    job = Job(
        root=Path("/somewhere/runs/mine"), trial="Small-gptq-3bit-g64", attempt=1,
        model=ModelIdentity(id="org/Small", kind="hub", key="k", revision="v2"), method=settings["method"],
        variant="gptq-3bit-g64", backend="studyctl", settings=settings, calibration=CALIBRATION,
        calibration_settings={"source": "c4"}, seed=7, weights_key="w", dense_key="d", weights_hash="h", steps=(), evaluations=(),
        device="cpu", dtype=dtype, threads=1, batch_tokens=1,
    )  # fmt: skip
    exported = Exported(
        folder=Path("/somewhere/else"), format="pack-quantized" if packing else "safetensors", dtype=dtype,
        packing=packing, why_plain=why_plain, weight_files=2, weight_bytes=3 << 20, block_bits_per_weight=4.3456,
        model_bits_per_weight=5.5, logit_difference=0.0,
    )  # fmt: skip
    versions = {
        "studyctl": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "compressed-tensors": "0.17.1",
    }
    base = base or ModelIdentity(id="org/Small", kind="hub", key="k", commit="c0ffee")
    return CardFacts(job, base, exported, "f00d", 3.3, sparsity, figures, versions)


def test_the_header_is_what_hubs_read() -> None:
    header = yaml.safe_load(model_card(facts()).split("---")[1])
    assert header == {
        "base_model": "org/Small",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["studyctl", "gptq", "compressed-tensors"],
    }


@pytest.mark.parametrize(
    "line",
    [
        "# Small: gptq-3bit-g64",
        "| base model | `org/Small`, commit `c0ffee` |",
        "| revision | `v2` |",
        "| settings | `bits = 3`, `group_size = 64`, `symmetric = false`, `act_order = true`, `static_groups = false`, "
        "`block_size = 128`, `damping = 0.01`, `order = stage`, `propagate = compressed`, `target = 0.0` |",
        "| calibration | `c4`, en, sw: 128 windows of 2048 tokens |",
        "| seed | 7 |",
        "| study, trial | mine, `Small-gptq-3bit-g64` |",
        "| weights | `f00d` (SHA-256 of the decoder blocks' parameters) |",
        "| by the settings, linears of the blocks | 3.30 |",
        "| as stored, linears of the blocks | 4.35 |",
        "| as stored, whole model | 5.50 |",
        "3.0 MiB in 2 files, codes packed at 4 bits, scales in bfloat16.",
        "Codes of 3 bits are stored at 4, the next width that loaders support.",
        "| en | 22.00 | ×1.100 (1.050 to 1.152) | 0.0312 (0.0299 to 0.0325) | 0.910 | 1.300 | +0.050 (+0.025 to +0.075) |",
        "| sw | – | – | – | – | – | – |",
        "The dense model does not know sw: it predicts the text no better than bzip2.",
        "| boolq | acc | 0.610 | 0.010 | −0.020 (−0.050 to +0.010), at chance |",
        "| arc | acc | 0.500 | 0.010 | −0.020 |",
        "Mean of 2 tasks: 0.555, change −0.020 (−0.040 to 0.000); of the 1 above chance: 0.500, change −0.020.",
        "In brackets: 95 % intervals over windows of these texts and items of these tasks, not over other languages or "
        "models. Where one holds no change (×1, 0), none can be excluded.",
        "Without brackets: fewer than 4 windows or items, or measured by an earlier version.",
        "| compressed-tensors | 0.17.1 |",
        'model = AutoModelForCausalLM.from_pretrained("this/folder", dtype="auto")',
    ],
)
def test_it_tells(line: str) -> None:
    assert line in model_card(facts()).splitlines()


def test_it_names_no_place_on_this_machine() -> None:
    card = facts()
    assert "/somewhere" not in model_card(card)
    assert "/somewhere" not in json.dumps(card.as_dict())


def test_programs_find_the_same() -> None:
    about = json.loads(json.dumps(facts().as_dict()))
    assert about["weights_key"] == "w"
    assert about["weights_hash"] == "f00d"
    assert about["settings"] == GPTQ
    assert about["calibration"] == {"source": "c4"}
    assert about["export"]["packing"] == {"bits": 4, "group_size": 64, "symmetric": False, "indexed": True}
    task = about["figures"]["tasks"][0]
    assert (task["task"], task["value"], task["dense_value"], task["above_chance"]) == (
        "boolq",
        0.61,
        0.63,
        False,
    )
    assert (task["change_low"], task["change_high"]) == (-0.05, 0.01)
    assert about["figures"]["languages"][0]["ppl_ratio_high"] == 1.152
    assert "variant" not in task, "that of the card"


@pytest.mark.parametrize(
    ("packing", "versions"),
    [
        (Packing(4, 64, False, False), "0.15.0.1 to 0.17.1 with transformers 5"),
        (Packing(4, 64, True, False), "0.9.3 to 0.20.0 with transformers 4.51 to 5"),
        (Packing(4, 64, True, True), "0.9.3 to 0.18.0 with transformers 4.51 to 5"),
    ],
)
def test_it_names_the_versions_that_load_it(packing: Packing, versions: str) -> None:
    assert f"is read by compressed-tensors {versions}." in model_card(facts(packing=packing))


def test_it_says_what_vllm_has_no_kernel_for() -> None:
    assert "no kernel" not in model_card(facts())
    card = model_card(facts(packing=Packing(8, 16, False, False), dtype="float32"))
    assert "no kernel for groups of 16" in card
    assert "zero points at 8 bits" in card
    assert "float32" in card


def test_weights_on_a_grid_that_are_plain_say_why() -> None:
    card = model_card(facts(packing=None, why_plain="the format cannot hold it"))
    assert "are quantized but stored plain: the format cannot hold it." in card
    assert "Plain safetensors" in card


def test_pruned_weights_say_that_the_file_is_as_large() -> None:
    pruned = {"method": "wanda", "sparsity": 0.5, "pattern": None}
    card = model_card(facts(pruned, None, sparsity=0.5))
    assert "50.0 % of the blocks' weights are zero" in card
    assert "the file is as large as the dense one" in card
    assert "no runtime gains from its zeros" in card


def test_a_model_from_a_folder_is_named_by_its_contents() -> None:
    card = model_card(facts(base=ModelIdentity(id="./mine", kind="folder", key="abc", folder=Path("/x"))))
    assert "base_model" not in card
    assert "| contents | `abc` (hash of weights, config and tokenizer) |" in card.splitlines()


def test_dense_is_compared_with_nothing() -> None:
    languages = [one._replace(variant="dense") for one in FIGURES.languages]
    card = model_card(facts(figures=Figures(languages, [], row(Standing, variant="dense"))))
    assert "| en | 22.00 | – | 0.0312 (0.0299 to 0.0325) | 0.910 | 1.300 | – |" in card
    assert "brackets" not in card


def test_nothing_measured_is_said() -> None:
    assert "Nothing has been measured for this variant yet." in model_card(
        facts(figures=Figures([], [], FIGURES.means))
    )
