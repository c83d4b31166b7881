"""On a simulated CUDA device every method gives the figures of the CPU, also after a kill, and what is exported is the same.

The simulation is a tool beside the project, not part of it; ``STUDYCTL_CUDA_TWIN`` names its ``run``. Tensors say that they are on
``cuda:0``: mixed devices, numpy of a CUDA tensor and the like raise as on a GPU.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from safetensors.numpy import load_file

from studyctl.files import StudyPaths
from tests.run.studies import SPEC, make_sources
from tests.work.test_experts import with_experts

ROOT = Path(__file__).parents[2]
TWIN = Path(os.environ.get("STUDYCTL_CUDA_TWIN", ROOT.parent / "shared" / "tools" / "cuda-twin" / "run"))
ITS_TORCH = Path(os.environ.get("CUDA_TWIN_ENV", Path.home() / ".cache" / "cuda-twin")) / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TWIN.is_file(), reason=f"{TWIN} is not here; STUDYCTL_CUDA_TWIN names it"),
    pytest.mark.skipif(
        not ITS_TORCH.exists(),
        reason=f"its torch, 4.6 GB, is not in {ITS_TORCH.parent}: `{TWIN} CHECKOUT --version` installs it",
    ),
]

VARIANTS = """
[[compression]]
models = ["./tiny"]
method = "magnitude"
sparsity = 0.5

[[compression]]
models = ["./tiny"]
method = "wanda"
pattern = "2:4"

[[compression]]
models = ["./tiny"]
method = "sparsegpt"
sparsity = 0.5

[[compression]]
models = ["./tiny", "./experts"]
method = "gptq"
bits = 4
group_size = 16
act_order = true
static_groups = true

[[compression]]
models = ["./tiny", "./half"]
method = "awq"
bits = 3
group_size = 16
ratios = 4
objective = ["linear", "block"]

[[compression]]
method = ["sparsegpt", "awq"]
sparsity = 0.5
bits = 4
group_size = 16
ratios = 4
objective = "block"
weight_term = true
"""
MODELS = """
[[models]]
id = "./tiny"
dtype = "float32"

[[models]]
id = "./half"
dtype = "bfloat16"

[[models]]
id = "./experts"
dtype = "float32"
"""
EXPORTED = "tiny-awq-3bit-g16-objective_block"
FIGURES = (
    "select trial_id, bits_per_weight, sparsity, acc, perplexity from perplexity_vs_dense join leaderboard using (trial_id)"
    " order by trial_id, language"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources; a study on the CPU, and the same on the twin, which was killed once in the middle."""
    folder = tmp_path_factory.mktemp("twin")
    make_sources(folder)
    shutil.copytree(folder / "tiny", folder / "half")
    shutil.copytree(folder / "tiny", folder / "experts")
    with_experts(folder / "experts")
    checkout = folder / "checkout"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "studyctl").symlink_to(ROOT / "studyctl")
    text = SPEC.format(languages='["en", "de"]', execution="retries = 0")
    models, variants = text.index("[[models]]"), text.index("[[compression]]")
    text = (
        text[:models]
        + MODELS
        + text[text.index("[calibration]") : variants]
        + VARIANTS
        + text[text.index("[text.mine]") :]
    )
    (folder / "cpu.toml").write_text(text.replace('"small"', '"cpu"'))
    (folder / "gpu.toml").write_text(
        text.replace('"small"', '"gpu"').replace('devices = "cpu"', 'devices = "cuda:0"')
    )
    call(folder, "run", "cpu.toml")
    kill_in_the_middle(folder)
    call(folder, "run", "gpu.toml", twin=True)
    call(folder, "export", "cpu", EXPORTED, "cpu-out")
    call(folder, "export", "gpu", EXPORTED, "gpu-out", twin=True)
    return folder


def command(folder: Path, *arguments: str, twin: bool) -> list[str]:
    on_twin = [str(TWIN), str(folder / "checkout")]
    return [*(on_twin if twin else [sys.executable, "-m", "studyctl"]), *arguments]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"STUDYCTL_CACHE": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}


def call(folder: Path, *arguments: str, twin: bool = False) -> None:
    done = subprocess.run(
        command(folder, *arguments, twin=twin),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def kill_in_the_middle(folder: Path) -> None:
    """Kill runner and worker when a quantized model has been stored and is being measured."""
    with subprocess.Popen(
        command(folder, "run", "gpu.toml", twin=True),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "gptq" in line and "compress" in line:
                os.killpg(process.pid, signal.SIGKILL)
                return
        pytest.fail("".join(lines))


def figures(folder: Path, study: str) -> dict[tuple[str, int], tuple[float, ...]]:
    """By trial and language."""
    with duckdb.connect(str(StudyPaths(folder / "runs" / study).database), read_only=True) as database:
        rows = database.execute(FIGURES).fetchall()
    return {(trial, number): tuple(figures) for number, (trial, *figures) in enumerate(rows)}


def test_the_figures_are_those_of_the_cpu(folder: Path) -> None:
    cpu, gpu = figures(folder, "cpu"), figures(folder, "gpu")
    assert cpu.keys() == gpu.keys()
    assert len(cpu) == 2 * (8 + 4 + 3)
    for (trial, number), (bits, sparsity, accuracy, perplexity) in cpu.items():
        single = not trial.startswith("half")
        expected = (
            pytest.approx(bits, rel=1e-4),
            pytest.approx(sparsity, rel=1e-4 if single else 0.01),
            pytest.approx(accuracy, abs=0 if single else 1 / 12),
            pytest.approx(perplexity, rel=1e-4 if single else 3e-3),
        )
        assert gpu[trial, number] == expected, trial


def test_what_is_exported_is_the_same(folder: Path) -> None:
    cpu, gpu = (load_file(folder / f"{study}-out" / "model.safetensors") for study in ("cpu", "gpu"))
    assert cpu.keys() == gpu.keys()
    for name, tensor in cpu.items():
        assert gpu[name] == pytest.approx(tensor, rel=1e-5, abs=1e-6), name
