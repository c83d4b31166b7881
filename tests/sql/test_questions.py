"""The ready queries: each runs on every study, and the important ones say what they promise."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studyctl.sql.questions import Question, about_trial, questions
from studyctl.store.publish import publish
from studyctl.store.session import Session
from tests.store.builder import FakeStudy
from tests.tui import studies

ROWLESS = {
    "Activations: error by depth",
    "What pruning costs per language",
    "Do other packages do the same?",
    "Failures and their causes",
}
"""Those that have nothing to say of a finished study of one backend whose spec asks for no sparsity and no activations."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    study = FakeStudy(tmp_path_factory.mktemp("questions") / "small").write_all()
    publish(study.paths)
    session = Session(study.paths)
    yield session
    session.close()


def ask(session: Session, title: str) -> list[dict[str, Any]]:
    chosen = next(question for question in questions() if question.title == title)
    rows: list[dict[str, Any]] = session.run(chosen.sql).table.to_pylist()
    return rows


def test_there_are_enough_and_each_is_explained() -> None:
    assert len(questions()) >= 15
    assert len({question.title for question in questions()}) == len(questions())
    for question in questions():
        assert question.about.endswith((".", "?")), question.title
        assert question.sql.endswith(";"), question.title
        assert max(map(len, question.title.splitlines())) <= 60


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.title)
def test_each_runs_on_a_finished_study(session: Session, question: Question) -> None:
    table = session.run(question.sql).table
    assert table.num_columns > 1
    assert (table.num_rows > 0) == (question.title not in ROWLESS)


@pytest.mark.parametrize(
    "make", [studies.empty, studies.running, studies.failed], ids=lambda make: make.__name__
)
def test_each_runs_on_a_study_that_has_just_begun(tmp_path: Path, make: Any) -> None:
    study = make(tmp_path / "small")
    publish(study.paths)
    session = Session(study.paths)
    for question in questions():
        session.run(question.sql)
    session.close()


def test_the_best_variant_per_bit_names_what_beats_a_variant(session: Session) -> None:
    rows = ask(session, "Best variant per bit")
    beaten = {row["variant"]: row["beaten_by"] for row in rows if row["model"] == "org/alpha"}
    assert beaten == {"rtn-4bit-g64": None, "wanda-0.5": "rtn-4bit-g64", "dense": None}


def test_the_language_that_suffers_most_comes_first(session: Session) -> None:
    rows = ask(session, "Languages that suffer most")
    assert [row["language"] for row in rows] == ["sw", "zh", "en"]
    assert rows[0]["times_worst"] == 4
    assert rows[0]["worst_bits_per_byte"] == pytest.approx(
        math.log2(1.5 * 1.2) / 5
    )  # 400 tokens, 2,000 bytes


def test_english_hides_the_loss(session: Session) -> None:
    rows = ask(session, "Does English hide the loss?")
    assert [row["beyond_english"] for row in rows] == pytest.approx([math.log2(1.2) / 5] * 4)


def test_items_that_flip_under_most_variants_come_first(session: Session) -> None:
    first = ask(session, "Which items flipped")[0]
    assert (first["item"], first["variants"], first["to_wrong"], first["to_right"]) == (0, 2, 2, 0)


def test_backends_stand_beside_ours(tmp_path: Path) -> None:
    study = studies.two_backends(tmp_path / "small")
    session = Session(study.paths)
    rows = ask(session, "Do other packages do the same?")
    session.close()
    assert [(row["setting"], row["backend"], row["speedup"]) for row in rows] == [
        ("wanda-0.5", "studyctl", 1.0),
        ("wanda-0.5", "llm-compressor", None),  # it failed
        ("rtn-4bit-g64", "studyctl", 1.0),
        ("rtn-4bit-g64", "gptqmodel", 3.0),
        ("rtn-4bit-g64", "llm-compressor", 1.5),
    ]


def test_a_failure_is_told_with_its_cause_and_hint(tmp_path: Path) -> None:
    study = studies.failed(tmp_path / "small")
    session = Session(study.paths)
    (row,) = ask(session, "Failures and their causes")
    assert (row["cause"], row["hint"]) == ("out_of_memory", "use fewer samples")
    session.close()


def test_pruned_variants_are_those_whose_settings_say_so(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small", models=("org/alpha",)).write_all()
    trials = study.trials()
    for trial in trials:
        if trial["variant"].startswith("wanda"):
            trial["settings"] |= {"sparsity": 0.5}
    study.write_plan(trials=trials)
    publish(study.paths)
    session = Session(study.paths)
    rows = ask(session, "What pruning costs per language")
    assert {(row["variant"], row["language"]) for row in rows} == {
        ("wanda-0.5", language) for language in study.languages
    }
    session.close()


@pytest.mark.parametrize("trial", ["alpha.wanda-0.5", "nobody's"])
def test_everything_about_one_trial(session: Session, trial: str) -> None:
    rows = session.run(about_trial(trial)).table.to_pylist()
    kinds = {row["kind"] for row in rows}
    assert kinds == ({"perplexity", "acc", "acc_norm", "seconds"} if trial.startswith("alpha") else set())
