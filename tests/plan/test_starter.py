"""`studyctl init`: what is seen in a folder, and a spec that plans without a problem."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from studyctl.errors import SpecError
from studyctl.plan.planner import make_plan
from studyctl.plan.preview import preview
from studyctl.plan.starter import language_of, look, starter
from studyctl.report.plan import draw_plan
from studyctl.report.starter import write_starter
from studyctl.spec.loading import load_spec, parse_spec
from studyctl.spec.models import TextFile
from tests.run.conftest import console
from tests.run.studies import make_model, text

__all__ = ["console"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A linguist's folder: a model, texts in two languages, a quiz, and other things."""
    make_model(tmp_path / "models" / "small")
    for name in ("a.txt", "b.txt"):
        path = tmp_path / "arabic" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(text("sw", 200)))
    lines = text("de", 1600)
    for name, part in (("de-train.jsonl", lines[:800]), ("de-test.jsonl", lines[800:])):
        (tmp_path / name).write_text("".join(json.dumps({"text": line}) + "\n" for line in part))
    (tmp_path / "quiz.csv").write_text("Frage;A;B;richtig\nWo?;hier;dort;B\nWer?;ich;du;A\n")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden.txt").write_text("nothing")
    return tmp_path


def test_what_is_seen(folder: Path) -> None:
    contents = look(folder)
    assert contents.models == ["./models/small"]
    assert contents.texts == {
        "perplexity": {"ar": TextFile(file="arabic/*.txt"), "de": TextFile(file="de-test.jsonl")},
        "calibration": {"de": TextFile(file="de-train.jsonl")},
    }  # fmt: skip
    assert contents.tasks["quiz"].choices == ("A", "B")
    assert contents.left == ["notes.txt: its name has no language, such as de or german"]
    assert contents.group_size == 32  # the tiny model has 32 channels


def test_the_spec_plans_without_a_problem(folder: Path, console: Console) -> None:
    write_starter(folder, console, yes=True)
    document = load_spec(folder / "study.toml")
    plan = make_plan(document)
    assert plan.problems == []
    assert [model.id for model in document.spec.models] == ["./models/small"]
    assert {variant.name for variant in plan.variants} == {"dense", "wanda-0.5", "gptq-4bit-g32"}
    assert plan.tasks["quiz"].items == 2
    schema = json.loads((folder / "study.schema.json").read_text())
    assert schema["title"] == "studyctl study"
    assert (folder / "study.toml").read_text().startswith("#:schema ./study.schema.json\n")
    assert "text for perplexity in ar: arabic/*.txt" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_spec_that_is_there_is_kept(folder: Path, console: Console) -> None:
    (folder / "study.toml").write_text("mine")
    with pytest.raises(SpecError, match="exists already"):
        write_starter(folder, console, yes=True)
    assert (folder / "study.toml").read_text() == "mine"
    with pytest.raises(SpecError, match="there is no folder"):
        write_starter(folder / "none", console, yes=True)


def test_an_empty_folder_gives_an_example(tmp_path: Path) -> None:
    spec = parse_spec(starter("mine", look(tmp_path)), tmp_path / "study.toml").spec
    assert spec.study.name == "mine"
    assert spec.evaluation.perplexity is not None
    assert spec.evaluation.perplexity.source == "pocket"


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("ar/train.txt", "ar"), ("text.de.jsonl", "de"), ("german-1.txt", "de"), ("Swahili.txt", "sw"), ("corpus_zh.jsonl.gz", "zh"),
        ("texts/fr/a.txt", "fr"), ("notes.txt", None), ("it's.md", "it"), ("data.jsonl", None),
    ],
)  # fmt: skip
def test_the_language_of_a_path(path: str, language: str | None) -> None:
    assert language_of(Path(path)) == language


def test_texts_in_a_field_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "de.jsonl").write_text(json.dumps({"id": "1", "Inhalt": "ein langer Text"}) + "\n")
    contents = look(tmp_path)
    assert contents.column == "Inhalt"
    assert 'field = "Inhalt"' in starter("x", contents)


def test_texts_in_fields_of_unlike_names(tmp_path: Path, console: Console) -> None:
    """The field of most is that of the source; a language with another one names it."""
    for language, field in (("ar", "body"), ("de", "Inhalt"), ("en", "body")):
        (tmp_path / f"{language}.jsonl").write_text(
            "".join(json.dumps({field: line}) + "\n" for line in text("de", 400))
        )
    make_model(tmp_path / "model")
    write_starter(tmp_path, console, yes=True)
    source = load_spec(tmp_path / "study.toml").spec.text["own"]
    assert source.field == "body"
    assert source.files == {
        "perplexity": {"ar": "ar.jsonl", "de": TextFile(file="de.jsonl", field="Inhalt"), "en": "en.jsonl"}
    }
    assert "text for perplexity in de: de.jsonl, field Inhalt" in console.file.getvalue()  # type: ignore[attr-defined]
    shown = preview(load_spec(tmp_path / "study.toml"))
    assert shown.problems == []
    draw_plan(shown, console, console)
    assert "perplexity text `own` in de: field Inhalt of de.jsonl" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "language"), [("quiz-ar.csv", "ar"), ("quiz.csv", None)])
def test_the_language_of_a_quiz_is_told_by_its_name(
    tmp_path: Path, console: Console, name: str, language: str | None
) -> None:
    (tmp_path / name).write_text("question,A,B,answer\nWhere?,here,there,B\nWho?,you,me,A\n")
    make_model(tmp_path / "model")
    write_starter(tmp_path, console, yes=True)
    (task,) = load_spec(tmp_path / "study.toml").spec.evaluation.tasks.own.values()  # type: ignore[union-attr]
    assert task.language == language
    shown = preview(load_spec(tmp_path / "study.toml"))
    draw_plan(shown, console, console)
    heads = {"ar": "task quiz-ar (ar), 2 items: Where?", None: "task quiz, 2 items: Where?"}
    assert heads[language] in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("row", "question", "choices"),
    [
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, ["question"], ["choices.text"]),
        ({"question": "?", "choices": [{"text": "x"}, {"text": "y"}], "answerKey": "B"}, ["question"], ["choices.text"]),
        ({"question": "?", "options": ["x", "y"], "label": 0}, ["question"], ["options"]),
        ({"flores_passage": "p", "question": "?", "mc_answer1": "x", "mc_answer2": "y", "correct_answer_num": "2"}, ["flores_passage", "question"], ["mc_answer1", "mc_answer2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_common_data_sets_are_recognized(
    tmp_path: Path, row: dict[str, object], question: list[str], choices: list[str], suffix: str
) -> None:
    path = tmp_path / f"quiz{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    task = look(tmp_path).tasks["quiz"]
    assert (list(task.question), list(task.choices)) == (question, choices)


def test_a_table_that_is_no_quiz_is_no_task(tmp_path: Path) -> None:
    (tmp_path / "quiz.csv").write_text("question,A,B,answer\nWhere?,here,there,Z\n")
    assert not look(tmp_path).tasks
