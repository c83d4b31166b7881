"""The packages themselves, each in its environment where that is synced: every method that a CPU can run, on a tiny model."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from studyctl.backends import tiny_model
from studyctl.backends.catalog import BACKENDS
from studyctl.backends.environments import environment
from studyctl.backends.exchange import call_driver
from studyctl.compress.walk.architectures import block_linears
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.compressed import Compressed
from studyctl.files import StudyPaths, cache_folder
from studyctl.reporter import SilentReporter
from studyctl.work.backend import compress_with_backend
from tests.thorough import THOROUGH
from tests.work.test_backend import dense_model, job_of

pytestmark = [pytest.mark.backends, pytest.mark.slow]
REAL_CACHE = cache_folder()
"""The user's own, as it is before any test moves it."""
takes_long = pytest.mark.skipif(
    not THOROUGH,
    reason="imports a package once more for the simplest method: set STUDYCTL_REFERENCE=all",
)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the package has this on CUDA devices only"
)
GROUP = 32
QUANTIZED = f"bits = 4\ngroup_size = {GROUP}"


def synced(name: str, cache: Path) -> Path:
    """Make the user's environment that of the test's cache; skip where there is none. Return its interpreter."""
    (cache / "backends").mkdir(parents=True)
    (cache / "backends" / name).symlink_to(REAL_CACHE / "backends" / name)
    target = environment(BACKENDS[name])
    if target.state != "synced":
        pytest.skip(f"the environment of {name} is {target.state} here: studyctl backends sync {name}")
    return target.python


class Heard(SilentReporter):
    """Keeps the progress that it hears of."""

    def __init__(self) -> None:
        self.progressed: list[tuple[float, float]] = []

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.progressed.append((done, total))


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    """A study of a llama that is large enough for the packages' kernels."""
    shutil.copytree(sources, tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "tiny")
    tiny_model.main(tmp_path / "study" / "tiny")
    return tmp_path / "study"


def both(folder: Path, name: str, table: str) -> tuple[Compressed, Compressed, dict[str, torch.Tensor]]:
    """Compress by a package and by studyctl; return what both made, and the dense weights."""
    job = job_of(folder, f'{table}\nbackend = "{name}"')
    StudyPaths(job.root).logs.mkdir(parents=True, exist_ok=True)
    ids = np.load(folder / "tiny" / "ids.npy").astype(np.int64)
    loaded = dense_model(job)
    dense = {name: linear.weight.clone() for name, linear in block_linears(loaded.model).items()}
    heard = Heard()
    needed = ids if job.settings.needs_data else None
    made, outcome = compress_with_backend(job, loaded, needed, heard)  # type: ignore[arg-type]
    assert outcome.versions[BACKENDS[name].package] == BACKENDS[name].version
    assert outcome.seconds > 0
    assert outcome.peak_memory_bytes > 100_000_000
    if needed is not None:
        assert heard.progressed, "it reports how far it is"
        assert all(0 <= done <= total == 2 for done, total in heard.progressed)
    ours = compress(
        dense_model(job).model,
        job.settings,
        torch.from_numpy(ids) if needed is not None else None,
        batch_tokens=256,
        reporter=SilentReporter(),
    )
    return made, ours, dense


def error(made: Compressed, dense: dict[str, torch.Tensor]) -> float:
    """Return how far the weights are from the dense ones, relative to these."""
    off = sum(float((made.linears[name].weight - weight).square().sum()) for name, weight in dense.items())
    return off / sum(float(weight.square().sum()) for weight in dense.values())


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        pytest.param("gptqmodel", "rtn", "", marks=takes_long),
        ("gptqmodel", "gptq", "symmetric = true"),
        pytest.param("llm-compressor", "rtn", "symmetric = true", marks=takes_long),
        ("llm-compressor", "gptq", "act_order = true\nstatic_groups = true"),
        pytest.param("auto-gptq", "gptq", "", marks=needs_cuda),
    ],
    ids=["gptqmodel-rtn", "gptqmodel-gptq", "llm-compressor-rtn", "llm-compressor-gptq", "auto-gptq-gptq"],
)
def test_rounding_gives_weights_on_the_grid_that_the_spec_asks_for(
    folder: Path, cache: Path, name: str, method: str, options: str
) -> None:
    synced(name, cache)
    made, ours, dense = both(folder, name, f'method = "{method}"\n{QUANTIZED}\n{options}')
    for linear in made.linears.values():
        for group in linear.weight.reshape(-1, GROUP)[:64]:
            assert len(group.unique()) <= 16
    assert 4.5 <= made.bits_per_weight <= 6.5, (
        "codes, scales, zeros, and what else the package stores of a linear"
    )
    assert made.sparsity < 0.2
    assert error(made, dense) == pytest.approx(error(ours, dense), rel=0.35)
    assert made.parameters == {}, "nothing but linears is changed"


@pytest.mark.parametrize("name", ["autoawq", pytest.param("llm-compressor", marks=needs_cuda)])
def test_awq_moves_scales_into_norms_and_rounds(folder: Path, cache: Path, name: str) -> None:
    synced(name, cache)
    made, _, dense = both(folder, name, f'method = "awq"\n{QUANTIZED}')
    assert 4.5 <= made.bits_per_weight <= 6.5
    assert set(made.parameters) <= {
        f"model.layers.{block}.{norm}.weight"
        for block in range(2)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    assert all(not torch.equal(made.linears[linear].weight, dense[linear]) for linear in dense)


@pytest.mark.parametrize(
    ("method", "share"),
    [("sparsegpt", "sparsity = 0.5"), ("wanda", 'pattern = "1:4"')],
    ids=["sparsegpt", "wanda-1:4"],
)
def test_pruning_leaves_the_zeros_that_the_spec_asks_for(
    folder: Path, cache: Path, method: str, share: str
) -> None:
    synced("llm-compressor", cache)
    made, ours, dense = both(folder, "llm-compressor", f'method = "{method}"\n{share}')
    pattern = "pattern" in share
    assert made.sparsity == pytest.approx(0.75 if pattern else 0.5, abs=0.01)
    assert made.bits_per_weight == (5.0 if pattern else 9.0)
    for linear in made.linears.values():
        if pattern:
            assert ((linear.weight.reshape(-1, 4) != 0).sum(1) <= 1).all(), (
                "n of every m are kept, not pruned"
            )
    assert error(made, dense) == pytest.approx(error(ours, dense), rel=0.1)


def test_autogptq_can_be_imported_on_a_cpu(cache: Path, tmp_path: Path) -> None:
    python = synced("auto-gptq", cache)
    outcome = call_driver(python, BACKENDS["auto-gptq"].adapter, None, log=tmp_path / "log")
    assert outcome.failure is None
    assert outcome.versions["auto-gptq"] == BACKENDS["auto-gptq"].version
