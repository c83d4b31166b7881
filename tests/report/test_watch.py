"""``studyctl watch`` without a terminal: a line when something happens, and the end."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.errors import StudyError
from studyctl.report import watch
from studyctl.report.watch import PROGRESS_SECONDS
from tests.store import builder
from tests.store.builder import FakeAttempt, FakeStudy
from tests.tui import studies

OTHER = "alpha.rtn-4bit-g64"


class Time:
    """A clock that is moved by sleeping; each sleep plays the next part of a story."""

    def __init__(self, *parts: Callable[[], object]) -> None:
        self.now = 0.0
        self._parts = iter(parts)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self._parts)()


def watched(study: FakeStudy, *parts: Callable[[], object]) -> list[str]:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "time", Time(*parts))
        watch.watch_plainly(study.paths, Console(file=out, width=40))
    return out.getvalue().splitlines()


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    """Dense is done; one trial compresses, block 1 of 2."""
    study = FakeStudy(tmp_path / "small", models=("org/alpha",))
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    return study


@pytest.fixture
def attempt(study: FakeStudy) -> FakeAttempt:
    attempt = study.attempt(studies.TRIAL)
    attempt.begin("compress")
    studies.write_runner(study, [(studies.TRIAL, 1)])
    return attempt


def test_a_study_that_nobody_runs_is_told_of_at_once(study: FakeStudy) -> None:
    assert watched(study) == [
        f"small: 1/3 trials done · nobody runs it; `studyctl run {study.paths.spec}` goes on"
    ]


def test_a_finished_study_is_one_line(tmp_path: Path) -> None:
    assert watched(studies.finished(tmp_path / "small")) == ["small: 6/6 trials done"]


def test_a_runner_that_died_is_told_of(tmp_path: Path) -> None:
    (line,) = watched(studies.died(tmp_path / "small"))
    assert "its runner on " in line
    assert "died, last sign of life 5 min" in line
    assert "goes on" in line


def test_what_runs_and_what_ends_until_the_runner_is_gone(study: FakeStudy, attempt: FakeAttempt) -> None:
    def end() -> None:
        for step in study.protocol:
            attempt.run(step)
        attempt.finish()
        studies.write_runner(study, [], seconds_left=60)

    lines = watched(
        study,
        lambda: attempt.end("compress"),
        end,
        study.paths.runner.unlink,
    )
    assert lines[0].startswith("small: 1/3 trials done · 12 min 00 s left · run by process ")
    assert lines[1:4] == [
        f"▶ {studies.TRIAL}  compress  block 1/2",
        f"  {studies.TRIAL}  compress  2.0 s",
        f"  {studies.TRIAL}  perplexity:en  2.0 s",
    ]
    assert lines[8:] == [
        f"✓ {studies.TRIAL}  20 s",
        "small: 2/3 trials done · 1 min 00 s left",
        f"small: 2/3 trials done · nobody runs it; `studyctl run {study.paths.spec}` goes on",
    ]


def test_an_attempt_that_begins_later_and_fails_is_followed(study: FakeStudy, attempt: FakeAttempt) -> None:
    def begin() -> None:
        other = study.attempt(OTHER)
        other.begin("compress")
        other.fail("compress")

    lines = watched(study, begin, study.paths.runner.unlink)
    assert lines[2:6] == [
        f"▶ {OTHER} on cpu (attempt 1)",
        f"✗ {OTHER}  compress: out of memory at block 3",
        "  hint: use fewer samples",
        f"  {OTHER}  failed",
    ]


def test_what_was_written_last_is_printed_although_the_runner_is_gone(
    study: FakeStudy, attempt: FakeAttempt
) -> None:
    def end() -> None:
        attempt.end("compress")
        study.paths.runner.unlink()

    assert f"  {studies.TRIAL}  compress  2.0 s" in watched(study, end)


def test_a_long_step_is_told_of_once_a_minute(study: FakeStudy, attempt: FakeAttempt) -> None:
    def progress() -> None:
        attempt.progress("compress", 2, 2, "block", "mlp")

    def nothing() -> None:
        pass

    minute = int(PROGRESS_SECONDS)
    lines = watched(study, progress, *[nothing] * (2 * minute), study.paths.runner.unlink)
    assert lines.count(f"  {studies.TRIAL}  compress  block 2/2  mlp") == 2


def test_a_language_is_told_of_once_with_the_time_of_all_its_batches(
    study: FakeStudy, attempt: FakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "WINDOWS", 20)
    attempt.end("compress")
    attempt.begin("perplexity:en")
    attempt.end("perplexity:en")  # before anybody watched

    def go_on() -> None:
        for batch in (1, 2):
            attempt.begin("perplexity:en", batch)
            attempt.end("perplexity:en", batch)

    lines = watched(study, go_on, study.paths.runner.unlink)
    assert [line for line in lines if "perplexity:en" in line] == [f"  {studies.TRIAL}  perplexity:en  6.0 s"]


def test_warnings_are_printed_as_they_are(study: FakeStudy, attempt: FakeAttempt) -> None:
    def warn() -> None:
        attempt.warn("compress", "[bold]damping[/] was raised " + "x" * 60)

    lines = watched(study, warn, study.paths.runner.unlink)
    assert f"! {studies.TRIAL}  compress: [bold]damping[/] was raised {'x' * 60}" in lines


def test_a_damaged_journal_is_an_error(study: FakeStudy, attempt: FakeAttempt) -> None:
    def damage() -> None:
        with study.paths.attempt_journal(studies.TRIAL, 1).open("a") as journal:
            journal.write("damaged\n")
        attempt.end("compress")

    with pytest.raises(StudyError, match="damaged"):
        watched(study, damage, study.paths.runner.unlink)
