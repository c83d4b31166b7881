"""Profiles: where they are looked for, and what is wrong with them, at its place."""

from pathlib import Path

import pytest

from studyctl.errors import Problem, SpecError
from studyctl.plan.devices import place_of
from studyctl.spec.profiles import Executor, load_profile


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "profiles").mkdir()
    return tmp_path


def write(here: Path, text: str, name: str = "hpc") -> Path:
    path = here / "profiles" / f"{name}.toml"
    path.write_text(text)
    return path


def problems(here: Path, text: str) -> list[Problem]:
    write(here, text)
    with pytest.raises(SpecError) as caught:
        load_profile("hpc")
    return list(caught.value.problems)


def test_the_working_directory_comes_before_the_users_configuration(here: Path) -> None:
    own = here / "config" / "studyctl" / "profiles" / "hpc.toml"
    own.parent.mkdir(parents=True)
    own.write_text("max_workers = 1")
    file = load_profile("hpc")
    assert file is not None
    assert file.profile.max_workers == 1
    write(here, "max_workers = 2")
    file = load_profile("hpc")
    assert file is not None
    assert file.profile.max_workers == 2


def test_local_needs_no_file(here: Path) -> None:
    assert load_profile("local") is None


def test_everything_that_a_profile_may_say(here: Path) -> None:
    write(
        here,
        """
        executor = "slurm"
        max_workers = 16
        driver = "here"
        [worker]
        device = "cuda"
        gpus = 1
        gpu_memory = "80 GiB"
        cpus = 8
        memory = "48 GiB"
        time = "4 h"
        idle = "10 min"
        setup = ["module load cuda", "source ~/venv/bin/activate"]
        environment = { HF_HOME = "/scratch/me/hf" }
        [slurm]
        partition = "gpu"
        account = "lab"
        options = { qos = "normal" }
        """,
    )
    file = load_profile("hpc")
    assert file is not None
    assert file.profile.executor is Executor.SLURM
    worker = file.profile.worker
    assert (worker.time, worker.idle, worker.gpu_memory) == (4 * 3600, 600, 80 << 30)
    place = place_of(file.profile)
    assert (place.devices, place.dtype_of("auto"), place.threads) == (["cuda:0"] * 16, "bfloat16", 8)


@pytest.mark.parametrize(
    ("worker", "dtype"),
    [
        ('device = "cuda"', "bfloat16"),
        ('device = "cpu"', "float32"),
        ('device = "cuda"\ndtype = "float16"', "float16"),
    ],
)
def test_what_auto_means_there_does_not_depend_on_this_machine(here: Path, worker: str, dtype: str) -> None:
    write(here, f'executor = "slurm"\n[worker]\n{worker}')
    file = load_profile("hpc")
    assert file is not None
    assert place_of(file.profile).dtype_of("auto") == dtype
    assert place_of(file.profile).dtype_of("float32") == "float32"


@pytest.mark.parametrize(
    ("text", "line", "what", "more"),
    [
        ('executor = "slrum"', 1, "executor", "slurm"),
        ('[worker]\ntime = "4 hours"', 2, '`time`: must be a time such as "4 h" or "10 min"', ""),
        ('[worker]\ntime = 4', 2, '`time`: must be a time such as "4 h" or "10 min"', ""),
        ('[worker]\nmemory = "lots"', 2, "`memory` must be a size", ""),
        ("[worker]\ncpu = 4", 2, "unknown key `cpu`", "did you mean"),
        ('[slurm]\npartitoin = "gpu"', 2, "unknown key `partitoin`", "did you mean `partition`?"),
        ('executor = "command"', 1, "executor `command` needs the table `[command]`", ""),
        ('executor = "dask"', 1, "executor `dask` needs the table `[dask]`", ""),
        ("max_workers = 0", 1, "`max_workers` must be at least 1", ""),
        ('driver = "there"', 1, "`driver`", "`here`"),
        ("executor = ", 1, "", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_shown_at_its_place(here: Path, text: str, line: int, what: str, more: str) -> None:
    (problem,) = problems(here, text)
    assert (problem.file, problem.line) == (Path("profiles/hpc.toml"), line)
    assert what in problem.what
    assert more in f"{problem.what} {problem.note} {problem.hint}"


def test_a_name_without_a_file_says_where_it_was_looked_for(here: Path) -> None:
    write(here, "", "hpc")
    with pytest.raises(SpecError, match="there is no profile `hcp`") as caught:
        load_profile("hcp")
    assert "did you mean `hpc`?" in caught.value.problems[0].hint
