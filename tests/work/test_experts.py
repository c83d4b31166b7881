"""A study of a mixture of experts, whose files hold experts one by one where the model holds them together."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import MixtralConfig, MixtralForCausalLM

from studyctl.errors import ExitCode
from studyctl.export.folder import verify
from studyctl.files import StudyPaths
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import has_names_of_files, load_model
from studyctl.spec.models import Model
from tests.run.studies import SIZES, write_spec
from tests.run.test_converge import rows, run

KEEP = ("[execution]", "[execution]\nkeep_weights = true")


def with_experts(folder: Path) -> None:
    config = MixtralConfig(**SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8})
    MixtralForCausalLM(config).save_pretrained(folder)


def test_a_variant_after_another_gets_the_weights_that_it_gets_alone(
    workplace: Path, console: Console
) -> None:
    with_experts(workplace / "tiny")
    alone = shutil.copytree(workplace, workplace / "alone", ignore=shutil.ignore_patterns("alone"))
    both = run(write_spec(workplace), console)
    assert both.code == ExitCode.DONE
    only = run_study(
        write_spec(alone), Selection(only=("*-rtn-*",)), console, root=StudyPaths(alone / "runs" / "small")
    )
    query = "select weights_hash from steps where variant = 'rtn-4bit-g16' and step = 'compress'"
    assert rows(both.paths, query) == rows(only.paths, query)

    walked = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 4 * 3 * 32 * 64)
    routers = 2 * 4 * 32
    (row,) = rows(both.paths, "select bits_per_weight, sparsity from trials where variant = 'wanda-0.5'")
    assert row["bits_per_weight"] == (9 * walked + 16 * routers) / (walked + routers)
    assert abs(float(str(row["sparsity"])) - 0.5 * walked / (walked + routers)) < 1e-3
    (counted,) = rows(both.paths, "select sum(weights) as weights from layers where variant = 'wanda-0.5'")
    assert int(str(counted["weights"])) == walked


def test_kept_weights_of_experts_are_plain_and_say_why(workplace: Path, console: Console) -> None:
    with_experts(workplace / "tiny")
    started = run(write_spec(workplace, change=KEEP), console, Selection(only=("*-rtn-*",)))
    assert started.code == ExitCode.DONE
    folder = started.paths.exported("tiny-rtn-4bit-g16").resolve()
    card = (folder / "README.md").read_text()
    assert "the format holds modules of the class Linear only, and model.layers.0.mlp.experts.0" in card
    identity = identify_model(Model(id=str(folder)), folder)
    loaded = load_model(identity, dtype="float32", device="cpu")
    model: Any = loaded.model
    assert not has_names_of_files(model)
    assert verify(model, folder) == 0
