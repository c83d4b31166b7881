"""Asking a scheduler for workers, noticing those that never begin, and taking over those of an earlier runner."""

from pathlib import Path

import pytest

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.spec.profiles import load_profile
from studyctl.workers import allocations
from studyctl.workers.allocations import Allocations, Command, Scheduler, Slurm, worker_script


class FakeScheduler(Scheduler):
    """Takes every script, and says of jobs what a test tells it."""

    def __init__(self, profile: Path) -> None:
        file = load_profile(str(profile))
        assert file is not None
        super().__init__(file)
        self.jobs: dict[str, str] | None = {}
        self.submitted: list[Path] = []
        self.cancelled: list[str] = []

    def submit(self, script: Path) -> str:
        self.submitted.append(script)
        job = str(100 + len(self.submitted))
        assert self.jobs is not None
        self.jobs[job] = "pending: Resources"
        return job

    def listed(self) -> dict[str, str] | None:
        return self.jobs

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    paths = StudyPaths(tmp_path / "runs" / "small")
    paths.root.mkdir(parents=True)
    return paths


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "hpc.toml"
    path.write_text('executor = "slurm"\nmax_workers = 3\n')
    return path


@pytest.fixture
def scheduler(profile: Path) -> FakeScheduler:
    return FakeScheduler(profile)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def asked(paths: StudyPaths, scheduler: FakeScheduler, said: list[str]) -> Allocations:
    return Allocations(paths, scheduler, said.append)


def name_of(script: Path) -> str:
    return script.stem


def test_it_asks_for_as_many_as_there_are_trials_and_no_more_than_allowed(
    asked: Allocations, scheduler: FakeScheduler, said: list[str]
) -> None:
    asked.provide(2)
    asked.provide(2)
    assert len(scheduler.submitted) == 2
    asked.provide(50)
    assert len(scheduler.submitted) == 3
    assert said == ["asked slurm for 2 workers: 101, 102", "asked slurm for a worker: 103"]


def test_what_waits_has_the_schedulers_reason(
    asked: Allocations, scheduler: FakeScheduler, said: list[str]
) -> None:
    asked.provide(1)
    asked.look()
    asked.look()
    (waiting,) = asked.waiting
    assert (waiting.job, waiting.reason) == ("101", "pending: Resources")
    assert said[1:] == ["  job 101: pending: Resources"]


def test_a_worker_that_left_is_replaced_when_there_is_work(
    asked: Allocations, scheduler: FakeScheduler
) -> None:
    asked.provide(1)
    name = name_of(scheduler.submitted[0])
    asked.reached(name)
    assert asked.waiting == []
    asked.ended(name)
    asked.provide(1)
    assert len(scheduler.submitted) == 2


def test_three_in_a_row_that_never_began_end_the_run_with_what_the_last_one_printed(
    asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths, profile: Path
) -> None:
    for number in range(3):
        asked.provide(1)
        log = paths.worker_log(name_of(scheduler.submitted[-1]))
        log.write_text("ImportError: No module named torch\n")
        scheduler.jobs = {}
        if number < 2:
            asked.look()
    with pytest.raises(StudyError, match="No module named torch") as caught:
        asked.look()
    assert caught.value.problems[0].file == profile


def test_without_a_log_the_folder_may_not_be_shared(asked: Allocations, scheduler: FakeScheduler) -> None:
    asked.provide(3)
    scheduler.jobs = {}
    with pytest.raises(StudyError, match="3 workers in a row") as caught:
        asked.look()
    assert "a folder that all nodes share" in caught.value.problems[0].hint


def test_one_that_reached_the_runner_begins_the_count_again(
    asked: Allocations, scheduler: FakeScheduler
) -> None:
    for number in range(5):
        asked.provide(1)
        if number == 2:
            asked.reached(name_of(scheduler.submitted[-1]))
            asked.ended(name_of(scheduler.submitted[-1]))
        scheduler.jobs = {}
        asked.look()


def test_a_scheduler_that_does_not_answer_means_nothing(asked: Allocations, scheduler: FakeScheduler) -> None:
    asked.provide(3)
    scheduler.jobs = None
    for _ in range(5):
        asked.look()
    assert len(asked.waiting) == 3


def test_a_later_runner_takes_over_what_lives(
    asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths, said: list[str]
) -> None:
    asked.provide(3)
    asked.reached(name_of(scheduler.submitted[0]))
    scheduler.jobs = {"101": "", "103": "pending: Priority"}  # 102 has ended meanwhile
    later = Allocations(paths, scheduler, said.append)
    assert said[-1] == "2 workers of an earlier run are taken over"
    later.provide(3)
    assert len(scheduler.submitted) == 4


def test_at_the_end_what_waits_is_cancelled_and_nothing_is_left_to_take_over(
    asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths, said: list[str]
) -> None:
    asked.provide(2)
    asked.reached(name_of(scheduler.submitted[0]))
    asked.close()
    assert scheduler.cancelled == ["102"]
    later = Allocations(paths, scheduler, said.append)
    assert later.waiting == []


class TestScripts:
    """What a scheduler gets."""

    def script(self, paths: StudyPaths, tmp_path: Path, text: str, kind: type[Scheduler]) -> list[str]:
        path = tmp_path / "profile.toml"
        path.write_text(text)
        file = load_profile(str(path))
        assert file is not None
        return worker_script(paths, kind(file), "ab12").splitlines()

    def test_slurm(self, paths: StudyPaths, tmp_path: Path) -> None:
        lines = self.script(
            paths,
            tmp_path,
            """
            executor = "slurm"
            [worker]
            cpus = 8
            memory = "48 GiB"
            time = "4 h"
            setup = ["module load cuda"]
            python = "python"
            environment = { HF_HOME = "/scratch/my files" }
            [slurm]
            partition = "gpu"
            options = { qos = "normal" }
            """,
            Slurm,
        )
        assert lines[0] == "#!/bin/bash"
        assert set(lines[1:]) >= {
            "#SBATCH --partition=gpu", "#SBATCH --qos=normal", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=49152M",
            "#SBATCH --time=240", "#SBATCH --gres=gpu:1", "#SBATCH --no-requeue", "#SBATCH --signal=B:USR2@120",
            f"#SBATCH --output={paths.root}/workers/ab12.log",
        }  # fmt: skip
        assert lines[-4:-1] == ["set -e", "module load cuda", "export HF_HOME='/scratch/my files'"]
        assert lines[-1] == f"exec python -P -m studyctl worker {paths.root} --name ab12 --idle 600"

    def test_a_command_writes_its_own_log(self, paths: StudyPaths, tmp_path: Path) -> None:
        text = 'executor = "command"\n[command]\nsubmit = "qsub {script}"'
        lines = self.script(paths, tmp_path, text, Command)
        assert f"exec >>{paths.root}/workers/ab12.log 2>&1" in lines
        assert not any(line.startswith("#SBATCH") for line in lines)


def test_slurms_refusal_is_shown_at_the_key_that_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hpc.toml"
    path.write_text('executor = "slurm"\n[slurm]\naccount = "a"\npartition = "gpuu"\n')
    file = load_profile(str(path))
    assert file is not None
    command = tmp_path / "sbatch"
    command.write_text('#!/bin/sh\necho "sbatch: error: invalid partition specified: gpuu" >&2\nexit 1\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(StudyError) as caught:
        Slurm(file).submit(tmp_path / "x.sh")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (path, 4)
    assert "invalid partition specified: gpuu" in problem.what
    assert allocations.COMMAND_SECONDS == 60
