"""What ``studyctl plan`` foretells against what the run then takes: before the first trial, and once dense is measured."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.page import note, table
from benchmarks.timing import command_seconds
from studyctl.files import StudyPaths
from studyctl.store.query import run_sql

CHECKOUT = Path(__file__).parents[1]
REAL = Path(os.environ.get("STUDYCTL_REAL", CHECKOUT.parent / "shared" / "real"))
MEMORY_GOAL = 0.25
TIME_GOAL_BEFORE = 2.0
TIME_GOAL_AFTER = 0.2
STUDYCTL = str(Path(sys.executable).with_name("studyctl"))
REAL_SPEC = f"""
[study]
name = "real"

[[models]]
id = "{REAL}/models/slm-llama-12m"

[[models]]
id = "{REAL}/models/slm-qwen2-6m"

[calibration]
source = "corpus"
languages = ["en", "sw"]
samples = 32
sequence_length = 256

[[compression]]
method = "wanda"
sparsity = [0.3, 0.5]

[[compression]]
method = "rtn"
bits = [3, 4]
group_size = 64

[text.corpus]
files = {{ calibration = "{REAL}/corpus/{{language}}/train.jsonl", perplexity = "{REAL}/corpus/{{language}}/test.jsonl" }}

[evaluation.perplexity]
source = "corpus"
languages = ["ar", "de", "en", "es", "ru", "sw", "zh"]
sequence_length = 256
windows = 32

[evaluation.fidelity]

[evaluation.tasks]
names = ["pocket_science_easy", "pocket_pronoun"]
include = ["pocket"]
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes, foretold or measured."""

    seconds: float
    host_bytes: int


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        specs = {"pocket": CHECKOUT / "specs" / "pocket.toml"}
        if REAL.is_dir():
            specs["real"] = folder / "real.toml"
            specs["real"].write_text(REAL_SPEC)
        else:
            note(f"no real models at {REAL} (STUDYCTL_REAL moves it): the pocket study only")
        rows = [row for study, spec in specs.items() for row in _compare(study, spec, folder)]
    table(("study", "foretold", "measured", "foretold / measured"), rows)
    note(
        f"goals: memory within {MEMORY_GOAL:.0%}; time within a factor of {TIME_GOAL_BEFORE:g} before the first trial, "
        f"within {TIME_GOAL_AFTER:.0%} after dense; wall time of the whole command"
    )


def _compare(study: str, spec: Path, folder: Path) -> list[tuple[str, str, str, str]]:
    """Run dense, then the rest; return a row for each estimate."""
    _command("prefetch", spec, folder)  # downloads and conversions are no part of the estimate
    before = _foretold(spec, folder)
    dense_seconds = _command("run", spec, folder, "--only", "dense")
    after = _foretold(spec, folder)
    rest_seconds = _command("run", spec, folder)
    paths = StudyPaths(folder / "runs" / study)
    whole = Cost(dense_seconds + rest_seconds, _peak(paths, "true"))
    rest = Cost(rest_seconds, _peak(paths, "variant <> 'dense'"))
    return [
        *_rows(f"{study}, before the first trial", before, whole),
        *_rows(f"{study}, the rest after dense", after, rest),
    ]


def _rows(label: str, foretold: Cost, measured: Cost) -> list[tuple[str, str, str, str]]:
    mebi = 1 << 20
    seconds = foretold.seconds / measured.seconds
    memory = foretold.host_bytes / measured.host_bytes
    return [
        (f"{label}: time", f"{foretold.seconds:.0f} s", f"{measured.seconds:.0f} s", f"{seconds:.2f} ×"),
        (
            f"{label}: host memory",
            f"{foretold.host_bytes / mebi:.0f} MiB",
            f"{measured.host_bytes / mebi:.0f} MiB",
            f"{memory:.2f} ×",
        ),
    ]


def _foretold(spec: Path, folder: Path) -> Cost:
    command = [STUDYCTL, "plan", str(spec), "--json"]
    done = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=True
    )
    estimate = json.loads(done.stdout)["estimate"]
    return Cost(estimate["seconds"], estimate["host_bytes"])


def _command(verb: str, spec: Path, folder: Path, *options: str) -> float:
    return command_seconds([STUDYCTL, verb, str(spec), *options], folder, **_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment with an empty cache, so that the figures do not depend on what ran here before."""
    return dict(os.environ) | {"STUDYCTL_RUNS": str(folder / "runs"), "STUDYCTL_CACHE": str(folder / "cache")}


def _peak(paths: StudyPaths, where: str) -> int:
    found = run_sql(paths, f"SELECT max(peak_memory_bytes) AS peak FROM trials WHERE {where}")
    return int(found["peak"][0].as_py())
