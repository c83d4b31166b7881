"""The index: what counts as stored, and what does not."""

from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from studyctl.contract.records import AttemptFinished, StepFailed, StepFinished, StepStarted
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import FailureCause, StudyError
from studyctl.journal import files as journal_files
from studyctl.journal.files import JournalWriter
from studyctl.journal.index import Index, read_stored
from studyctl.journal.stored import Stored
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.rows import records_of
from tests.store import builder
from tests.store.builder import FakeAttempt, FakeStudy

TRIAL = "alpha.wanda-0.5"
WEIGHTS = f"weights-of-{TRIAL}"


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "small")


def keys_of(stored: Stored, weights_key: str = WEIGHTS) -> set[str]:
    return set(stored.results_of(weights_key, ()).by_key)


def compressed_in(stored: Stored) -> int | None:
    made = stored.compressed(WEIGHTS, f"hash-of-{TRIAL}")
    return made and made.attempt


def test_no_journals_hold_nothing(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    assert stored.results == {}
    assert stored.next_attempt(TRIAL) == 1
    assert not stored.results_of(None, ())


def test_a_step_counts_when_it_is_finished(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.run("load")
    attempt.begin("compress")
    assert not read_stored(study.paths).results_of(WEIGHTS, ())
    attempt.end("compress")
    stored = read_stored(study.paths)
    assert keys_of(stored) == {WEIGHTS}
    compressed = stored.compressed(WEIGHTS, f"hash-of-{TRIAL}")
    assert compressed is not None
    assert compressed.sparsity == 0.5
    assert stored.results_of(WEIGHTS, ()).weights_hash == f"hash-of-{TRIAL}"
    assert stored.loads[WEIGHTS].step == Step(StepKind.LOAD)


def test_the_newest_of_two_results_counts(study: FakeStudy) -> None:
    study.attempt(TRIAL, 1).run_all()
    study.attempt(TRIAL, 2).run_all("load", "perplexity:en")
    results = read_stored(study.paths).results_of(WEIGHTS, ())
    latest = {str(step): result.latest.attempt for step in study.evaluations if (result := results.of(step))}
    assert (latest["perplexity:en"], latest["perplexity:sw"]) == (2, 1)


def test_attempt_ten_is_newer_than_attempt_nine(study: FakeStudy) -> None:
    for number in (10, 9):
        study.attempt(TRIAL, number).run_all("load", "compress")
    stored = read_stored(study.paths)
    assert compressed_in(stored) == 10
    assert [attempt.attempt for attempt in stored.attempts[TRIAL]] == [9, 10]
    assert stored.next_attempt(TRIAL) == 11


class TestOtherWeights:
    """Another kind of processor makes other weights under the same key; their results are never mixed."""

    @staticmethod
    def counts(study: FakeStudy) -> str | None:
        """Return the hash of the weights whose results count."""
        steps = (Step(StepKind.COMPRESS, key=WEIGHTS), *study.evaluations)
        return read_stored(study.paths).results_of(WEIGHTS, steps).weights_hash

    def run(self, study: FakeStudy, number: int, weights: str, *steps: str) -> None:
        study.weights_hashes[TRIAL] = weights
        study.attempt(TRIAL, number).run_all(*steps)

    def test_a_later_attempt_does_not_hide_what_is_finished(self, study: FakeStudy) -> None:
        self.run(study, 1, "first")
        self.run(study, 2, "second", "load", "compress", "perplexity:en")
        assert self.counts(study) == "first"

    def test_the_complete_set_counts_even_if_it_is_younger(self, study: FakeStudy) -> None:
        self.run(study, 1, "first", "load", "compress", "perplexity:en")
        self.run(study, 2, "second")
        assert self.counts(study) == "second"

    def test_of_two_complete_sets_the_older_counts(self, study: FakeStudy) -> None:
        self.run(study, 1, "first")
        self.run(study, 2, "second")
        assert self.counts(study) == "first"

    def test_a_lost_worker_that_finished_late_changes_nothing(self, study: FakeStudy) -> None:
        self.run(study, 2, "second")
        self.run(study, 1, "first", "load", "compress", "perplexity:en")
        assert self.counts(study) == "second"

    def test_steps_that_are_no_longer_asked_for_do_not_count(self, study: FakeStudy) -> None:
        self.run(study, 1, "first", "load", "compress", "perplexity:en", "perplexity:sw", "task:boolq")
        self.run(study, 2, "second", "load", "compress", "perplexity:zh", "task:arc_easy")
        steps = (Step(StepKind.COMPRESS, key=WEIGHTS), *study.evaluations[2:4])
        assert [str(step) for step in steps[1:]] == ["perplexity:zh", "task:arc_easy"]
        assert read_stored(study.paths).results_of(WEIGHTS, steps).weights_hash == "second"

    def test_sets_are_never_mixed(self, study: FakeStudy) -> None:
        self.run(study, 1, "first", "load", "compress", "perplexity:en")
        self.run(study, 2, "second", "load", "compress", "perplexity:sw", "perplexity:zh")
        assert keys_of(read_stored(study.paths)) == {WEIGHTS, "key-of-perplexity:en"}
        steps = (Step(StepKind.COMPRESS, key=WEIGHTS), *study.evaluations)
        results = read_stored(study.paths).results_of(WEIGHTS, steps)
        assert set(results.by_key) == {WEIGHTS, "key-of-perplexity:sw", "key-of-perplexity:zh"}
        assert [str(step) for step in results.missing(steps)] == [
            "perplexity:en",
            "task:arc_easy",
            "task:boolq",
        ]


class TestLostAttempts:
    """A runner records in a file of its own that a worker is gone: the worker may still write."""

    @staticmethod
    def lose(study: FakeStudy, attempt: FakeAttempt) -> None:
        with JournalWriter(study.paths.lost("token")) as journal:
            journal.write(attempt.started)
            step = Step(StepKind.COMPRESS)
            journal.write(StepFailed(step=step, error="the worker is gone", cause=FailureCause.KILLED))
            journal.write(AttemptFinished(state="failed", error="compress: the worker is gone"))

    def test_an_attempt_without_an_end_failed(self, study: FakeStudy) -> None:
        running = study.attempt(TRIAL)
        for name in ("load", "compress", "perplexity:en"):
            running.run(name)
        journal = running.path.read_bytes()
        self.lose(study, running)
        stored = read_stored(study.paths)
        (attempt,) = stored.attempts[TRIAL]
        assert (attempt.state, len(attempt.steps)) == ("failed", 3)
        failure = stored.last_failure(TRIAL)
        assert failure is not None
        assert failure.error == "the worker is gone"
        assert running.path.read_bytes() == journal

    def test_a_worker_that_died_before_its_first_record_had_an_attempt(self, study: FakeStudy) -> None:
        dead = study.attempt(TRIAL)
        dead.path.unlink()
        self.lose(study, dead)
        stored = read_stored(study.paths)
        assert stored.attempts[TRIAL][0].state == "failed"
        assert stored.next_attempt(TRIAL) == 2
        study.write_plan()
        publish(study.paths)
        with results.open(study.paths) as opened:
            (failed,) = opened.failures()
        assert (failed.trial_id, failed.error) == (TRIAL, "the worker is gone")

    def test_what_the_worker_writes_later_has_the_last_word(self, study: FakeStudy) -> None:
        index = Index(study.paths)
        attempt = study.attempt(TRIAL)
        attempt.run("load")
        self.lose(study, attempt)
        assert index.refresh().attempts[TRIAL][0].state == "failed"
        for name in ("compress", "perplexity:en"):
            attempt.run(name)
        attempt.finish()
        (late,) = index.refresh().attempts[TRIAL]
        assert (late.state, len(late.steps)) == ("done", 3)
        assert index.refresh() == read_stored(study.paths)

    def test_an_index_sees_it_whatever_it_was_asked_to_read(self, study: FakeStudy) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("load")
        index = Index(study.paths)
        index.refresh()
        self.lose(study, attempt)
        assert index.refresh([]).attempts[TRIAL][0].state == "failed"


def test_an_equal_hash_keeps_earlier_results(study: FakeStudy) -> None:
    study.attempt(TRIAL, 1).run_all()
    study.attempt(TRIAL, 2).run_all("load", "compress")
    assert len(keys_of(read_stored(study.paths))) == 6


def test_dense_has_no_compress_and_its_results_count(study: FakeStudy) -> None:
    study.attempt("alpha.dense").run_all()
    assert len(keys_of(read_stored(study.paths), "weights-of-alpha.dense")) == 5


def test_a_failure_is_told_with_its_cause(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.run("load")
    attempt.begin("compress")
    attempt.fail("compress")
    stored = read_stored(study.paths)
    failure = stored.last_failure(TRIAL)
    assert failure is not None
    assert (str(failure.step), failure.cause, failure.error) == (
        "compress",
        "out_of_memory",
        "out of memory at block 3",
    )
    assert stored.attempts[TRIAL][0].state == "failed"
    assert stored.last_failure("alpha.dense") is None


def test_a_step_that_succeeds_at_the_second_try_did_not_fail(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    attempt.fail_step("compress", "x", "error")
    attempt.run("compress")
    assert read_stored(study.paths).last_failure(TRIAL) is None


def test_an_attempt_without_an_end_is_unfinished(study: FakeStudy) -> None:
    study.attempt(TRIAL).begin("compress")
    (attempt,) = read_stored(study.paths).attempts[TRIAL]
    assert attempt.state == "open"
    assert (attempt.trial, attempt.attempt, str(attempt.open_step)) == (TRIAL, 1, "compress")


def test_a_journal_without_a_whole_record_still_takes_its_number(study: FakeStudy) -> None:
    path = study.paths.attempt_journal(TRIAL, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"seq":0,"at":"20')
    stored = read_stored(study.paths)
    assert stored.next_attempt(TRIAL) == 2
    assert stored.attempts == {}


def test_other_files_in_the_folder_are_left_alone(study: FakeStudy) -> None:
    study.attempt(TRIAL).run_all()
    for name in ("alpha.dense.1.jsonl.bad", "notes.jsonl", "alpha.dense.1.boolq.0.parquet"):
        (study.paths.journal / name).write_bytes(b"nothing of ours\n" * 3)
    assert read_stored(study.paths).attempts.keys() == {TRIAL}


def test_a_message_about_steps_is_no_step(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.begin("compress")
    attempt.warn("compress", 'kind "step_finished" or "attempt_finished"', kind="step_finished", step_x=1)
    assert not read_stored(study.paths).results_of(WEIGHTS, ())


def test_a_damaged_step_line_names_file_and_line(study: FakeStudy) -> None:
    path = study.attempt(TRIAL).run_all().path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b'"step_finished" }\n', *lines[1:]]))
    with pytest.raises(StudyError, match="line 2 of alpha"):
        read_stored(study.paths)


def test_a_torn_step_finished_is_not_acknowledged(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL)
    attempt.run("compress")
    data = attempt.path.read_bytes()
    for cut in range(1, 60):
        attempt.path.write_bytes(data[:-cut])
        assert not read_stored(study.paths).results_of(WEIGHTS, ())


class TestGrowing:
    """An index that is refreshed holds what a fresh one would."""

    def test_every_step_of_an_attempt(self, study: FakeStudy) -> None:
        index = Index(study.paths)
        attempt = study.attempt(TRIAL)
        for step in attempt.steps:
            attempt.begin(step)
            assert index.refresh() == read_stored(study.paths)
            attempt.end(step)
            assert index.refresh() == read_stored(study.paths)
        attempt.finish()
        assert index.refresh() == read_stored(study.paths)

    def test_progress_changes_nothing(self, study: FakeStudy) -> None:
        index = Index(study.paths)
        attempt = study.attempt(TRIAL)
        attempt.begin("compress")
        before = index.refresh()
        attempt.progress("compress", 1, 2, "block")
        assert index.refresh() is before

    def test_a_line_that_was_not_finished_counts_once_it_is(self, study: FakeStudy) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        data = attempt.path.read_bytes()
        attempt.path.write_bytes(data[:-20])
        index = Index(study.paths)
        assert not index.refresh().results_of(WEIGHTS, ())
        attempt.path.write_bytes(data)
        assert keys_of(index.refresh()) == {WEIGHTS}

    def test_a_journal_that_was_moved_away_is_forgotten(self, study: FakeStudy) -> None:
        index = Index(study.paths)
        path = study.attempt(TRIAL).run_all().path
        assert index.refresh().results_of(WEIGHTS, ())
        path.rename(path.with_suffix(".bad"))
        assert not index.refresh().results_of(WEIGHTS, ())


def test_a_clock_that_was_set_back_does_not_revive_an_old_result(study: FakeStudy) -> None:
    study.attempt(TRIAL, 1).run_all("compress")
    newer = study.attempt(TRIAL, 2).run_all("compress").path
    newer.write_text(newer.read_text().replace('"at":"20', '"at":"19'))
    assert compressed_in(read_stored(study.paths)) == 2


def test_stretches_of_a_journal_begin_and_end_with_their_step(study: FakeStudy) -> None:
    attempt = study.attempt(TRIAL).run_all()
    data = attempt.path.read_bytes()
    for step in read_stored(study.paths).attempts[TRIAL][0].steps:
        stretch = data[step.begin : step.end].splitlines()
        assert b'"kind":"step_started"' in stretch[0]
        assert b'"kind":"step_finished"' in stretch[-1]
        assert data[step.end - 1 : step.end] == b"\n"


@pytest.mark.parametrize("line", [1, 2, 5])
def test_a_line_that_is_no_record_is_told_whatever_it_was(study: FakeStudy, line: int) -> None:
    attempt = study.attempt(TRIAL)
    attempt.run_all("load", "compress")
    path = study.paths.attempt_journal(TRIAL, 1)
    lines = path.read_text().splitlines()
    lines[line - 1] = "garbage"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StudyError, match=f"line {line} of {path.name} is damaged"):
        read_stored(study.paths)


def test_a_tail_that_is_no_record_is_skipped(study: FakeStudy) -> None:
    study.attempt(TRIAL).run_all("load", "compress")
    path = study.paths.attempt_journal(TRIAL, 1)
    with path.open("ab") as journal:
        journal.write(b"\0\0\0\n")
    assert keys_of(read_stored(study.paths)) == {WEIGHTS}


def test_what_was_read_before_a_damaged_journal_is_not_lost(study: FakeStudy) -> None:
    index = Index(study.paths)
    index.refresh()
    study.attempt("alpha.dense").run_all()
    damaged = study.attempt(TRIAL)
    damaged.run("load")
    good = damaged.path.read_bytes()
    damaged.path.write_bytes(good.replace(b"\n{", b"\nbroken{", 1))
    with pytest.raises(StudyError):
        index.refresh()
    damaged.path.write_bytes(good)
    assert index.refresh() == read_stored(study.paths)


class Tomorrow(datetime):
    """Records written within a millisecond have the same time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=1)


class TestBatches:
    """The windows of a language are stored batch by batch."""

    @pytest.fixture
    def attempt(self, study: FakeStudy, monkeypatch: pytest.MonkeyPatch) -> FakeAttempt:
        monkeypatch.setattr(builder, "WINDOWS", 20)
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        return attempt

    @staticmethod
    def run(attempt: FakeAttempt, *batches: int) -> None:
        for batch in batches:
            attempt.begin("perplexity:en", batch)
            attempt.end("perplexity:en", batch)

    def test_a_language_is_done_when_all_its_batches_are(
        self, study: FakeStudy, attempt: FakeAttempt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        english = study.evaluations[0]
        self.run(attempt, 0, 2)
        results = read_stored(study.paths).results_of(WEIGHTS, ())
        assert results.spans(english) == ((0, 8), (16, 20))
        assert results.of(english) is None
        monkeypatch.setattr(journal_files, "datetime", Tomorrow)
        self.run(attempt, 1)
        result = read_stored(study.paths).results_of(WEIGHTS, ()).of(english)
        assert result is not None
        assert [part.batches for part in result.parts] == [((0, 8),), ((8, 16),), ((16, 20),)]
        assert (result.seconds, result.latest.step.windows) == (6.0, (8, 16))

    @pytest.mark.parametrize(
        ("asked", "there"), [(8, True), (16, True), (20, True), (12, False), (24, False)]
    )
    def test_other_numbers_of_windows_need_their_own_batches(
        self, study: FakeStudy, attempt: FakeAttempt, asked: int, there: bool
    ) -> None:
        self.run(attempt, 0, 1, 2)
        step = replace(study.evaluations[0], windows=(0, asked))
        assert read_stored(study.paths).results_of(WEIGHTS, ()).has(step) == there

    def test_a_text_that_ends_early_is_done_at_its_end(self, study: FakeStudy, attempt: FakeAttempt) -> None:
        english = study.evaluations[0]
        for windows in ((0, 8), (8, 11)):
            attempt.writer.write(StepStarted(step=replace(english, windows=windows)))
            finished = StepFinished(
                step=replace(english, windows=windows), weights_hash=f"hash-of-{TRIAL}", available=11
            )
            attempt.writer.write(finished)
        result = read_stored(study.paths).results_of(WEIGHTS, ()).of(english)
        assert result is not None
        (part,) = result.parts
        assert part.batches == ((0, 8), (8, 11))
        assert part.stored.step.windows == (0, 11), (
            "batches that follow each other are one place of the journal"
        )

    def test_fewer_windows_take_their_share_of_a_run_of_batches(
        self, study: FakeStudy, attempt: FakeAttempt
    ) -> None:
        self.run(attempt, 0, 1, 2)
        result = (
            read_stored(study.paths)
            .results_of(WEIGHTS, ())
            .of(replace(study.evaluations[0], windows=(0, 16)))
        )
        assert result is not None
        (part,) = result.parts
        assert (part.batches, part.stored.step.windows) == (((0, 8), (8, 16)), (0, 20))
        assert result.seconds == pytest.approx(2 / 3 * 6.0)
        begun = [one.step.windows for one in records_of(part) if isinstance(one, StepStarted)]
        assert begun == [(0, 8), (8, 16)]
