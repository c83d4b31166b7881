"""`studyctl init`: what is seen in a folder, and a spec that plans without a problem."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from studyctl.errors import SpecError
from studyctl.plan.contents import look
from studyctl.plan.filenames import language_of
from studyctl.plan.planner import make_plan
from studyctl.plan.preview import preview
from studyctl.plan.starter import starter
from studyctl.report.plan import draw_plan
from studyctl.report.starter import write_starter
from studyctl.spec.loading import load_spec, parse_spec
from studyctl.spec.models import BUNDLED_LANGUAGES, TextFile
from tests.run.conftest import console
from tests.run.studies import make_model, text

__all__ = ["console"]


def printed(console: Console) -> str:
    """Return what was printed on a console, in lines as they were written."""
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def write_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Write rows in the format that the name of the file tells."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


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
    assert list(contents.models) == ["./models/small"]
    assert contents.texts == {
        "perplexity": {"ar": TextFile(file="arabic/*.txt"), "de": TextFile(file="de-test.jsonl")},
        "calibration": {"de": TextFile(file="de-train.jsonl")},
    }  # fmt: skip
    assert contents.tasks["quiz"].choices == ("A", "B")
    assert contents.left == ["notes.txt: its name has no language, such as de or german"]


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
    assert "text for perplexity in ar: arabic/*.txt" in printed(console)


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
        ("texts/fr/a.txt", "fr"), ("notes.txt", None), ("data.jsonl", None), ("de train.txt", "de"), ("Deutsch.txt", "de"), ("español/a.txt", "es"), ("espan\u0303ol.txt", "es"),
        ("中文.txt", "zh"), ("it.txt", "it"), ("quiz-it.csv", "it"), ("it/quiz.csv", "it"), ("it's a quiz.csv", None), ("what is it.csv", None),
        ("my texts/a.txt", None), ("l’it.txt", None),
    ],
)  # fmt: skip
def test_the_language_of_a_path(path: str, language: str | None) -> None:
    assert language_of(Path(path)) == language


def test_texts_in_a_field_of_another_name(tmp_path: Path) -> None:
    rows = ({"id": str(row), "Inhalt": line} for row, line in enumerate(text("de", 20)))
    write_rows(tmp_path / "de.jsonl", *rows)
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
    assert "text for perplexity in de: de.jsonl, field Inhalt" in printed(console)
    shown = preview(load_spec(tmp_path / "study.toml"))
    assert shown.problems == []
    draw_plan(shown, console, console)
    assert "perplexity text `own` in de: field Inhalt of de.jsonl" in printed(console)


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
    assert heads[language] in printed(console)


@pytest.mark.parametrize(
    ("row", "question", "choices"),
    [
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, ["question"], ["choices.text"]),
        ({"question": "?", "choices": [{"text": "x"}, {"text": "y"}], "answerKey": "B"}, ["question"], ["choices.text"]),
        ({"question": "?", "options": ["x", "y"], "label": 0}, ["question"], ["options"]),
        ({"flores_passage": "p", "question": "?", "mc_answer1": "x", "mc_answer2": "y", "correct_answer_num": "2"}, ["flores_passage", "question"], ["mc_answer1", "mc_answer2"]),
        ({"question": {"stem": "?", "choices": [{"text": "x"}, {"text": "y"}]}, "answerKey": "B"}, ["question.stem"], ["question.choices.text"]),
        ({"goal": "?", "sol1": "x", "sol2": "y", "label": 0}, ["goal"], ["sol1", "sol2"]),
        ({"ctx": "?", "endings": ["x", "y"], "activity_label": "z", "label": "0"}, ["ctx"], ["endings"]),
        ({"question": "?", "distractor1": "x", "distractor2": "y", "correct_answer": "z", "support": "s"}, ["question"], ["correct_answer", "distractor1", "distractor2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_common_data_sets_are_recognized(
    tmp_path: Path, row: dict[str, object], question: list[str], choices: list[str], suffix: str
) -> None:
    write_rows(tmp_path / f"quiz{suffix}", row)
    task = look(tmp_path).tasks["quiz"]
    assert (list(task.question), list(task.choices)) == (question, choices)


@pytest.mark.parametrize("language", ["", "-en"])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "is it?", "passage": "a long passage about it", "answer": True},
         "as a table of questions it needs a column for choices (`choices`, or `A`, `B`); it has `question`, `passage`, `answer`"),
        ({"sentence1": "A long sentence.", "sentence2": "Another.", "label": 1},
         "as a table of questions it needs a column for the question (`question`) and choices (`choices`, or `A`, `B`); it has `sentence1`, `sentence2`, `label`"),
        ({"question": "which of these?", "choices": ["a", "b"]},
         "as a table of questions it needs a column for the answer (`answer`); it has `question`, `choices`"),
        ({"question": "which of these?", "choices": ["a", "b", "c"], "answer": 1},
         "it looks like a table of questions, but its answers are numbers, and it cannot be told whether the first choice is 0 or 1 "
         "(write `first_number = 0` or `first_number = 1`)"),
        ({"kind": "A", "number": 1}, "it has no field with text: `kind` holds labels"),
        ({"number": 1}, "it has no field with text"),
    ],
)  # fmt: skip
def test_a_table_of_questions_is_never_a_text(
    tmp_path: Path, row: dict[str, Any], reason: str, language: str
) -> None:
    write_rows(tmp_path / f"quiz{language}.jsonl", row)
    contents = look(tmp_path)
    assert contents.left == [f"quiz{language}.jsonl: {reason}"]
    assert not contents.texts
    assert not contents.tasks


def test_a_label_beside_text_does_not_matter(tmp_path: Path) -> None:
    write_rows(tmp_path / "de.jsonl", *({"label": "A", "text": line} for line in text("de", 40)))
    assert look(tmp_path).texts == {"perplexity": {"de": TextFile(file="de.jsonl")}}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"question,A,B,answer\nWhere?,here,there,Z\n", "it looks like a table of questions, but the answer `Z` of `{}:2` is none of its 2 choices"),
        ("question,A,B,answer\nWo?,für,da,A\n".encode("latin-1"), "`{}:2` is not UTF-8 (save the file as UTF-8)"),
        (b"question,A,A,answer\nWhere?,here,there,A\n", "`{}` has column `A` twice"),
        (b"a,b\n1,2\n", "as a table of questions it needs a column for the question (`question`) and the answer (`answer`); it has `a`, `b`"),
        (b"", "it is empty"),
    ],
)  # fmt: skip
def test_a_csv_that_cannot_be_read_is_left_out_with_the_reason(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "quiz.csv"
    path.write_bytes(data)
    contents = look(tmp_path)
    assert not contents.tasks
    (left,) = contents.left
    assert left.startswith(f"quiz.csv: {reason.format(path)}")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("de.txt", b"kurz", "4 bytes are too few for a window of 256 tokens"),
        ("de.jsonl", b"", "it is empty"),
        ("de.jsonl", b'{"text": "a"}\n{"text": ', "`{}:2` is no JSON"),
        ("de.txt", "schön".encode("latin-1"), "`{}:1` is not UTF-8 (byte 3) (save the file as UTF-8)"),
        ("de.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-20], "`{}` is no gzip file, or is cut short"),
        ("de.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-20], "it cannot be read: Compressed file ended"),
        ("de.parquet", b"nothing of the kind", "it is not a Parquet file"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_used_is_left_out_with_the_reason(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    contents = look(tmp_path)
    assert not contents.texts
    (left,) = contents.left
    assert left.startswith(f"{name}: {reason.format(path)}")
    assert "[text" not in starter("x", contents)


def test_a_text_longer_than_the_head_of_a_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "de.jsonl", {"body": "Boote " * 20_000})
    assert look(tmp_path).column == "body"


def test_one_text_of_a_language_is_used_and_the_others_are_named(tmp_path: Path) -> None:
    """The one whose name says what it is for goes before others; one that is too short makes room."""
    for name in ("de.txt", "de-test.txt", "de-valid.txt", "en-test.txt", "en.txt"):
        (tmp_path / name).write_text("short" if name == "en-test.txt" else "\n".join(text("de", 60)))
    contents = look(tmp_path)
    assert contents.texts == {
        "perplexity": {"de": TextFile(file="de-test.txt"), "en": TextFile(file="en.txt")}
    }
    assert contents.left == [
        "de-valid.txt: there is another text for perplexity in de",
        "en-test.txt: 5 bytes are too few for a window of 256 tokens",
        "de.txt: there is another text for perplexity in de",
    ]


def test_texts_beside_the_files_of_a_model(tmp_path: Path, console: Console) -> None:
    make_model(tmp_path)
    (tmp_path / "merges.txt").write_text("a b\n")
    for purpose, lines in (("train", text("en", 900)), ("test", text("en", 901))):
        write_rows(tmp_path / "en" / f"{purpose}.jsonl", *({"text": line} for line in lines))
    write_starter(tmp_path, console, yes=True)
    document = load_spec(tmp_path / "study.toml")
    assert [model.id for model in document.spec.models] == ["."]
    assert document.spec.text["own"].files == {
        "calibration": {"en": "en/train.jsonl"},
        "perplexity": {"en": "en/test.jsonl"},
    }
    assert make_plan(document).problems == []
    assert "left out" not in printed(console)


def test_a_text_for_calibration_is_not_measured_on(tmp_path: Path, console: Console) -> None:
    make_model(tmp_path)
    for name in ("en-train.txt", "en-test.txt"):
        (tmp_path / name).write_text("\n".join(text("en", 900)))
    write_starter(tmp_path, console, yes=True)
    assert load_spec(tmp_path / "study.toml").spec.text["own"].files == {
        "calibration": {"en": "en-train.txt"}
    }
    assert "left out: en-test.txt: it has the same text as the file for calibration" in printed(console)


def test_a_model_that_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path) -> None:
    make_model(tmp_path / "good")
    (make_model(tmp_path / "broken") / "config.json").write_text("{")
    (make_model(tmp_path / "empty") / "model.safetensors").unlink()
    contents = look(tmp_path)
    assert list(contents.models) == ["./good"]
    broken, empty = contents.left
    assert broken.startswith(f"broken: config.json of `{tmp_path}/broken` cannot be read: ")
    assert empty.startswith("empty: ")
    assert "safetensors" in empty


def test_a_model_without_texts_is_calibrated_on_as_much_bundled_text_as_there_is(
    tmp_path: Path, console: Console
) -> None:
    make_model(tmp_path / "model")
    write_starter(tmp_path, console, yes=True)
    document = load_spec(tmp_path / "study.toml")
    assert make_plan(document).problems == []
    assert document.spec.calibration.source == "pocket"
    assert document.spec.calibration.languages == ("en",)


def test_no_more_windows_are_asked_for_than_a_short_text_has(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "de-train.txt").write_text("\n".join(text("de", 20)))
    document = parse_spec(starter("x", look(tmp_path)), tmp_path / "study.toml")
    assert make_plan(document).problems == []
    assert document.spec.calibration.source == "own"
    assert 1 <= document.spec.calibration.samples < 32
    assert document.spec.evaluation.perplexity is not None
    assert document.spec.evaluation.perplexity.languages == ("de",)  # of the bundled text


def test_a_wide_model_is_calibrated_on_the_bundled_text_of_all_languages(tmp_path: Path) -> None:
    """What English has would be too little for Hessians that can be inverted."""
    make_model(tmp_path / "model")
    contents = look(tmp_path)
    (name, model) = next(iter(contents.models.items()))
    contents.models[name] = replace(model, linears={"wide": (8, 4096)}, folder=None)  # no tokenizer
    calibration = parse_spec(starter("x", contents), tmp_path / "study.toml").spec.calibration
    assert calibration.languages == BUNDLED_LANGUAGES
    # Each of 7 languages has at least 7 windows of 128 tokens, if a token has 8 bytes.
    assert (calibration.samples, calibration.sequence_length) == (49, 128)


def test_a_spec_that_does_not_plan_is_an_error(tmp_path: Path, console: Console) -> None:
    weights = make_model(tmp_path / "model") / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.qweight"] = tensors.pop("model.layers.0.mlp.up_proj.weight").astype(
        "int32"
    )
    save_file(tensors, weights)
    with pytest.raises(SpecError, match="are quantized already"):
        write_starter(tmp_path, console, yes=True)
    assert "wrote" in printed(console)
    assert "next:" not in printed(console)


def test_the_next_command_can_be_pasted(tmp_path: Path, console: Console) -> None:
    folder = tmp_path / "e ü"
    make_model(folder / "model")
    write_starter(folder, console, yes=True)
    assert f"next: studyctl plan '{folder}/study.toml'\n" in printed(console)
    with pytest.raises(SpecError) as caught:
        write_starter(folder, console, yes=True)
    assert caught.value.problems[0].hint == f"`studyctl edit '{folder}/study.toml'` opens it"


def test_a_folder_without_a_model_is_told_which_one_the_spec_has(tmp_path: Path, console: Console) -> None:
    write_starter(tmp_path, console, yes=True)
    (model,) = load_spec(tmp_path / "study.toml").spec.models
    assert f"model {model.id}: an example, no model here can be used\n" in printed(console)


def test_only_so_many_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.plan.contents.MOST_FILES", 1)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("question,A,B,answer\nWhere?,here,there,B\n")
    contents = look(tmp_path)
    assert list(contents.tasks) == ["a"]
    assert contents.left == ["everything else: only the first 1 files are looked at"]


def test_a_name_with_dots_is_no_table_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "quiz.v1.csv").write_text("question,A,B,answer\nWhere?,here,there,B\n")
    spec = parse_spec(starter("x", look(tmp_path)), tmp_path / "study.toml").spec
    assert spec.evaluation.tasks is not None
    assert list(spec.evaluation.tasks.own) == ["quiz-v1"]
