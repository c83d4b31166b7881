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
        self.immortal: set[str] = set()

    def submit(self, script: Path) -> str:
        self.submitted.append(script)
        job = str(100 + len(self.submitted))
        assert self.jobs is not None
        self.jobs[job] = "pending: Resources"
        return job

    def listed(self) -> dict[str, str]:
        if self.jobs is None:
            raise StudyError("`squeue` did not answer within 60 s")
        return self.jobs

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)
        if job in self.immortal:
            raise StudyError(f"no such job: {job}")


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
    assert scheduler.jobs
    scheduler.jobs["101"] = ""
    asked.look()
    assert said[1:] == ["  job 101: pending: Resources", "  job 101: starts"]


def test_before_the_scheduler_was_asked_a_worker_is_only_submitted(asked: Allocations) -> None:
    asked.provide(1)
    assert [waiting.reason for waiting in asked.waiting] == ["submitted"]


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


def test_a_worker_that_printed_nothing_has_a_log_all_the_same(
    asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths
) -> None:
    asked.provide(3)
    paths.worker_log(name_of(scheduler.submitted[-1])).touch()
    scheduler.jobs = {}
    with pytest.raises(StudyError, match="the last one printed: nothing"):
        asked.look()


class TestSilence:
    """A worker that began, or may have, and does not reach the runner: the user is told once, long before it gives up."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(allocations, "SILENT_SECONDS", 0.0)

    def test_it_waits_for_one_that_is_pending(self, asked: Allocations, said: list[str]) -> None:
        asked.provide(2)
        asked.look()
        assert not any("has not reached" in line for line in said)

    def test_without_a_log_the_folder_may_not_be_shared(
        self, asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths, said: list[str]
    ) -> None:
        asked.provide(2)
        scheduler.jobs = {"101": "", "102": ""}
        asked.look()
        asked.look()
        (line,) = [line for line in said if "has not reached" in line]
        assert "job 101" in line
        assert f"{paths.root} is not a folder that all nodes share" in line

    def test_its_log_says_what_it_waits_for(
        self, asked: Allocations, scheduler: FakeScheduler, paths: StudyPaths, said: list[str]
    ) -> None:
        asked.provide(1)
        paths.worker_log(name_of(scheduler.submitted[0])).write_text(
            "no runner answers at tls://10.0.0.1:7: refused\n"
        )
        scheduler.jobs = {"101": ""}
        asked.look()
        assert said[-1].endswith("ends: no runner answers at tls://10.0.0.1:7: refused")

    def test_so_it_is_for_commands_that_cannot_list(
        self, asked: Allocations, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeScheduler, "can_list", False)
        asked.provide(1)
        asked.look()
        assert "job 101 has not reached the runner" in said[-1]
        assert [waiting.reason for waiting in asked.waiting] == ["submitted"]

    def test_a_worker_in_time_begins_it_again(
        self, asked: Allocations, scheduler: FakeScheduler, said: list[str]
    ) -> None:
        asked.provide(2)
        scheduler.jobs = {"101": "", "102": ""}
        asked.look()
        asked.reached(name_of(scheduler.submitted[0]))
        asked.look()
        assert [line.split()[2] for line in said if "has not reached" in line] == ["101", "102"]


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


def test_a_scheduler_that_does_not_answer_means_nothing_and_is_said_once(
    asked: Allocations, scheduler: FakeScheduler, said: list[str]
) -> None:
    asked.provide(3)
    scheduler.jobs = None
    for _ in range(5):
        asked.look()
    assert len(asked.waiting) == 3
    assert len([line for line in said if "`squeue` did not answer" in line]) == 1


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


def test_a_job_that_cannot_be_cancelled_is_said_and_keeps_no_other(
    asked: Allocations, scheduler: FakeScheduler, said: list[str]
) -> None:
    asked.provide(3)
    scheduler.immortal = {"101"}
    asked.close()
    assert scheduler.cancelled == ["101", "102", "103"]
    assert said[-1] == "! job 101 could not be cancelled: no such job: 101"


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
        assert "trap '' USR2" in lines, "which comes at once where the limit is short"
        assert lines[-4:-1] == ["set -e", "module load cuda", "export HF_HOME='/scratch/my files'"]
        assert lines[-1] == f"exec python -P -m studyctl worker {paths.root} --name ab12 --idle 600"

    def test_a_command_writes_its_own_log(self, paths: StudyPaths, tmp_path: Path) -> None:
        text = 'executor = "command"\n[command]\nsubmit = "qsub {script}"'
        lines = self.script(paths, tmp_path, text, Command)
        assert f"exec >>{paths.root}/workers/ab12.log 2>&1" in lines
        assert not any(line.startswith("#SBATCH") for line in lines)

    def test_it_is_named_by_its_whole_path(
        self, tmp_path: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        scheduler = FakeScheduler(profile)
        Allocations(StudyPaths(Path("runs/small")), scheduler, print).provide(1)
        assert scheduler.submitted[0].is_absolute(), "another machine begins in another folder"


SLURM = """executor = "slurm"
[worker]
cpus = 8
memory = "9 GiB"
time = "9 h"
[slurm]
account = "a"
partition = "gpuu"
options = { qos = "q" }
"""


@pytest.mark.parametrize(
    ("reason", "line", "hint"),
    [
        ("invalid partition specified: gpuu", 8, "`sinfo -s` lists the partitions"),
        ("Invalid account or account/partition combination specified", 8, "sinfo"),
        ("Invalid account", 7, "sacctmgr"),
        ("CPU count per node can not be satisfied", 3, "sinfo"),
        ("Memory specification can not be satisfied", 4, "sinfo"),
        ("Requested time limit is invalid (missing or exceeds some limit)", 5, "sinfo"),
        ("unrecognized option '--qoss=q'", 9, "hpc.toml says what workers ask for"),
        ("Socket timed out on send/recv operation", 1, "hpc.toml says what workers ask for"),
    ],
)
def test_slurms_refusal_is_shown_at_the_key_that_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, line: int, hint: str
) -> None:
    path = tmp_path / "hpc.toml"
    path.write_text(SLURM)
    file = load_profile(str(path))
    assert file is not None
    command = tmp_path / "sbatch"
    command.write_text(f'#!/bin/sh\necho "sbatch: error: {reason}" >&2\nexit 1\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(StudyError) as caught:
        Slurm(file).submit(tmp_path / "x.sh")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (path, line)
    assert problem.what == f"`sbatch` failed: {reason}"
    assert hint in problem.hint
    assert allocations.COMMAND_SECONDS == 60


@pytest.mark.parametrize(
    ("command", "reason"),
    [("./start.sh {script}", "Permission denied"), ("start.sh {script}", "No such file")],
)
def test_a_command_that_cannot_be_run_is_shown_at_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lab.toml"
    path.write_text(f'executor = "command"\n[command]\nlist = "true"\nsubmit = "{command}"\n')
    (tmp_path / "start.sh").write_text("#!/bin/sh\n")
    file = load_profile(str(path))
    assert file is not None
    with pytest.raises(StudyError, match=reason) as caught:
        Command(file).submit(tmp_path / "x.sh")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (path, 4)
    assert "chmod +x" in problem.hint
