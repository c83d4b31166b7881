"""The page on adding a method, a metric and a model family: its changes apply, and a study runs with them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Starcoder2Config, Starcoder2ForCausalLM

from studyctl.files import StudyPaths
from tests.run.studies import SIZES, write_spec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extend.md"
VARIANTS = """
[[compression]]
method = "row_magnitude"
sparsity = 0.5

[[compression]]
method = "awq"
bits = 4
group_size = 16
"""
FIGURES = """
SELECT t.variant, t.state, t.sparsity, avg(f.top1) AS top1, avg(f.top5) AS top5
FROM trials t LEFT JOIN fidelity f USING (trial_id) GROUP BY ALL ORDER BY t.variant
"""
WARNINGS = "SELECT message FROM warnings WHERE variant LIKE 'awq%' AND message LIKE '%take over a scale%'"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project with the changes of the page."""
    folder = tmp_path / "checkout"
    for name in ("studyctl", "tui", "specs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for diff in re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), flags=re.S | re.M):
        # Outside of a repository: git would leave out what is not in this one.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(command, input=diff, cwd=folder, env=environment, text=True, check=True)
    return folder


def make_starcoder(folder: Path, tokenizer: Path) -> None:
    torch.manual_seed(0)
    config = Starcoder2Config(**SIZES, tie_word_embeddings=False, initializer_range=0.2)
    Starcoder2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def test_a_study_runs_with_what_the_page_adds(checkout: Path, sources: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(sources, work)
    make_starcoder(work / "starcoder", work / "tiny")
    spec = write_spec(work, change=('id = "./tiny"', 'id = "./starcoder"'))
    text = re.sub(r"\[\[compression\]\].*?(?=\[text)", VARIANTS, spec.read_text(), flags=re.S)
    spec.write_text(
        text.replace("[evaluation.fidelity]", '[evaluation.fidelity]\nmetrics = ["kl", "top1", "top5"]')
    )

    def studyctl(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'tui'}"}
        command = [sys.executable, "-m", "studyctl", *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    studyctl("run", "small.toml")
    rows = [line.split(",") for line in studyctl("sql", "small", FIGURES, "--format", "csv").splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["awq-4bit-g16", "done"],
        ["dense", "done"],
        ["row_magnitude-0.5", "done"],
    ]
    assert float(rows[2][2]) == pytest.approx(0.5, abs=0.01)
    top1, top5 = map(float, rows[2][3:])
    assert 0 < top1 < top5 <= 1  # of the five likeliest tokens one is the likeliest
    # GELU comes before the last linear; all other scales have a place, or are left out as in the paper's code (shared values).
    messages = studyctl("sql", "small", WARNINGS, "--format", "csv")
    assert re.findall(r"before `([\w.]+)`", messages) == ["mlp.c_proj"]
    assert StudyPaths(work / "runs" / "small").database.exists()
