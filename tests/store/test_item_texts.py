"""The texts of items: published once for all that share them, beside the answers of dense and the variant."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studyctl.contract.records import Items, TaskFigure
from studyctl.files import StudyPaths, digest
from studyctl.journal.parts import keep_texts, write_items
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from tests.store.builder import ITEMS, FakeAttempt, FakeStudy, item_table

RTN = "alpha.rtn-4bit-g64"
Rows = list[tuple[Any, ...]]


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "small", languages=())


@pytest.fixture
def ask(study: FakeStudy) -> Callable[[str], Rows]:
    def query(sql: str) -> Rows:
        publish(study.paths)
        with closing(open_reader(study.paths)) as connection:
            return connection.execute(sql).fetchall()

    return query


def texts_of(paths: StudyPaths, task: str) -> Path:
    return paths.item_texts(digest(task))


def test_models_with_the_same_prompts_share_them(study: FakeStudy, ask: Callable[[str], Rows]) -> None:
    study.write_all()
    assert ask("SELECT task, count(*), count(DISTINCT item) FROM item_texts GROUP BY ALL ORDER BY ALL") == [
        ("arc_easy", ITEMS, ITEMS),
        ("boolq", ITEMS, ITEMS),
    ]
    assert ask("SELECT model, item, prompt FROM flips WHERE variant = 'rtn-4bit-g64' AND task = 'boolq' ORDER BY ALL") == [
        (model, item, f"boolq: where is boat {item}?\nAnswer:")
        for model in study.models
        for item in (0, 13)
    ]  # fmt: skip


def test_models_with_prompts_of_their_own_keep_their_own(tmp_path: Path) -> None:
    class Templates(FakeStudy):
        def texts_key(self, task: str, model: str) -> str:
            return digest([task, model])

    study = Templates(tmp_path / "small", languages=()).write_all()
    publish(study.paths)
    with closing(open_reader(study.paths)) as connection:
        counted = "SELECT count(*), count(DISTINCT texts_key) FROM item_texts"
        assert connection.execute(counted).fetchall() == [(2 * 2 * ITEMS, 4)]
        flips = connection.execute("SELECT count(*), count(prompt) FROM flips").fetchall()
        assert flips == [(2 * 2 * (7 + 2), 2 * 2 * (7 + 2))], "one row a flip, each with its text"


def test_answers_are_texts(study: FakeStudy) -> None:
    """Item 0 asks where boat 0 is: at sea. Item 13 is one of the odd ones, in the harbour."""
    publish(study.write_all().paths)
    with results.open(study.paths) as reader:
        lost, won = reader.flips(RTN, "boolq")
        assert len(reader.flips(RTN)) == 4
        assert [flip.task for flip in reader.flips(RTN)] == ["arc_easy", "arc_easy", "boolq", "boolq"]
    assert (lost.item, lost.direction) == (0, "right_to_wrong")
    assert (lost.right_answer, lost.dense_answer, lost.answer) == ("at sea", "at sea", "in the harbour")
    assert (won.item, won.direction) == (13, "wrong_to_right")
    assert (won.right_answer, won.dense_answer, won.answer) == ("in the harbour", "at sea", "in the harbour")
    assert won.choices == ["at sea", "in the harbour"]


def test_generated_answers_are_those_of_both_models(study: FakeStudy, ask: Callable[[str], Rows]) -> None:
    study.write_plan()
    texts = pa.table(
        {"item": pa.array([0], pa.int32()), "prompt": ["6 · 7 ="], "choices": pa.array([[]], pa.list_(pa.string())), "target": ["42"]}
    )  # fmt: skip
    name = keep_texts(study.paths, "key", texts).name

    def generate(trial: str, answer: str) -> None:
        attempt: FakeAttempt = study.attempt(trial)
        if trial != "alpha.dense":
            attempt.run("compress")
        attempt.begin("task:boolq")
        items = item_table("boolq", "dense", [0]).drop(
            ["gold", "predicted", "loglikelihoods", "correct", "score"]
        )
        items = items.append_column("gold", pa.array([None], pa.int32()))
        items = items.append_column("predicted", pa.array([None], pa.int32()))
        items = items.append_column("loglikelihoods", pa.array([[]], pa.list_(pa.float64())))
        items = items.append_column("correct", pa.array([answer == "42"]))
        items = items.append_column("score", pa.array([float(answer == "42")]))
        items = items.append_column("answer", pa.array([answer]))
        part = write_items(study.paths, trial, 1, "boolq", items)
        attempt.writer.write(Items(task="boolq", part=part.name, rows=1, texts=name))
        attempt.writer.write(TaskFigure(task="boolq", metric="exact_match", value=0.0, items=1, main=True))
        attempt.end("task:boolq")
        attempt.finish()

    generate("alpha.dense", "42")
    generate(RTN, "24")
    assert ask("SELECT direction, prompt, choices, right_answer, dense_answer, answer FROM flips") == [
        ("right_to_wrong", "6 · 7 =", [], "42", "42", "24")
    ]


class TestWithoutTexts:
    """Everything works, and texts are NULL."""

    def test_of_a_study_from_before(self, study: FakeStudy, ask: Callable[[str], Rows]) -> None:
        study.texts = False
        study.write_all()
        flips = ask(
            "SELECT count(*), count(gold), count(prompt), count(choices), count(right_answer), count(answer) FROM flips"
        )
        assert flips == [(36, 36, 0, 0, 0, 0)]
        assert ask("SELECT DISTINCT texts_key FROM steps") == [(None,)]
        assert ask("FROM warnings WHERE message LIKE 'item%'") == []

    def test_a_trial_that_is_added_brings_them_for_all_of_its_model(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        study.texts = False
        study.write_plan()
        study.attempt("alpha.dense").run_all()
        study.attempt("alpha.wanda-0.5").run_all()
        study.texts = True
        study.attempt(RTN).run_all()
        assert ask("SELECT count(*), count(prompt) FROM flips WHERE variant = 'wanda-0.5'") == [(14, 14)]

    def test_deleted_before_the_study_was_handed_on(
        self, study: FakeStudy, ask: Callable[[str], Rows]
    ) -> None:
        for path in study.write_all().paths.items.iterdir():
            path.unlink()
        study.paths.items.rmdir()
        assert ask("SELECT count(*), count(prompt) FROM flips") == [(36, 0)]
        assert ask("SELECT count(*) FROM item_texts") == [(0,)]
        assert ask("FROM warnings WHERE message LIKE 'item%'") == [], "that is no trouble"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a plain file"),
        (lambda path: rewrite(path, lambda table: table.drop(["prompt"])), "it does not have the columns prompt"),
        (lambda path: rewrite(path, lambda table: table.set_column(0, "item", pa.array(["a"] * ITEMS))), ""),
        (lambda path: rewrite(path, invalid_text), ""),
    ],
    ids=["torn", "empty", "pipe", "no prompt", "other type", "no UTF-8"],
)  # fmt: skip
def test_a_damaged_file_costs_its_own_texts_and_says_so(
    study: FakeStudy, ask: Callable[[str], Rows], damage: Callable[[Path], object], reason: str
) -> None:
    study.write_all()
    damage(texts_of(study.paths, "boolq"))
    flips = "SELECT task, count(*), count(prompt) FROM flips GROUP BY ALL ORDER BY ALL"
    assert ask(flips) == [("arc_easy", 18, 18), ("boolq", 18, 0)]
    ((step, message),) = ask("SELECT stage, message FROM warnings WHERE message LIKE 'item%'")
    assert step == "task:boolq"
    assert message.startswith(f"item texts of {digest('boolq')}.parquet are missing here: ")
    assert reason in message


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def invalid_text(table: pa.Table) -> pa.Table:
    broken = pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).view(pa.string())
    return table.set_column(1, "prompt", broken)


@pytest.mark.parametrize("name", ["../plan.json", "/etc/passwd", "../items/key.parquet"])
def test_a_journal_names_no_file_elsewhere(study: FakeStudy, ask: Callable[[str], Rows], name: str) -> None:
    study.write_plan()
    attempt = study.attempt("alpha.dense")
    attempt.begin("task:boolq")
    part = write_items(study.paths, "alpha.dense", 1, "boolq", item_table("boolq", "dense"))
    attempt.writer.write(Items(task="boolq", part=part.name, rows=ITEMS, texts=name))
    attempt.end("task:boolq")
    attempt.finish()
    assert ask("SELECT count(*) FROM items") == [(ITEMS,)]
    ((message,),) = ask("SELECT message FROM warnings WHERE message LIKE 'item%'")
    assert message.endswith("are missing here: it is no file in the folder items")


def test_texts_larger_than_any_that_is_written_are_not_read(
    study: FakeStudy, ask: Callable[[str], Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studyctl.store.publish.MOST_BYTES", 100)
    study.write_all()
    assert ask("SELECT count(*) FROM item_texts") == [(0,)]
    messages = ask("SELECT message FROM warnings WHERE message LIKE 'item%' ORDER BY ALL")
    assert [message.endswith("it has more than 100 B of texts") for (message,) in messages] == [True, True]
