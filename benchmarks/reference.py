"""Whether compression gives what the papers' own code gives: studies on the same models, calibration ids and test windows.

Each model is a study that ``studyctl run`` computes: the settings of the published code, and beside them the project's
defaults. What it measured stands beside the published code's figures: mean KL to dense, and perplexity in each language.
Of the largest model the published loops, computed here, are variants as well: a difference that they have too is the processor's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import published
from benchmarks.estimates import REAL, STUDYCTL
from benchmarks.page import note, table
from benchmarks.tasks import MODEL as SMOLLM2
from benchmarks.timing import command_seconds
from studyctl.export.folder import copy_beside
from studyctl.export.trial import files_to_copy
from studyctl.files import StudyPaths
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import load_model
from studyctl.spec.models import Model
from studyctl.store.query import run_sql

KL_GOAL = 0.05
PERPLEXITY_GOAL = 0.005
SETTINGS = {
    "dense": "dense",
    "magnitude-0.5": "magnitude-0.5",
    "rtn-3bit-g64": "rtn-3-g64",
    "rtn-4bit-g64": "rtn-4-g64",
    "wanda-0.5": "wanda-0.5",
    "wanda-2:4": "wanda-2:4",
    "sparsegpt-0.5-order:block": "sparsegpt-0.5",
    "sparsegpt-2:4-order:block": "sparsegpt-2:4",
    "gptq-3bit-g64-order:block": "gptq-3-g64",
    "gptq-3bit-g64-order:stage": "gptq-3-g64-stage",
    "gptq-4bit-g64-order:block": "gptq-4-g64",
    "gptq-4bit-g64-act_order-static_groups-order:block": "gptq-4-g64-actorder-static",
    "awq-3bit-g64-objective:block": "awq-3-g64",
    "awq-4bit-g64-objective:block": "awq-4-g64",
}
"""Variants of the studies, and what the published figures call them; the others are the project's defaults."""
LOOP = "published-"
"""Begins the names of the folders with what the published loops made."""
LOOPS = {"sparsegpt-0.5": published.sparsegpt(0.5), "gptq-4-g64": published.gptq(4, 64)}
"""The published loops, by what the published figures call them."""
PRUNING_AND_GRIDS = """
[[compression]]
method = "magnitude"
sparsity = 0.5

[[compression]]
method = "rtn"
bits = [3, 4]
group_size = 64

[[compression]]
method = "wanda"
sparsity = 0.5

[[compression]]
method = "sparsegpt"
sparsity = 0.5
order = ["block", "stage"]
"""
FOUR_BITS = """
[[compression]]
method = "gptq"
bits = 4
group_size = 64
order = ["block", "stage"]

[[compression]]
method = "awq"
bits = 4
group_size = 64
objective = ["block", "linear"]
"""
MORE = """
[[compression]]
method = "wanda"
pattern = "2:4"

[[compression]]
method = "sparsegpt"
pattern = "2:4"
order = "block"

[[compression]]
method = "gptq"
bits = 3
group_size = 64
order = ["block", "stage"]

[[compression]]
method = "gptq"
bits = 4
group_size = 64
act_order = true
static_groups = true
order = "block"

[[compression]]
method = "awq"
bits = 3
group_size = 64
objective = "block"
"""


class Case(NamedTuple):
    """A model that the published code was run on."""

    name: str
    id: str
    calibration: str
    windows: int
    compression: str
    loops: Mapping[str, published.Solve] = {}


MODELS = (
    Case(
        "slm-qwen2-6m",
        f"{REAL}/models/slm-qwen2-6m",
        "slm-qwen2-6m-64x512.npy",
        12,
        PRUNING_AND_GRIDS + FOUR_BITS + MORE,
    ),
    Case(
        "slm-llama-12m",
        f"{REAL}/models/slm-llama-12m",
        "slm-llama-12m-64x512.npy",
        12,
        PRUNING_AND_GRIDS + FOUR_BITS + MORE,
    ),
    Case("smollm2-135m", SMOLLM2, "smollm2-135m-16x512.npy", 4, PRUNING_AND_GRIDS + FOUR_BITS, LOOPS),
)
HEADER = ("model and variant", "KL, nats", "published", "difference", "perplexity off at most")


def main() -> None:
    if not REAL.is_dir():
        note(f"needs the models, text and published figures in {REAL}; STUDYCTL_REAL names another folder")
        return
    for model in MODELS:
        with TemporaryDirectory() as folder:
            table(HEADER, _compare(model, Path(folder)))
    note(
        f"float32; KL(dense || variant) is the mean of seven languages; goals: KL within {KL_GOAL:.0%}, the perplexity of "
        f"every language within {PERPLEXITY_GOAL:.1%}; rows without published figures are the project's defaults"
    )


def _compare(model: Case, folder: Path) -> list[tuple[str, ...]]:
    """Run the model's study; return a row for each variant."""
    spec = folder / f"{model.name}.toml"
    spec.write_text(_spec(model) + _by_loops(model, folder))
    runs = folder / "runs"
    command_seconds([STUDYCTL, "run", str(spec)], folder, STUDYCTL_RUNS=str(runs))
    lines = (REAL / "reference" / "figures.jsonl").read_text().splitlines()
    published = [json.loads(line) for line in lines]
    figures = {row["setting"]: row["languages"] for row in published if row["model"] == model.name}
    rows = []
    for variant, languages in _measured(StudyPaths(runs / model.name)).items():
        setting = variant.rpartition(LOOP)[2] if LOOP in variant else SETTINGS.get(variant, "")
        rows.append((f"{model.name} {variant}", *_cells(languages, figures.get(setting))))
    return rows


def _spec(model: Case) -> str:
    return f"""
[study]
name = "{model.name}"

[[models]]
id = "{model.id}"
dtype = "float32"
bos = "none"

[calibration]
ids = "{REAL}/reference/{model.calibration}"
{model.compression}
[text.corpus]
files = {{ perplexity = "{REAL}/corpus/{{language}}/test.jsonl" }}

[evaluation.perplexity]
source = "corpus"
languages = ["ar", "de", "en", "es", "ru", "sw", "zh"]
sequence_length = 512
windows = {model.windows}

[evaluation.fidelity]
metrics = ["kl"]
"""


def _by_loops(model: Case, folder: Path) -> str:
    """Compress the model by the published loops; return variants that are those."""
    ids = torch.from_numpy(np.load(REAL / "reference" / model.calibration)).long()
    variants = []
    for name, solve in model.loops.items():
        loaded = load_model(identify_model(Model(id=model.id), Path.cwd()), dtype="float32", device="cpu")
        published.compress(loaded.model, ids, solve)
        checkpoint = folder / f"{LOOP}{name}"
        loaded.model.save_pretrained(checkpoint)  # type: ignore[operator]
        with files_to_copy(loaded) as files:
            copy_beside(files, checkpoint)
        variants.append(f'[[compression]]\nmethod = "checkpoint"\nid = "{checkpoint}"\nof = "{model.id}"\n')
    return "\n".join(variants)


def _measured(paths: StudyPaths) -> dict[str, dict[str, tuple[float, float]]]:
    """Return perplexity and KL to dense, by variant and language."""
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    sql = """
        SELECT p.variant, p.language, p.perplexity, coalesce(f.kl_nats, 0) AS kl
        FROM perplexity p JOIN trials t USING (trial_id) LEFT JOIN fidelity f USING (trial_id, language)
        ORDER BY t.position, p.language
    """
    for row in run_sql(paths, sql).to_pylist():
        figures.setdefault(row["variant"], {})[row["language"]] = (row["perplexity"], row["kl"])
    return figures


def _cells(languages: dict[str, tuple[float, float]], figures: Any) -> tuple[str, ...]:
    """Return mean KL, the published one, by how much it is off, and the perplexity that is furthest off."""
    kl = sum(kl for _, kl in languages.values()) / len(languages)
    if figures is None:
        return f"{kl:.5f}", "", "", ""
    theirs = sum(one["kl"] for one in figures.values()) / len(figures)
    off = {name: perplexity / figures[name]["ppl"] - 1 for name, (perplexity, _) in languages.items()}
    furthest = max(off, key=lambda name: abs(off[name]))
    difference = f"{kl / theirs - 1:+.2%}" if theirs else ""
    return f"{kl:.5f}", f"{theirs:.5f}", difference, f"{off[furthest]:+.2%} ({furthest})"
