"""What ``studyctl plan`` estimates, compared with what the run then takes: before the first trial, and once dense is measured."""

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
from studyctl.plan.estimate import FACTOR
from studyctl.store.query import run_sql

CHECKOUT = Path(__file__).parents[1]
REAL = Path(os.environ.get("STUDYCTL_REAL", CHECKOUT.parent / "shared" / "real"))
MEMORY_GOAL = 2.0
"""Most that the bound may be, by what is used; at least it is 1."""
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


Row = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Estimated:
    """What ``studyctl plan`` says that a run takes."""

    seconds: float
    host_bytes: int
    """An upper bound."""


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
    table(("study", "estimated", "measured", "estimated / measured"), rows)
    note(
        "goals: before the first trial the measured time is in the estimated range, after dense the estimate is within "
        f"{TIME_GOAL_AFTER:.0%}; the bound of memory is 1 to {MEMORY_GOAL:g} times what is used; wall time of the whole command"
    )


def _compare(study: str, spec: Path, folder: Path) -> list[Row]:
    """Run dense, then the rest; return a row for each estimate."""
    _command("prefetch", spec, folder)  # downloads and conversions are no part of the estimate
    before = _estimated(spec, folder)
    dense_seconds = _command("run", spec, folder, "--only", "dense")
    after = _estimated(spec, folder)
    rest_seconds = _command("run", spec, folder)
    paths = StudyPaths(folder / "runs" / study)
    seconds = dense_seconds + rest_seconds
    least, most = before.seconds / FACTOR, before.seconds * FACTOR
    position = "in the range" if least <= seconds <= most else "under it" if seconds < least else "over it"
    return [
        (
            f"{study}, before the first trial: time",
            f"{least:.0f} to {most:.0f} s",
            f"{seconds:.0f} s",
            position,
        ),
        _memory_row(f"{study}, before the first trial", before.host_bytes, _peak(paths, "true")),
        (
            f"{study}, the rest after dense: time",
            f"{after.seconds:.0f} s",
            f"{rest_seconds:.0f} s",
            f"{after.seconds / rest_seconds:.2f} ×",
        ),
        _memory_row(f"{study}, the rest after dense", after.host_bytes, _peak(paths, "variant <> 'dense'")),
    ]


def _memory_row(label: str, bound: int, used: int) -> Row:
    mebi = 1 << 20
    return (
        f"{label}: host memory",
        f"{bound / mebi:.0f} MiB",
        f"{used / mebi:.0f} MiB",
        f"{bound / used:.2f} ×",
    )


def _estimated(spec: Path, folder: Path) -> Estimated:
    command = [STUDYCTL, "plan", str(spec), "--json"]
    done = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=True
    )
    estimate = json.loads(done.stdout)["estimate"]
    return Estimated(estimate["seconds"], estimate["host_bytes"])


def _command(verb: str, spec: Path, folder: Path, *options: str) -> float:
    return command_seconds([STUDYCTL, verb, str(spec), *options], folder, **_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment with an empty cache, so that the figures do not depend on what ran here before."""
    return dict(os.environ) | {"STUDYCTL_RUNS": str(folder / "runs"), "STUDYCTL_CACHE": str(folder / "cache")}


def _peak(paths: StudyPaths, where: str) -> int:
    peaks = run_sql(paths, f"SELECT max(peak_memory_bytes) AS peak FROM trials WHERE {where}")
    return int(peaks["peak"][0].as_py())
