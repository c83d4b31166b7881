"""What a plan knows of deployment: servers that load a folder, and grids that runtimes compute slowly."""

from pathlib import Path

import pytest

from studyctl.contract.methods import METHODS, Checkpoint, MethodSettings, RTNOnGguf
from studyctl.contract.servers import LOADS, UNPACKED, Server, loaded_by
from studyctl.errors import Problem
from studyctl.llama import FOLDER, find_llama
from studyctl.plan.planner import make_plan
from studyctl.plan.saved import planned
from studyctl.spec.loading import load_spec, self_contained
from tests.run.conftest import workplace
from tests.run.studies import write_spec

__all__ = ["workplace"]

SHAPES = ((128, 256), (256, 128))


def settings(method: str, **options: object) -> MethodSettings:
    return METHODS[method].settings(method=method, **options)


@pytest.mark.parametrize(
    ("variant", "gpu", "cpu"),
    [
        pytest.param(settings("dense"), LOADS, LOADS, id="dense"),
        pytest.param(settings("wanda", sparsity=0.5), LOADS, LOADS, id="pruned"),
        pytest.param(settings("gptq", bits=4, group_size=128), LOADS, LOADS, id="4 bits with zero points"),
        pytest.param(settings("rtn", bits=3, group_size=32), LOADS, LOADS, id="3 bits are stored in 4"),
        pytest.param(settings("rtn", bits=4, group_size=0), LOADS, LOADS, id="a scale a row"),
        pytest.param(
            settings("rtn", bits=4, group_size=16),
            "no kernel for groups of 16 (32, 64, 128 or a whole channel)",
            LOADS,
            id="groups of 16",
        ),
        pytest.param(
            settings("rtn", bits=8, group_size=64, symmetric=True),
            LOADS,
            "no kernel for 8 bits as stored (4)",
            id="8 bits without zero points",
        ),
        pytest.param(
            settings("rtn", bits=5, group_size=64),
            "no kernel for zero points at 8 bits (symmetric, or 4 bits)",
            "no kernel for 8 bits as stored (4)",
            id="5 bits are stored in 8",
        ),
        pytest.param(RTNOnGguf(grid="gguf:Q4_0"), UNPACKED, UNPACKED, id="llama.cpp's blocks"),
    ],
)
def test_which_server_loads_a_folder(variant: MethodSettings, gpu: str, cpu: str) -> None:
    expected = {
        Server.TRANSFORMERS: UNPACKED if gpu == UNPACKED else LOADS,
        Server.VLLM_GPU: gpu,
        Server.VLLM_CPU: cpu,
    }
    assert loaded_by(variant, SHAPES) == expected


def test_linears_of_odd_sizes_have_no_kernel_on_a_cpu() -> None:
    loaded = loaded_by(settings("rtn", bits=4, group_size=0), [(128, 100), (60, 128)])
    assert loaded[Server.VLLM_CPU] == "no kernel for linears of 60, 100 inputs or outputs (multiples of 32)"


def test_a_checkpoint_has_files_of_its_own() -> None:
    assert not loaded_by(Checkpoint(method="checkpoint", id="a/b", of="a"), SHAPES)


def warnings(folder: Path, change: tuple[str, str]) -> list[Problem]:
    plan = make_plan(load_spec(write_spec(folder, change=change)))
    assert not plan.errors
    return [problem for problem in plan.problems if problem.severity == "warning"]


SPEED = "\n[evaluation.speed]\n"


def test_asymmetric_grids_are_slow_in_llama_cpp(workplace: Path) -> None:
    if find_llama() is None:
        pytest.skip(f"llama.cpp is not here; {FOLDER} names its folder")
    texts = [
        problem.what for problem in warnings(workplace, ("[evaluation.tasks]", f"{SPEED}[evaluation.tasks]"))
    ]
    assert any("`rtn-4bit-g16`: llama.cpp has asymmetric grids as Q4_1" in text for text in texts)
    assert any("its dense file has 32 bits a weight" in text for text in texts)
    symmetric = "bits = 4\nsymmetric = true"
    folder = write_spec(workplace, change=("[evaluation.tasks]", f"{SPEED}[evaluation.tasks]"))
    folder.write_text(folder.read_text().replace("bits = 4", symmetric).replace("float32", "bfloat16"))
    assert not [problem for problem in make_plan(load_spec(folder)).problems if "llama.cpp" in problem.what]


def test_eight_bits_with_zero_points_have_no_kernel_in_vllm(workplace: Path) -> None:
    assert not warnings(workplace, ("bits = 4", "bits = [4, 6, 8]"))  # nobody deploys anything
    path = write_spec(workplace, execution="keep_weights = true", change=("bits = 4", "bits = [4, 6, 8]"))
    (problem,) = make_plan(load_spec(path)).problems
    assert "`rtn-6bit-g16`, `rtn-8bit-g16`: vLLM has no GPU kernel for zero points at 8 bits" in problem.what
    assert problem.line is not None
    path.write_text(path.read_text().replace("bits = [4, 6, 8]", "bits = 8\nsymmetric = true"))
    assert not make_plan(load_spec(path)).problems


def test_the_plan_holds_which_server_loads_a_trial(workplace: Path) -> None:
    document = load_spec(write_spec(workplace))
    trials = planned(make_plan(document), self_contained(document)).trials
    by_variant = {trial.variant: trial.servers for trial in trials}
    assert by_variant["wanda-0.5"][Server.VLLM_GPU] == LOADS
    assert by_variant["rtn-4bit-g16"][Server.VLLM_GPU].startswith("no kernel for groups of 16")


def test_without_the_runtime_a_plan_says_so_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    if find_llama() is not None:
        pytest.skip("llama_cpp is installed")
    found = warnings(workplace, ("[evaluation.tasks]", f"{SPEED}[evaluation.tasks]"))
    (problem,) = [problem for problem in found if "library" in problem.what]
    assert problem.what == "llama.cpp's library is not here: no file is written, and nothing is timed"
    assert problem.line is not None


def test_a_folder_without_the_runtime_is_an_error(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(workplace))
    change = ("[evaluation.tasks]", f"{SPEED}[evaluation.tasks]")
    (problem,) = make_plan(load_spec(write_spec(workplace, change=change))).errors
    assert f"{FOLDER} names {workplace}, which has no libllama*.so" in problem.what


def test_more_rounds_at_least_than_at_most_are_refused(workplace: Path) -> None:
    change = ("[evaluation.tasks]", f"{SPEED}rounds = 9\nmax_rounds = 8\n[evaluation.tasks]")
    with pytest.raises(Exception, match="`max_rounds` is less than the 9 rounds"):
        load_spec(write_spec(workplace, change=change))
