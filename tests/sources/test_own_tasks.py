"""A user's multiple-choice task in one file: what is read, and what is wrong with it in plain words."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studyctl.errors import SpecError, StudyError
from studyctl.sources.own_tasks import Item, own_task, read_items
from studyctl.sources.task_files import identify_task
from studyctl.spec.loading import parse_spec
from studyctl.spec.models import OwnTask, Tasks

ITEMS = [
    Item("Where is the boat?", ["at sea", "in the harbour"], 1),
    Item("Who rows?", ["nobody", "Ama", "all"], 0),
]
LISTED = OwnTask(file="quiz.jsonl")
COLUMNS = OwnTask(file="quiz.csv", question=("Frage",), choices=("A", "B", "C"), answer="richtig")


def as_csv(delimiter: str) -> Callable[[Path], OwnTask]:
    def write(folder: Path) -> OwnTask:
        rows = [["Frage", "A", "B", "C", "richtig"], ["Where is the boat?", "at sea", "in the harbour", "", "B"],
                ["Who rows?", "nobody", "Ama", "all", "a"]]  # fmt: skip
        (folder / "quiz.csv").write_text("\n".join(map(delimiter.join, rows)), "utf-8-sig")
        return COLUMNS

    return write


def as_jsonl(folder: Path) -> OwnTask:
    rows = [
        {"question": item.question, "choices": item.choices, "answer": item.choices[item.answer]}
        for item in ITEMS
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LISTED


def as_parquet(folder: Path) -> OwnTask:
    table = pa.table(
        {"q": [i.question for i in ITEMS], "c": [i.choices for i in ITEMS], "a": [i.answer for i in ITEMS]}
    )
    pq.write_table(table, folder / "quiz.parquet")
    return OwnTask(file="quiz.parquet", question=("q",), choices=("c",), answer="a")


def as_objects(folder: Path) -> OwnTask:
    """As ARC and OpenBookQA are distributed."""
    rows = [
        {
            "question_stem": item.question,
            "choices": {"text": item.choices, "label": ["A", "B", "C"][: len(item.choices)]},
            "answerKey": "ABC"[item.answer],
        }
        for item in ITEMS
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return OwnTask(
        file="quiz.jsonl", question=("question_stem",), choices=("choices.text",), answer="answerKey"
    )


def as_lists_of_objects(folder: Path) -> OwnTask:
    """As CommonsenseQA is distributed."""
    rows = [
        {
            "question": {
                "stem": item.question,
                "choices": [{"label": "ABC"[n], "text": text} for n, text in enumerate(item.choices)],
            },
            "answerKey": "ABC"[item.answer],
        }
        for item in ITEMS
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "quiz.parquet")
    return OwnTask(
        file="quiz.parquet",
        question=("question.stem",),
        choices=("question.choices.text",),
        answer="answerKey",
    )


@pytest.mark.parametrize(
    "write", [as_csv(","), as_csv(";"), as_csv("\t"), as_jsonl, as_parquet, as_objects, as_lists_of_objects]
)
def test_every_form_gives_the_same_items(tmp_path: Path, write: Callable[[Path], OwnTask]) -> None:
    assert read_items(write(tmp_path), tmp_path) == ITEMS


def test_quotes_and_line_breaks_of_a_table_are_kept(tmp_path: Path) -> None:
    (tmp_path / "quiz.csv").write_text('Frage,A,B,C,richtig\n"One, ""two""\nthree?",a,b,c,C\n')
    (item,) = read_items(COLUMNS, tmp_path)
    assert item == Item('One, "two"\nthree?', ["a", "b", "c"], 2)


@pytest.mark.parametrize(
    ("answers", "first", "expected"),
    [
        ([0, 2], None, [0, 2]),
        ([1, 3], None, [0, 2]),
        ([1, 2], 0, [1, 2]),
        ([1, 2], 1, [0, 1]),
        (["1", "3"], None, [0, 2]),
        (["1.0", 3.0], None, [0, 2]),
        (["x", "z"], None, [0, 2]),
        (["a", "C"], None, [0, 2]),
        (["A", "3"], None, [0, 2]),
    ],
)
def test_answers_are_numbers_letters_or_texts(
    tmp_path: Path, answers: list[object], first: int | None, expected: list[int]
) -> None:
    rows = [{"question": "?", "choices": ["x", "y", "z"], "answer": answer} for answer in answers]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items(LISTED.model_copy(update={"first_number": first}), tmp_path)
    assert [item.answer for item in items] == expected


@pytest.mark.parametrize(
    ("rows", "first", "expected"),
    [
        # All answers are texts of choices, though they could be numbers.
        ([(["3", "2"], 2), (["9", "4", "5"], 5)], None, [1, 2]),
        # MMLU: one answer happens to be the text of another choice of its item.
        ([(["8", "2", "24", "120"], 2), (["x", "y"], 0)], None, [2, 0]),
        ([(["8", "2", "24", "120"], 2), (["2", "1"], 1)], 0, [2, 1]),
        # Of equal choices the first is the right one.
        ([(["x", "y", "x"], "C")], None, [0]),
        # ARC: the answer C of an item with a choice C.
        ([(["C", "NO2", "O2", "CO"], "C"), (["x", "y"], "B")], None, [2, 1]),
    ],
)
def test_the_answers_of_a_file_are_read_in_one_way(
    tmp_path: Path, rows: list[tuple[list[str], object]], first: int | None, expected: list[int]
) -> None:
    lines = [json.dumps({"question": "?", "choices": choices, "answer": answer}) for choices, answer in rows]
    (tmp_path / "quiz.jsonl").write_text("\n".join(lines))
    items = read_items(LISTED.model_copy(update={"first_number": first}), tmp_path)
    assert [item.answer for item in items] == expected


def test_an_item_of_arc_with_a_choice_that_is_a_letter(real: Path) -> None:
    task = OwnTask(file="arc_challenge_test.jsonl", choices=("choices.text",), answer="answerKey")
    item = read_items(task, real / "tasks")[364]
    assert (item.choices, item.answer) == (["C", "NO_{2}", "O_{2}", "CO"], 2)


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\r\nFrage;A;B;richtig\r\nWho, me?;yes;no;B\r\n;;;\r\n",
        'Frage , A , B , richtig\n\n"Who, me?", "yes", no, B\n',
        'Frage,A,B,richtig,\n"Who, me?",yes,no,B,\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_write_them(tmp_path: Path, table: str, encoding: str) -> None:
    (tmp_path / "quiz.csv").write_bytes(table.encode(encoding))
    task = COLUMNS.model_copy(update={"choices": ("A", "B")})
    assert read_items(task, tmp_path) == [Item("Who, me?", ["yes", "no"], 1)]


@pytest.mark.parametrize(
    ("table", "what", "hint"),
    [
        ("richtig,Frage,A,B\nA,Is 1, 2 or 3 even?,yes,no\n", "`{file}:2` has 5 cells, the header 4", "in quotes"),
        ("sep=,\nFrage,A,B,richtig\nx,y,z,A,more\n", "`{file}:3` has 5 cells, the header 4", "in quotes"),
        ("Frage,A,B,richtig\nWhere?,here\n", "`{file}:2` has 1 choice, at least two", ""),
        ("Frage,A,B,richtig\nWhere?,here,there\n", "`{file}:2` has no answer", ""),
        ("Frage,A,B,A,richtig\nIs 4 even?,yes,no,maybe,A\n", "has column `A` twice", "different names"),
        ("Frage,A,B,richtig\nf\xfcr,x,y,A\n", "`{file}:2` is not UTF-8", "as UTF-8"),
    ],
)  # fmt: skip
def test_tables_that_would_be_read_wrongly_are_refused(
    tmp_path: Path, table: str, what: str, hint: str
) -> None:
    path = tmp_path / "quiz.csv"
    path.write_bytes(table.encode("latin-1"))
    with pytest.raises(StudyError) as caught:
        read_items(COLUMNS.model_copy(update={"choices": ("A", "B")}), tmp_path)
    (problem,) = caught.value.problems
    assert what.format(file=path) in problem.what
    assert hint in problem.hint


def test_a_passage_stands_before_its_question(tmp_path: Path) -> None:
    (tmp_path / "quiz.csv").write_text(
        "passage,Frage,A,B,C,richtig\nA boat left.,Who left?,cat,boat,,B\n,Who?,a,b,,A\n"
    )
    task = COLUMNS.model_copy(update={"question": ("passage", "Frage")})
    first, second = read_items(task, tmp_path)
    assert (first.question, second.question) == ("A boat left.\nWho left?", "Who?")


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        ('{"question": "?", "choices": ["x", "y", "z"], "answer": 1}', "it cannot be told whether", "first_number = 0"),
        ('{"question": "?", "choices": ["x", "y"], "answer": "D"}', "the answer `D` of `{file}:1` is none of its 2", "all letters"),
        ('{"question": "?", "choices": ["x", "y"], "answer": "x"}\n' * 2 + '{"question": "?", "choices": ["x", "y"], "answer": "B"}', "the answer `B` of `{file}:3` is none of its 2", "all texts of choices"),
        ('{"question": "?", "choices": ["x"], "answer": "x"}', "`{file}:1` has 1 choice, at least", ""),
        ('{"question": " ", "choices": ["x", "y"], "answer": "x"}', "`{file}:1` has no question", ""),
        ('{"question": "?", "choices": "x, y", "answer": "x"}', "is not a list of choices", 'choices = ["A", "B"'),
        ('{"frage": "?", "choices": ["x", "y"], "answer": "x"}', "has no column `question`", "it has `frage`, `choices`"),
        ('{"question": "?", "choices": ["x", "", "z"], "answer": "C"}', "choice 2 of `{file}:1` is empty", ""),
        ('{"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "A"}', "is not a list of choices", "write `choices.text` or `choices.label`"),
        ('{"question": "?", "choices": [{"text": "x"}, {"text": "y"}], "answer": "x"}', "`choices` of `{file}:1` is not a text", "write `choices.text`"),
        ('{"question": {"stem": "?"}, "choices": ["x", "y"], "answer": "x"}', "`question` of `{file}:1` is not a text", "write `question.stem`"),
        ("[1]", "is no JSON object", ""),
        ("", "has no items", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, line: str, what: str, hint: str) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(StudyError) as caught:
        read_items(LISTED, tmp_path)
    (problem,) = caught.value.problems
    assert what.format(file=path) in problem.what
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("name", "what", "note"),
    [
        ("quiz.xlsx", "unknown format", ""),
        ("quizz.csv", "there is no file", "did you mean `quiz.csv`?"),
        ("none/quiz.csv", "there is no file", ""),
        (".", "is a folder", ""),
    ],
)
def test_files_that_cannot_be_items(tmp_path: Path, name: str, what: str, note: str) -> None:
    (tmp_path / "quiz.xlsx").write_bytes(b"PK")
    (tmp_path / "quiz.csv").touch()
    with pytest.raises(StudyError, match=what) as caught:
        read_items(LISTED.model_copy(update={"file": name}), tmp_path)
    assert caught.value.problems[0].note == note


def test_its_identity_is_that_of_its_items_and_name(tmp_path: Path) -> None:
    task = as_csv(";")(tmp_path)
    tasks = Tasks(own={"quiz": task})
    before = identify_task("quiz", tasks, tmp_path)
    assert (before.items, before.output_type) == (2, "multiple_choice")
    assert not before.code
    as_csv(",")(tmp_path)  # the same items, written otherwise
    assert identify_task("quiz", tasks, tmp_path).key == before.key
    in_german = Tasks(own={"quiz": task.model_copy(update={"language": "de"})})
    assert identify_task("quiz", in_german, tmp_path).key == before.key
    (tmp_path / "quiz.csv").write_text("Frage,A,B,C,richtig\nWhere?,here,there,,A\n")
    assert identify_task("quiz", tasks, tmp_path).key != before.key


def test_the_file_is_written_once(tmp_path: Path) -> None:
    task = as_jsonl(tmp_path)
    file = own_task("quiz", task, tmp_path)
    stamp = file.stat().st_mtime_ns
    assert own_task("quiz", task, tmp_path) == file
    assert file.stat().st_mtime_ns == stamp


SPEC = """[study]
name = "x"
[[models]]
id = "a"
[evaluation.tasks]
"""


def test_a_spec_may_have_own_tasks_alone() -> None:
    tasks = parse_spec(
        f'{SPEC}[evaluation.tasks.own.quiz]\nfile = "quiz.csv"\n', Path("x.toml")
    ).spec.evaluation.tasks
    assert tasks is not None
    assert tasks.all_names == ("quiz",)


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        ("", "needs `names`, or a task in `[evaluation.tasks.own.NAME]`"),
        ('names = ["quiz"]\n[evaluation.tasks.own.quiz]\nfile = "q.csv"\n', "`quiz` is in `names` too"),
        ('[evaluation.tasks.own.quiz]\nfile = "q.csv"\nanswr = "a"\n', "unknown key `answr`"),
    ],
)
def test_mistakes_in_the_spec(rest: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(SPEC + rest, Path("x.toml"))
    assert what in caught.value.problems[0].what
