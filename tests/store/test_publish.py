"""Publishing: what the journals hold is in the tables, nothing else is, and readers are never disturbed."""

import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.contract.records import FileFacts, TaskFigure, TextBatch, Window
from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths, machine
from studyctl.findings.items import mcnemar_p
from studyctl.journal.index import Index
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from tests.store import builder
from tests.store.builder import ITEMS, TOKENS, WINDOWS, FakeAttempt, FakeStudy, perplexity

TRIAL = "alpha.wanda-0.5"
Rows = list[tuple[Any, ...]]

WITHOUT_SPACE = """
import resource, sys
from pathlib import Path
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.publish import publish
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    publish(StudyPaths(Path(sys.argv[1])))
except StudyError as error:
    print(error)
"""


def test_the_file_of_a_trial_is_in_the_tables(study: FakeStudy, ask: Callable[[str], Rows]) -> None:
    study.files = {
        "alpha.dense": FileFacts(bytes=3 * 2**20 + 1, vocabulary_bytes=2**20),
        "alpha.wanda-0.5": FileFacts(why_none="no GGUF is written"),
    }
    study.write_all()
    publish(study.paths)
    columns = "select variant, file_mib * 1048576, embedding_share, why_no_file"
    rows = [
        ("dense", 3 * 2**20 + 1, pytest.approx(1 / 3), None),
        ("wanda-0.5", None, None, "no GGUF is written"),
        ("rtn-4bit-g64", None, None, None),
    ]
    for source in ("trials", "leaderboard"):
        assert ask(f"{columns} from {source} where model = 'org/alpha'") == rows


def test_the_language_of_a_task_is_the_one_of_the_plan(study: FakeStudy, ask: Callable[[str], Rows]) -> None:
    study.write_all()
    for languages in ({}, {"boolq": "ar"}, {"boolq": "de"}):
        study.task_languages = languages
        study.write_plan()
        publish(study.paths)
        for source in ("tasks", "tasks_vs_dense"):
            rows = ask(f"select distinct task, language from {source} order by all")
            assert rows == [(task, languages.get(task)) for task in sorted(study.tasks)]


def database_files(study: FakeStudy) -> list[str]:
    return sorted(path.name for path in study.root.iterdir() if "duckdb" in path.name)


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "small")


@pytest.fixture
def ask(study: FakeStudy) -> Callable[[str], Rows]:
    def query(sql: str) -> Rows:
        with closing(open_reader(study.paths)) as connection:
            return connection.execute(sql).fetchall()

    return query


def state_of(ask: Callable[[str], Rows], trial: str = TRIAL) -> str:
    ((state,),) = ask(f"SELECT state FROM trials WHERE trial_id = '{trial}'")
    return state


class TestTables:
    def test_every_record_is_a_row(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        published = publish(study.write_all().paths)
        counts = {
            name: ask(f"SELECT count(*) FROM {name}")[0][0]
            for (name,) in ask("SELECT table_name FROM duckdb_tables()")
        }
        assert counts == {
            "trials": 6, "attempts": 6, "steps": 6 * 6 + 4, "layers": 4 * 4, "perplexity": 18, "windows": 18 * WINDOWS,
            "fidelity": 12, "activations": 0, "tasks": 18, "items": 6 * 2 * ITEMS, "item_texts": 2 * ITEMS, "task_flips": 4 * 3,
            "intervals": 4 * (5 * (3 + 1) + 3 + 1), "task_chance": 6 * 3, "warnings": 4, "about": 1,
            "hypotheses": 0, "hypothesis_rows": 0, "hypothesis_pairs": 0, "reversals": 0,
            "runtime_fidelity": 0, "speed": 0, "speed_runs": 0,
        }  # fmt: skip
        assert published.rows == sum(counts.values())

    def test_values_are_those_of_the_records(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        publish(study.write_all().paths)
        value = perplexity("org/alpha", "wanda-0.5", "sw")
        nll = math.log(value) * TOKENS * WINDOWS
        assert ask(f"FROM perplexity WHERE trial_id = '{TRIAL}' AND language = 'sw'") == [
            (
                TRIAL,
                "org/alpha",
                "wanda",
                "wanda-0.5",
                "sw",
                pytest.approx(value, rel=1e-12),
                pytest.approx(nll / math.log(2) / 2000, rel=1e-12),
                pytest.approx(nll, rel=1e-12),
                400,
                2000,
                101,
                False,
                4,
                1600,
                pytest.approx(nll / math.log(2) / 1600, rel=1e-12),
                None,
            )
        ]
        assert ask(f"FROM items WHERE trial_id = '{TRIAL}' AND task = 'arc_easy' AND item = 12") == [
            (
                TRIAL,
                "org/alpha",
                "wanda",
                "wanda-0.5",
                "arc_easy",
                12,
                0,
                0,
                1,
                1,
                [-1.0, -14.0],
                1.0,
                "arc_easy-6",
                None,
            )
        ]
        assert ask(
            f"SELECT correct_norm FROM items WHERE trial_id = '{TRIAL}' AND task = 'boolq' AND item = 12"
        ) == [(None,)]

    def test_a_trial_has_its_sizes_times_and_settings(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        publish(study.write_all().paths)
        assert ask(
            "SELECT state, bits_per_weight, sparsity, compress_seconds, total_seconds, peak_memory_bytes, error, seed, "
            f"options->>'method', calibration->>'source', stages, stages_done, attempts FROM trials WHERE trial_id = '{TRIAL}'"
        ) == [("done", 9.0, 0.5, 2.0, 14.0, 1013, None, 0, "wanda", "c4", 6, 6, 1)]
        assert ask("SELECT compress_seconds, stages FROM trials WHERE trial_id = 'alpha.dense'") == [
            (None, 5)
        ]

    def test_attempts_and_trials_say_which_version_compressed_them(self, tmp_path: Path) -> None:
        study = FakeStudy(
            tmp_path / "two", models=("org/alpha",), variants=("rtn-4bit-g64", "rtn-4bit-g64@gptqmodel")
        ).write_all()
        publish(study.paths)
        with closing(open_reader(study.paths)) as connection:
            for table in ("trials", "attempts"):
                rows = connection.execute(f"SELECT variant, backend, backend_version FROM {table}").fetchall()
                assert rows == [
                    ("rtn-4bit-g64", "studyctl", "0.1.0"),
                    ("rtn-4bit-g64@gptqmodel", "gptqmodel", "4.0.0"),
                ]

    @pytest.mark.parametrize(("backend", "version"), [("studyctl", "0.0.9"), ("gptqmodel", None)])
    def test_journals_from_before_tell_the_version_of_studyctl_only(
        self, study: FakeStudy, ask: Callable[[str], Rows], backend: str, version: str | None
    ) -> None:
        study.attempt(TRIAL, backend=backend, studyctl="0.0.9", backend_version=None).run_all()
        publish(study.paths)
        for table in ("trials", "attempts"):
            assert ask(f"SELECT backend_version FROM {table}") == [(version,)]

    def test_the_version_of_a_trial_is_of_the_attempt_that_made_its_weights(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        study.attempt(TRIAL, 1, backend_version="1.0").run_all("load", "compress")
        study.attempt(TRIAL, 2, backend_version="2.0").run_all("load", "perplexity:en")
        publish(study.paths)
        assert ask(f"SELECT backend_version FROM trials WHERE trial_id = '{TRIAL}'") == [("1.0",)]
        assert ask("SELECT backend_version FROM attempts ORDER BY attempt") == [("1.0",), ("2.0",)]

    def test_before_anything_ran_there_is_no_version(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        publish(study.paths)
        assert ask("SELECT DISTINCT backend_version FROM trials") == [(None,)]

    def test_steps_have_a_view_with_their_name_of_before(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        publish(study.write_all().paths)
        columns = "trial_id, state, seconds, peak_memory_bytes, attempt, finished_at, key, weights_hash"
        assert ask(f"SELECT stage, {columns} FROM stages") == ask(f"SELECT step, {columns} FROM steps")
        assert ask(f"SELECT step, kind, subject FROM steps WHERE trial_id = '{TRIAL}'")[1:3] == [
            ("compress", "compress", None),
            ("perplexity:en", "perplexity", "en"),
        ]

    def test_a_task_of_before_version_0_2_has_its_first_metric_as_main(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        attempt = study.attempt("alpha.dense")
        for task, metrics in (("arc_easy", ("acc", "acc_norm")), ("boolq", ("word_perplexity", "acc"))):
            attempt.begin(f"task:{task}")
            for metric in metrics:
                attempt.writer.write(TaskFigure(task=task, metric=metric, value=0.5))
            attempt.end(f"task:{task}")
        publish(study.paths)
        assert ask("SELECT task, metric, main, averaged FROM tasks ORDER BY ALL") == [
            ("arc_easy", "acc", True, True),
            ("arc_easy", "acc_norm", False, False),
            ("boolq", "acc", False, False),
            ("boolq", "word_perplexity", True, False),
        ]

    def test_total_seconds_is_the_sum_over_the_steps(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        publish(study.write_all().paths)
        assert (
            ask(
                "SELECT t.trial_id FROM trials t JOIN (SELECT trial_id, sum(seconds) AS seconds FROM steps GROUP BY ALL) s "
                "USING (trial_id) WHERE t.total_seconds <> s.seconds"
            )
            == []
        )

    def test_nan_is_null(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_plan()
        attempt = study.attempt(TRIAL)
        attempt.begin("perplexity:en")
        for window, nll in enumerate((1.0, math.nan)):
            attempt.writer.write(Window(language="en", window=window, nll_nats=nll, tokens=1, bytes=3))
        attempt.writer.write(TextBatch(language="en", sequence_length=2, bos=False))
        attempt.end("perplexity:en")
        publish(study.paths)
        assert ask("SELECT nll_nats FROM windows ORDER BY place") == [(1.0,), (None,)]
        assert ask("SELECT perplexity, bits_per_byte, nll_nats, bytes, tokens FROM perplexity") == [
            (None, None, None, 6, 2)
        ]


class TestCurrent:
    """Only what the plan asks for now, measured on the weights that there are now."""

    def test_a_step_that_was_not_finished_has_no_rows(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        attempt.begin("perplexity:en")
        attempt.record("perplexity:en")
        publish(study.paths)
        assert ask("FROM perplexity") == []
        assert len(ask("FROM layers")) == 4

    def test_a_try_that_was_begun_again_leaves_its_warning_only(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        attempt = study.attempt(TRIAL)
        attempt.begin("perplexity:en")
        attempt.record("perplexity:en")
        attempt.warn("perplexity:en", "out of memory; retried with 512 tokens a batch", batch_tokens=512)
        attempt.run("perplexity:en")
        publish(study.paths)
        assert len(ask("FROM perplexity")) == 1
        assert len(ask("FROM windows")) == WINDOWS
        assert ask("SELECT stage, message, details->>'batch_tokens' FROM warnings") == [
            ("perplexity:en", "out of memory; retried with 512 tokens a batch", "512")
        ]

    def test_a_newer_result_replaces_the_older(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_plan()
        study.attempt(TRIAL, 1).run_all()
        study.attempt(TRIAL, 2).run_all("load", "perplexity:en")
        publish(study.paths)
        assert len(ask("FROM perplexity")) == 3
        assert ask(
            "SELECT attempt FROM steps WHERE attempt IS NOT NULL AND step IN "
            "('load', 'perplexity:en', 'perplexity:sw') ORDER BY step"
        ) == [(2,), (2,), (1,)]

    def test_another_protocol_leaves_results_out(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_all()
        protocol = study.protocol | {"perplexity:en": "another-key"}
        study.write_plan(protocols={model: protocol for model in study.models})
        publish(study.paths)
        assert ask("SELECT DISTINCT language FROM perplexity ORDER BY ALL") == [("sw",), ("zh",)]
        assert state_of(ask) == "pending"

    def test_other_weights_leave_results_out(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_all()
        trials = [
            trial | {"weights_key": "new"} if trial["trial"] == TRIAL else trial for trial in study.trials()
        ]
        study.write_plan(trials=trials)
        publish(study.paths)
        assert ask(f"FROM perplexity WHERE trial_id = '{TRIAL}'") == []
        assert state_of(ask) == "pending"
        assert ask(f"SELECT current FROM attempts WHERE trial_id = '{TRIAL}'") == [(False,)]

    def test_results_of_other_weights_are_left_out(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        study.attempt(TRIAL, 1).run_all("load", "compress", "perplexity:en")
        study.weights_hashes[TRIAL] = "another"
        study.attempt(TRIAL, 2).run_all("load", "compress", "perplexity:sw", "perplexity:zh")
        publish(study.paths)
        assert set(ask("SELECT DISTINCT language FROM perplexity")) == {("sw",), ("zh",)}
        assert ask("FROM items") == []

    def test_a_result_counts_for_every_trial_with_these_keys(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.attempt(TRIAL).run_all()
        trial = next(trial for trial in study.trials() if trial["trial"] == TRIAL)
        study.write_plan(trials=[trial, trial | {"trial": "renamed", "variant": "renamed"}])
        publish(study.paths)
        assert ask("SELECT trial_id, count(*) FROM items GROUP BY ALL ORDER BY ALL") == [
            (TRIAL, 40),
            ("renamed", 40),
        ]
        assert state_of(ask, "renamed") == "done"

    def test_a_trial_that_the_plan_does_not_name_stays_in_its_journal(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_all()
        study.write_plan(trials=[trial for trial in study.trials() if trial["trial"] != TRIAL])
        publish(study.paths)
        assert ask(f"FROM perplexity WHERE trial_id = '{TRIAL}'") == []
        assert ask("SELECT count(*) FROM trials") == [(5,)]

    def test_without_a_plan_every_trial_counts_as_it_was_attempted_last(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_all()
        publish(study.paths)
        planned = ask("SELECT * EXCLUDE (position) FROM trials ORDER BY trial_id")
        study.paths.plan.unlink()
        publish(study.paths)
        assert ask("SELECT * EXCLUDE (position) FROM trials ORDER BY trial_id") == planned
        assert ask("SELECT count(*) FROM items") == [(240,)]

    def test_keys_that_could_not_be_looked_up_match_nothing(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_all()
        study.write_plan(
            protocols={model: dict.fromkeys(study.protocol) for model in study.models},
            trials=[trial | {"weights_key": None, "available": False} for trial in study.trials()],
        )
        publish(study.paths)
        assert ask("SELECT DISTINCT state, available FROM trials") == [("pending", False)]


class TestBatches:
    """The figures of a language are those of all its windows."""

    @pytest.fixture(autouse=True)
    def _windows(self, monkeypatch: pytest.MonkeyPatch, study: FakeStudy) -> None:
        monkeypatch.setattr(builder, "WINDOWS", 10)
        study.write_plan()

    def run(self, attempt: FakeAttempt, batch: int) -> None:
        """Windows 0 to 9 lose 0 to 9 nats; a batch tells of its own ones only."""
        attempt.begin("perplexity:en", batch)
        numbers = range(8) if batch == 0 else range(8, 10)
        for number in numbers:
            window = Window(
                language="en", window=90 - number, nll_nats=float(number), tokens=10, bytes=7, kl_nats=number / 10,
                top1=number, signal=20.0, noise=number / 45,
            )  # fmt: skip
            attempt.writer.write(window)
        # 94 of 100 tokens are in the lowest bin and 6 near 1 nat; all of these are in the second batch.
        counts = {0: 80} if batch == 0 else {0: 14, 470: 6}
        attempt.writer.write(TextBatch(language="en", sequence_length=11, bos=True, kl_counts=counts))
        attempt.end("perplexity:en", batch)

    def test_batches_add_up(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        self.run(attempt, 1)
        self.run(attempt, 0)
        publish(study.paths)
        assert ask(
            "SELECT perplexity, bits_per_byte, nll_nats, tokens, bytes, bos, windows FROM perplexity"
        ) == [(pytest.approx(math.exp(0.45)), pytest.approx(45 / math.log(2) / 70), 45.0, 100, 70, True, 10)]
        assert ask("SELECT kl_nats, top1, snr_db, tokens FROM fidelity") == [
            (pytest.approx(0.045), 0.45, pytest.approx(10 * math.log10(200)), 100)
        ]
        ((p95,),) = ask("SELECT kl_p95_nats FROM fidelity")
        assert p95 == pytest.approx(1e-8 * 1.04**469.5)
        assert ask('SELECT place, "window" FROM windows ORDER BY place') == [
            (place, 90 - place) for place in range(10)
        ]
        assert ask("SELECT state, seconds FROM steps WHERE step = 'perplexity:en' AND state = 'done'") == [
            ("done", 4.0)
        ]

    def test_a_language_that_lacks_a_batch_has_no_figures(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        self.run(attempt, 1)
        publish(study.paths)
        assert ask("FROM perplexity") == ask("FROM windows") == []
        assert ask(f"SELECT state FROM steps WHERE trial_id = '{TRIAL}' AND step = 'perplexity:en'") == [
            ("pending",)
        ]

    def test_a_batch_that_is_measured_again_replaces_itself_only(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        first = study.attempt(TRIAL, 1)
        for batch in (0, 1):
            self.run(first, batch)
        self.run(study.attempt(TRIAL, 2), 1)
        publish(study.paths)
        assert ask("SELECT nll_nats, windows FROM perplexity") == [(45.0, 10)]
        assert len(ask("FROM windows")) == 10


class TestStates:
    @pytest.fixture(autouse=True)
    def _planned(self, study: FakeStudy) -> None:
        study.write_plan()

    def test_pending_before_anything_ran(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        publish(study.paths)
        assert state_of(ask) == "pending"
        assert ask(f"SELECT DISTINCT state FROM steps WHERE trial_id = '{TRIAL}'") == [("pending",)]

    def test_running_while_a_runner_is_at_it(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        attempt.begin("perplexity:en")
        publish(study.paths, running={TRIAL})
        assert ask(f"SELECT state, stage, stages_done FROM trials WHERE trial_id = '{TRIAL}'") == [
            ("running", "perplexity:en", 1)
        ]
        assert ask(
            f"SELECT step, state FROM steps WHERE trial_id = '{TRIAL}' AND state <> 'pending' ORDER BY ALL"
        ) == [
            ("compress", "done"),
            ("perplexity:en", "running"),
        ]
        assert ask("SELECT state FROM attempts") == [("running",)]

    def test_stopped_when_the_attempt_has_no_end_and_no_runner(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.attempt(TRIAL).begin("compress")
        publish(study.paths)
        assert state_of(ask) == "stopped"
        assert ask("SELECT state FROM attempts") == [("stopped",)]

    def test_stopped_on_request(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        attempt = study.attempt(TRIAL)
        attempt.begin("compress")
        attempt.fail("compress", "stopped on request", "stopped")
        publish(study.paths)
        assert state_of(ask) == "stopped"
        assert ask("FROM failures") == []

    def test_failed_with_step_error_cause_and_hint(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        attempt = study.attempt(TRIAL)
        attempt.begin("compress")
        attempt.fail("compress")
        publish(study.paths)
        assert ask("SELECT trial_id, stage, cause, error, hint, attempts FROM failures") == [
            (TRIAL, "compress", "out_of_memory", "out of memory at block 3", "use fewer samples", 1)
        ]

    def test_failed_at_one_evaluation_keeps_the_others(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        attempt.begin("perplexity:en")
        attempt.fail_step("perplexity:en", "too short", "error")
        attempt.run("perplexity:sw")
        attempt.finish("failed", "perplexity:en: too short")
        publish(study.paths)
        assert ask(f"SELECT state, stage, error FROM trials WHERE trial_id = '{TRIAL}'") == [
            ("failed", "perplexity:en", "too short")
        ]
        assert ask("SELECT language FROM perplexity") == [("sw",)]

    def test_a_failure_counts_no_more_when_something_else_is_asked_for(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        attempt = study.attempt(TRIAL)
        attempt.run("compress")
        attempt.begin("perplexity:en")
        attempt.fail("perplexity:en")
        study.write_plan(protocols={model: {"perplexity:en": "another-key"} for model in study.models})
        publish(study.paths)
        assert state_of(ask) == "pending"

    def test_a_failure_while_loading(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        attempt = study.attempt(TRIAL)
        attempt.begin("load")
        attempt.fail("load", "no such file", "error")
        publish(study.paths)
        assert ask("SELECT stage, error FROM failures") == [("load", "no such file")]

    def test_done_after_a_retry(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        first = study.attempt(TRIAL, 1)
        first.begin("compress")
        first.fail("compress")
        study.attempt(TRIAL, 2).run_all()
        publish(study.paths)
        assert ask(f"SELECT state, error, attempts FROM trials WHERE trial_id = '{TRIAL}'") == [
            ("done", None, 2)
        ]


class TestParts:
    """A part that is gone costs its own rows, and says so."""

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda path: path.unlink(), "the file is gone"),
            (lambda path: path.write_bytes(path.read_bytes()[:-10]), "the file is damaged"),
            (lambda path: path.write_bytes(b""), "the file is damaged"),
            (
                lambda path: pq.write_table(pq.read_table(path).slice(0, 3), path),
                "it has 3 rows and its journal says 10",
            ),
            (
                lambda path: pq.write_table(pq.read_table(path).drop(["gold"]), path),
                "it does not have the columns gold",
            ),
        ],
        ids=["missing", "torn", "empty", "other rows", "no gold"],
    )
    def test_the_rest_is_published(
        self, study: FakeStudy, ask: Callable[[str], Rows], damage: Callable[[Path], object], reason: str
    ) -> None:
        study.write_all()
        damage(study.paths.part(TRIAL, 1, "boolq.1"))
        publish(study.paths)
        assert ask("SELECT count(*) FROM items") == [(230,)]
        assert ask("SELECT stage, message FROM warnings WHERE message LIKE 'item%'") == [
            ("task:boolq", f"item rows of {TRIAL}.1.boolq.1.parquet are missing here: {reason}")
        ]
        assert state_of(ask) == "done"

    def test_parts_of_before_version_0_2_have_no_score_and_no_passage(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_all()
        path = study.paths.part(TRIAL, 1, "boolq.1")
        pq.write_table(pq.read_table(path).drop(["score", "passage"]), path)
        publish(study.paths)
        assert ask("SELECT count(*), count(score), count(passage) FROM items") == [(240, 230, 230)]
        assert ask("FROM warnings WHERE message LIKE 'item%'") == []

    def test_values_of_another_type(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_all()
        path = study.paths.part(TRIAL, 1, "boolq.1")
        table = pq.read_table(path)
        pq.write_table(table.set_column(2, "gold", pa.array(["a"] * table.num_rows)), path)
        publish(study.paths)
        assert ask("SELECT count(*), sum(correct) FROM items") == [(230, 2 * 2 * (12 + 7 + 12) - 3)]
        assert len(ask("SELECT message FROM warnings WHERE message LIKE 'item rows%'")) == 1

    def test_damage_behind_a_whole_footer(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.write_all()
        path = study.paths.part(TRIAL, 1, "boolq.1")
        data = path.read_bytes()
        path.write_bytes(data[:4] + b"\xff" * 200 + data[204:])
        publish(study.paths)
        assert ask("SELECT count(*) FROM items") == [(230,)]
        assert len(ask("SELECT message FROM warnings WHERE message LIKE 'item rows%'")) == 1


class TestFile:
    def test_a_damaged_journal_names_file_and_line(self, study: FakeStudy) -> None:
        path = study.write_all().paths.attempt_journal(TRIAL, 1)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:8], b"damage\n", *lines[8:]]))
        with pytest.raises(StudyError, match=r"line 9 of alpha\.wanda-0\.5\.1\.jsonl is damaged"):
            publish(study.paths)

    def test_a_plan_that_is_none(self, study: FakeStudy) -> None:
        study.write_all()
        for content, reason in (
            ("{", "is no JSON"),
            ("[]", "is no plan"),
            ('{"version": 1}', "is no plan .*'protocols'"),
            ('{"version": 2}', "is no plan .*`study`"),
            ('{"version": 3}', "later studyctl"),
        ):
            study.paths.plan.write_text(content)
            with pytest.raises(StudyError, match=reason):
                publish(study.paths)

    def test_what_a_killed_publisher_left_is_removed(self, study: FakeStudy) -> None:
        study.write_all()
        left = study.root / f".study.duckdb.{machine()}-{2**22 - 1}.abc.tmp"
        left.write_bytes(b"half")
        left.with_name(f"{left.name}.wal").write_bytes(b"the other half")
        publish(study.paths)
        assert database_files(study) == ["study.duckdb"]

    def test_what_another_machine_is_making_is_left_alone(self, study: FakeStudy) -> None:
        study.write_all()
        other = study.root / f".study.duckdb.elsewher-{2**22 - 1}.abc.tmp"
        other.write_bytes(b"half")
        publish(study.paths)
        assert database_files(study) == [other.name, "study.duckdb"]

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
    def test_without_space_the_old_database_stays_and_nothing_is_left(
        self, study: FakeStudy, share: float
    ) -> None:
        """The limit of a file's size is that of a process: a disk that is full, without a disk."""
        study.write_all()
        publish(study.paths)
        before = study.paths.database.read_bytes()
        said = subprocess.run(
            [sys.executable, "-c", WITHOUT_SPACE, str(study.root), str(int(len(before) * share))],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said == f"cannot write {study.paths.database}: File too large\n"
        assert study.paths.database.read_bytes() == before
        assert database_files(study) == ["study.duckdb"]

    def test_a_study_that_was_lost_meanwhile_keeps_the_database_of_its_new_runner(
        self, study: FakeStudy
    ) -> None:
        study.write_all()
        study.paths.database.write_bytes(b"theirs")

        def lost() -> None:
            raise HeldError("taken over")

        with pytest.raises(HeldError):
            publish(study.paths, before_replacing=lost)
        assert study.paths.database.read_bytes() == b"theirs"
        assert database_files(study) == ["study.duckdb"]

    def test_a_folder_with_odd_characters(self, tmp_path: Path) -> None:
        study = FakeStudy(tmp_path / "it's [a] *study* ü", models=("org/alpha",)).write_all()
        publish(study.paths)
        with closing(open_reader(study.paths)) as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchall() == [(120,)]

    def test_an_empty_study(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.root.mkdir()
        assert publish(study.paths).rows == 1
        assert ask("FROM leaderboard") == []

    def test_a_folder_that_cannot_be_written(self, study: FakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
        study.write_all()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.touch", full)
        with pytest.raises(StudyError, match="No space left on device") as caught:
            publish(study.paths)
        assert "studyctl db rebuild small" in caught.value.problems[0].hint

    def test_an_index_that_is_kept_publishes_the_same(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.write_plan()
        index = Index(study.paths)
        attempt = study.attempt(TRIAL)
        for step in attempt.steps:
            attempt.run(step)
            publish(study.paths, index=index)
        assert ask(f"SELECT stages_done FROM trials WHERE trial_id = '{TRIAL}'") == [(6,)]


def read_until(root: Path, last: str, reports: Any) -> None:
    """Read in a loop until the study has this title; report how often, and what was inconsistent."""
    paths = StudyPaths(root)
    reads, wrong = 0, []
    while True:
        with results.open(paths) as opened:
            title = opened.about().title
            rows = opened.leaderboard()
            if len(rows) != 1 + int(title) % 2 or len(opened.perplexity()) != 3 * len(rows):
                wrong.append((title, len(rows)))
        reads += 1
        if title == last:
            break
    reports.put((reads, wrong))


def test_a_reader_never_sees_an_error_or_half_a_state(tmp_path: Path) -> None:
    times = 30
    study = FakeStudy(
        tmp_path / "small", models=("org/alpha",), variants=("dense", "rtn-4bit-g64"), tasks=()
    ).write_all()

    def publish_generation(number: int) -> None:
        study.write_plan(title=str(number), trials=study.trials()[: 1 + number % 2])
        publish(study.paths)

    publish_generation(0)
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    reader = context.Process(target=read_until, args=(study.root, str(times), reports))
    reader.start()
    for number in range(1, times + 1):
        publish_generation(number)
    reads, wrong = reports.get(timeout=60)
    reader.join(timeout=60)
    assert wrong == []
    assert reads >= 1
    assert reader.exitcode == 0


def test_an_open_reader_keeps_what_it_has(study: FakeStudy) -> None:
    study.write_plan()
    publish(study.paths)
    with results.open(study.paths) as old:
        study.attempt("alpha.dense").run_all()
        publish(study.paths)
        with results.open(study.paths) as new:
            assert next(row.state for row in new.leaderboard()) == "done"
            assert next(row.state for row in old.leaderboard()) == "pending"


class TestMcNemar:
    @pytest.mark.parametrize(
        ("lost", "won", "p"),
        [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (6, 1, 0.125), (10, 0, 2 / 1024), (5, 0, 0.0625)],
    )
    def test_known_values(self, lost: int, won: int, p: float) -> None:
        assert mcnemar_p(lost, won) == pytest.approx(p, rel=1e-12)

    @given(st.integers(0, 300), st.integers(0, 300))
    def test_it_is_the_exact_binomial_sum(self, lost: int, won: int) -> None:
        total, fewer = lost + won, min(lost, won)
        exact = min(1.0, 2 * sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total)
        assert mcnemar_p(lost, won) == pytest.approx(exact, rel=1e-9)

    def test_many_items_cost_nothing(self) -> None:
        assert 0 < mcnemar_p(50_000, 49_000) < 0.01


def test_the_file_is_of_the_storage_version_that_older_clients_read(study: FakeStudy) -> None:
    publish(study.write_all().paths)
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{study.paths.database}' AS study (READ_ONLY)")
        ((tags,),) = connection.execute(
            "SELECT tags FROM duckdb_databases() WHERE database_name = 'study'"
        ).fetchall()
    assert tags["storage_version"].startswith("v1.2.0")


def test_options_are_json(study: FakeStudy, ask: Callable[[str], Rows]) -> None:
    publish(study.write_all().paths)
    ((options,),) = ask(f"SELECT options FROM trials WHERE trial_id = '{TRIAL}'")
    assert json.loads(options) == {"method": "wanda"}
