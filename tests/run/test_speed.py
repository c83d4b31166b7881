"""A study whose files llama.cpp runs: they are written, compared with dense, and timed in rounds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.contract.job import StopWhen
from studyctl.contract.records import SpeedFinished, SpeedRun, SpeedStarted
from studyctl.errors import ExitCode, SpecError, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.speed import read_sessions
from studyctl.llama import FOLDER, find_llama
from studyctl.plan import timing as plan_timing
from studyctl.run import speed as timing
from studyctl.run.bench import bench
from studyctl.run.speed import DeployedFile, StoppedError, Timer
from studyctl.spec.models import Speed
from studyctl.work.timing import Timing
from tests.run.studies import write_spec
from tests.run.test_converge import finished, rows, run

SPEED = (
    "[evaluation.speed]\nthreads = [1]\nprompt = 8\ngenerate = 4\nrounds = 3\nmax_rounds = 3\n\n[execution]"
)
VARIANTS = (
    '[[compression]]\nmethod = "wanda"\nsparsity = 0.5\n',
    '[[compression]]\nmethod = "rtn"\ngrid = ["gguf:Q4_0"]\n\n[[compression]]\nmethod = "magnitude"\nsparsity = 0.5\n',
)


def spec(folder: Path) -> Path:
    path = write_spec(folder, change=VARIANTS)
    path.write_text(path.read_text().replace("[execution]", SPEED))
    return path


@pytest.fixture
def llama() -> Path:
    if (folder := find_llama()) is None:
        pytest.skip(f"llama.cpp is not here; {FOLDER} names its folder")
    return folder


def sessions(paths: StudyPaths) -> list[list[str]]:
    """Return the trials that each session timed."""
    journals = sorted(paths.speed.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [
        sorted({record.file for record in read_journal(path) if isinstance(record, SpeedRun)})
        for path in journals
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("llama")
def test_a_study_with_speed_from_the_spec_to_the_tables(workplace: Path, console: Console) -> None:
    path = spec(workplace)
    started = run(path, console)
    assert started.code == ExitCode.DONE, console.file.getvalue()
    paths = started.paths
    deployed = {row["variant"]: row for row in rows(paths, "from deployment")}
    # A group of 16 is no block: a clear word, and everything else goes on.
    assert "no whole blocks of 32" in str(deployed["rtn-4bit-g16"]["llama_cpp"])
    assert deployed["rtn-4bit-g16"]["cpu"] is None
    for variant in ("dense", "rtn-Q4_0", "magnitude-0.5"):
        row = deployed[variant]
        assert row["rounds"] == 3
        assert row["threads"] == 1
        assert row["prefill_rate"] > 0
        assert row["decode_rate"] > 0
        assert row["resident_mib"] > 0
        # llama.cpp rounds activations, which hardly moves the distance that torch measures on the same windows.
        assert row["runtime_kl_nats"] == pytest.approx(row["same_windows_kl_nats"] or 0.0, abs=2e-3)
    assert deployed["dense"]["prefill_ratio"] is None
    assert deployed["rtn-Q4_0"]["prefill_low"] < deployed["rtn-Q4_0"]["prefill_ratio"]
    runs = rows(paths, "select variant, round, copy, phase, cpu_seconds, complete from speed_runs")
    assert len(runs) == 3 * 4 * 2  # rounds, files with dense twice, phases
    assert {(row["variant"], row["copy"]) for row in runs} == {
        ("dense", 0), ("dense", 1), ("rtn-Q4_0", 0), ("magnitude-0.5", 0),
    }  # fmt: skip
    assert all(row["complete"] for row in runs)

    before = finished(paths)
    again = run(path, console)
    assert "nothing to do" in again.message
    assert (finished(paths), len(sessions(paths))) == (before, 1)

    # Another variant is timed with dense alone; a file that is gone is written again.
    for file in (paths.cache / "gguf").iterdir():
        file.unlink()
    path.write_text(path.read_text().replace("sparsity = 0.5", "sparsity = [0.5, 0.25]"))
    assert run(path, console).code == ExitCode.DONE
    assert sessions(paths)[1:] == [["tiny-dense", "tiny-magnitude-0.25"]]
    assert {row["variant"] for row in rows(paths, "from speed")} == {
        "dense", "rtn-Q4_0", "magnitude-0.5", "magnitude-0.25",
    }  # fmt: skip

    # `bench` times all of them once more, and writes what is gone; the newest session counts.
    for file in (paths.cache / "gguf").iterdir():
        file.unlink()
    assert bench(paths, ("rtn*",), (1, 2), console) == ExitCode.DONE
    assert sessions(paths)[2:] == [["tiny-dense", "tiny-rtn-Q4_0"]]
    newest = rows(paths, "select threads, session from speed where variant = 'rtn-Q4_0' order by threads")
    assert [row["threads"] for row in newest] == [1, 2]
    assert len({row["session"] for row in newest}) == 1
    assert rows(paths, "select distinct state from trials") == [{"state": "done"}]


FILES = [
    DeployedFile("dense", "d", None, Path("d.gguf"), 10, is_dense=True),
    DeployedFile("q4", "q", "h", Path("q.gguf"), 5, is_dense=False),
]
Answer = Callable[[Path, int], Timing | str]


def timer(
    root: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch, wait: Callable[[str], StopWhen | None] = lambda _: None,
    **settings: int,
) -> tuple[Timer, list[str]]:  # fmt: skip
    """Return a timer whose processes answer at once, and the lines that it shows."""
    told: list[str] = []
    for place in ("studyctl.llama.kernels", "studyctl.run.speed.kernels"):
        monkeypatch.setattr(place, lambda: "build")
    made = Timer(StudyPaths(root), Speed(threads=(1,), **settings), wait, told.append)
    monkeypatch.setattr(made, "_process", answer)
    return made, told


def timed(seconds: float) -> Timing:
    return Timing(0.1, 100, seconds, seconds, seconds, seconds)


def journal(root: Path) -> list[object]:
    (path,) = StudyPaths(root).speed.glob("*.jsonl")
    return list(read_journal(path))


def test_rounds_end_once_dense_is_known_well_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = timer(tmp_path, lambda file, _: timed(1.0 if "d" in file.name else 0.5), monkeypatch)
    made.time("org/model", FILES)
    started, *runs, ended = journal(tmp_path)
    assert isinstance(started, SpeedStarted)
    assert isinstance(ended, SpeedFinished)
    assert ended.rounds == 7
    assert len(runs) == 7 * 3
    assert told[-1] == "speed of org/model: timed in 7 rounds"
    places = [record.place for record in runs if isinstance(record, SpeedRun) and record.file == "q4"]
    assert len(set(places)) > 1  # the order is drawn


def test_on_a_busy_machine_rounds_go_on_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 2.0, 0.5, 1.5, 0.7, 3.0] * 50)
    made, _ = timer(tmp_path, lambda *_: timed(next(times)), monkeypatch, rounds=3, max_rounds=12)
    made.time("org/model", FILES)
    ended = journal(tmp_path)[-1]
    assert isinstance(ended, SpeedFinished)
    assert ended.rounds == 12


def test_a_file_that_cannot_be_timed_is_left_out_of_later_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, told = timer(
        tmp_path,
        lambda file, _: timed(1.0) if "d" in file.name else "its process was killed by SIGKILL",
        monkeypatch,
    )
    made.time("org/model", FILES)
    failed = [record for record in journal(tmp_path) if isinstance(record, SpeedRun) and record.file == "q4"]
    assert [record.error for record in failed] == ["its process was killed by SIGKILL"]
    assert "! q4 is not timed: its process was killed by SIGKILL" in told


def test_without_dense_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = timer(tmp_path, lambda *_: "llama.cpp does not load d.gguf", monkeypatch)
    with pytest.raises(StudyError, match="dense cannot be timed"):
        made.time("org/model", FILES)
    assert not [record for record in journal(tmp_path) if isinstance(record, SpeedFinished)]


def test_a_stop_ends_the_session_which_then_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []

    def wait(at: str) -> StopWhen | None:
        waits.append(at)
        return "after_step" if len(waits) > 4 else None

    made, _ = timer(tmp_path, lambda *_: timed(1.0), monkeypatch, wait)
    with pytest.raises(StoppedError):
        made.time("org/model", FILES)
    assert waits[0] == "speed of org/model, round 1"
    assert not [record for record in journal(tmp_path) if isinstance(record, SpeedFinished)]


def test_a_process_that_ends_badly_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Timer(StudyPaths(tmp_path), Speed(), lambda _: None, print)
    monkeypatch.setattr(timing.sys, "executable", "/bin/false")
    assert made._process(tmp_path / "x.gguf", 1) == "its process ended with exit code 1"
    monkeypatch.undo()
    assert "x.gguf" in str(made._process(tmp_path / "x.gguf", 1)) or find_llama() is None


def test_a_process_is_killed_when_the_user_stops_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(timing.sys, "executable", str(script))
    with pytest.raises(StoppedError):
        Timer(StudyPaths(tmp_path), Speed(), lambda _: "now", print)._process(tmp_path / "x.gguf", 1)


def test_a_session_that_was_torn_is_read_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = timer(tmp_path, lambda *_: timed(1.0), monkeypatch)
    made.time("org/model", FILES)
    (path,) = StudyPaths(tmp_path).speed.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    (StudyPaths(tmp_path).speed / "empty.jsonl").touch()
    (session,) = read_sessions(StudyPaths(tmp_path))
    assert not session.is_complete
    assert len(session.runs) == 21


def test_what_was_timed_here_is_not_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = timer(tmp_path, lambda *_: timed(1.0), monkeypatch)
    paths, settings = StudyPaths(tmp_path), Speed(threads=(1,))
    assert plan_timing.untimed(paths, FILES, settings) == FILES
    made.time("org/model", FILES)
    assert not plan_timing.untimed(paths, FILES, settings)
    others = {"threads": (1, 2), "prompt": 513, "generate": 65}
    for name, value in others.items():
        assert plan_timing.untimed(paths, FILES, settings.model_copy(update={name: value})) == FILES
    for place in ("studyctl.llama.kernels", "studyctl.plan.timing.cpu_name"):
        with monkeypatch.context() as patched:
            patched.setattr(place, lambda: "another")
            assert plan_timing.untimed(paths, FILES, settings) == FILES


def test_files_are_kept_up_to_a_number_of_bytes(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    names = [paths.deployed(name, None) for name in ("old", "new")]
    for age, path in enumerate(names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        timing.os.utime(path, (age, age))
    timing.forget_files(paths, 150)
    assert [path.exists() for path in names] == [False, True]


def test_bench_needs_a_study_that_was_run(tmp_path: Path, console: Console) -> None:
    with pytest.raises(SpecError, match="was never run"):
        bench(StudyPaths(tmp_path / "none"), (), (), console)
