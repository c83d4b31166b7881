"""The data of the pocket study: the parallel text and the seven task sets."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

POCKET = Path(__file__).resolve().parents[2] / "studyctl" / "pocket"
LANGUAGES = ("ar", "de", "en", "es", "ru", "sw", "zh")
PARTS = ("perplexity", "calibration")
TWO_CHOICES = ("pocket_yesno", "pocket_entailment", "pocket_pronoun")
FOUR_CHOICES = ("pocket_completion", "pocket_science_easy", "pocket_science_hard", "pocket_openbook")
TASKS = TWO_CHOICES + FOUR_CHOICES
FIELDS = {
    "pocket_yesno": ("passage", "question"),
    "pocket_entailment": ("premise", "hypothesis"),
    "pocket_pronoun": ("sentence", "option1", "option2"),
    "pocket_completion": ("context", "choices"),
    "pocket_science_easy": ("question", "choices"),
    "pocket_science_hard": ("question", "choices"),
    "pocket_openbook": ("question", "choices"),
}
FIXED_CHOICES = {"pocket_yesno": ["no", "yes"], "pocket_entailment": ["True", "False"]}


def read_lines(path):
    raw = path.read_bytes().decode("utf-8")
    assert raw.endswith("\n")
    assert "\r" not in raw
    assert unicodedata.is_normalized("NFC", raw)
    return [json.loads(line) for line in raw[:-1].split("\n")]


def texts(part, lang):
    return [line["text"] for line in read_lines(POCKET / "text" / part / f"{lang}.jsonl")]


def items(task):
    return read_lines(POCKET / "tasks" / f"{task}.jsonl")


def task_file(task):
    return yaml.safe_load((POCKET / "tasks" / f"{task}.yaml").read_text(encoding="utf-8"))


def choices(task, item):
    if task in FIXED_CHOICES:
        return FIXED_CHOICES[task]
    if task == "pocket_pronoun":
        return [item["option1"], item["option2"]]
    return item["choices"]


@pytest.mark.parametrize("part", PARTS)
def test_the_languages_have_the_same_number_of_lines(part):
    counts = {lang: len(texts(part, lang)) for lang in LANGUAGES}
    assert len(set(counts.values())) == 1, counts
    found = sorted(path.name for path in (POCKET / "text" / part).iterdir())
    assert found == [f"{lang}.jsonl" for lang in LANGUAGES]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_text_is_clean(part, lang):
    for line in read_lines(POCKET / "text" / part / f"{lang}.jsonl"):
        assert set(line) == {"text"}
        text = line["text"]
        assert text == text.strip()
        assert "  " not in text
        assert "\n" not in text
        assert unicodedata.is_normalized("NFC", text)


def test_the_english_texts_are_long_enough():
    assert sum(len(text.split()) for text in texts("perplexity", "en")) >= 1200
    assert sum(len(text.split()) for text in texts("calibration", "en")) >= 1450


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_paragraph_occurs_twice(lang):
    lines = texts("perplexity", lang) + texts("calibration", lang)
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("lang", "first", "last"),
    [("ar", 0x0600, 0x06FF), ("ru", 0x0400, 0x04FF), ("zh", 0x4E00, 0x9FFF)],
)
def test_a_text_is_in_its_script(part, lang, first, last):
    for text in texts(part, lang):
        letters = [char for char in text if char.isalpha()]
        assert all(first <= ord(char) <= last for char in letters), text


@pytest.mark.parametrize("part", PARTS)
def test_the_languages_are_not_copies_of_each_other(part):
    for number, lines in enumerate(zip(*(texts(part, lang) for lang in LANGUAGES), strict=True)):
        assert len(set(lines)) == len(LANGUAGES), number


def test_the_folder_has_the_seven_tasks():
    names = sorted(path.name for path in (POCKET / "tasks").iterdir() if path.is_file())
    assert names == sorted(f"{task}{end}" for task in TASKS for end in (".jsonl", ".yaml"))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_file_names_its_items(task):
    content = task_file(task)
    assert content["task"] == task
    assert content["dataset_path"] == "json"
    assert content["dataset_kwargs"] == {"data_files": {"test": f"{task}.jsonl"}}
    assert content["test_split"] == "test"
    assert content["output_type"] == "multiple_choice"
    assert content["metadata"] == {"version": 1.0}
    metrics = [metric["metric"] for metric in content["metric_list"]]
    assert metrics == (["acc"] if task in TWO_CHOICES else ["acc", "acc_norm"])
    if task in FIXED_CHOICES:
        assert content["doc_to_choice"] == FIXED_CHOICES[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_items_are_complete(task):
    rows = items(task)
    assert len(rows) >= 48
    for number, row in enumerate(rows, 1):
        assert set(row) == {"id", "label", *FIELDS[task]}
        assert row["id"] == f"{task}-{number:02d}"
        for field in FIELDS[task]:
            values = row[field] if isinstance(row[field], list) else [row[field]]
            assert all(value and value == value.strip() for value in values)
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("task", TASKS)
def test_no_question_occurs_twice(task):
    key = FIELDS[task][1] if task in FIXED_CHOICES else FIELDS[task][0]
    asked = [row[key].casefold() for row in items(task)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("task", TASKS)
def test_the_choices_are_distinct_and_the_label_is_one_of_them(task):
    for row in items(task):
        answers = choices(task, row)
        assert len(answers) == (2 if task in TWO_CHOICES else 4)
        assert len({answer.casefold() for answer in answers}) == len(answers)
        assert type(row["label"]) is int
        assert 0 <= row["label"] < len(answers)


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answers_are_balanced_over_the_positions(task):
    rows = items(task)
    counts = Counter(row["label"] for row in rows)
    width = 2 if task in TWO_CHOICES else 4
    assert counts == {place: len(rows) // width for place in range(width)}


@pytest.mark.parametrize("task", [task for task in TASKS if task not in FIXED_CHOICES])
@pytest.mark.parametrize("pick", [max, min])
def test_the_length_does_not_give_the_answer_away(task, pick):
    rows = items(task)
    given_away = 0
    for row in rows:
        lengths = [len(answer) for answer in choices(task, row)]
        extreme = pick(lengths)
        given_away += lengths[row["label"]] == extreme and lengths.count(extreme) == 1
    assert given_away / len(rows) <= 0.45


@pytest.mark.parametrize(("task", "shared"), [("pocket_yesno", "passage"), ("pocket_entailment", "premise")])
def test_a_passage_has_one_question_for_either_answer(task, shared):
    labels = {}
    for row in items(task):
        labels.setdefault(row[shared], []).append(row["label"])
    assert all(sorted(found) == [0, 1] for found in labels.values())


def test_the_blank_of_a_pronoun_item_is_marked_once():
    starts = {}
    for row in items("pocket_pronoun"):
        start, rest = row["sentence"].split("_")
        assert start.endswith(" ")
        assert rest.startswith(" ")
        for option in (row["option1"], row["option2"]):
            assert option in start
        starts.setdefault((row["option1"], row["option2"]), []).append(row["label"])
    assert all(sorted(found) == [0, 1] for found in starts.values())
