"""A user's multiple-choice task: a table of questions, choices and answers as an lm-eval task in the user's cache."""

import csv
import io
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from studyctl.errors import Problem, StudyError, did_you_mean
from studyctl.files import cache_entry, digest, write_atomic
from studyctl.sources.text_files import json_objects
from studyctl.spec.models import OwnTask
from studyctl.units import count_text

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ITEMS = "items.jsonl"
_YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


class Item(NamedTuple):
    """A question with its choices."""

    question: str
    choices: list[str]
    answer: int
    """Number of the right choice, from 0."""

    def __str__(self) -> str:
        choices = (
            f"{'✓' if number == self.answer else '·'} {choice}" for number, choice in enumerate(self.choices)
        )
        return "  ".join([self.question, *choices])


class Row(NamedTuple):
    """A row of a file of items."""

    place: str
    """File and line, for messages."""
    values: dict[str, Any]
    """By column."""


def own_task(name: str, task: OwnTask, base: Path) -> Path:
    """Return the YAML file of a task; it and its items are written into the user's cache, by their content.

    Raises:
        StudyError: the file is missing or malformed, or an answer is none of the choices.
    """
    try:
        items = read_items(task, base)
    except StudyError as error:
        problems = [replace(problem, what=f"task `{name}`: {problem.what}") for problem in error.problems]
        raise StudyError(problems) from error
    lines = "".join(json.dumps(item._asdict(), ensure_ascii=False) + "\n" for item in items)
    folder = cache_entry("own-tasks", digest([name, lines, _YAML]))
    file = folder / f"{name}.yaml"
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / ITEMS, lines)
            write_atomic(file, _YAML.format(name=json.dumps(name), items=ITEMS))
        except OSError as error:
            raise StudyError(
                f"task `{name}`: {folder} cannot be written ({error.strerror})",
                hint="name a folder that can be written by STUDYCTL_CACHE",
            ) from error
    return file


def read_items(task: OwnTask, base: Path) -> list[Item]:
    """Return the items of a task.

    Raises:
        StudyError: the file is missing or malformed, or an answer is none of the choices.
    """
    path = base / Path(task.file).expanduser()
    if not path.is_file():
        entries = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        names = [entry.name for entry in entries if entry.suffix.lower() in SUFFIXES]
        what = f"`{path}` is a folder" if path.is_dir() else f"there is no file `{path}`"
        raise StudyError(Problem(what, note=did_you_mean(path.name, names)))
    rows = list(read_rows(path))
    if not rows:
        raise StudyError(f"`{path}` has no items")
    texts = [_texts(task, row) for row in rows]
    answers = _answers(rows, texts, task.first_number)
    return [
        Item(question, choices, answer) for (question, choices, _), answer in zip(texts, answers, strict=True)
    ]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        StudyError: it is malformed, or of another format.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _table_rows(path, "\t" if suffix == ".tsv" else None)
    elif suffix == ".jsonl":
        for place, item in json_objects(path.read_bytes(), path, hint="an item is one JSON object a line"):
            yield Row(place, item)
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise StudyError(f"`{path}` is no Parquet file: {error}") from error
        for number, row in enumerate(table.to_pylist()):
            yield Row(f"{path}, row {number}", row)
    else:
        raise StudyError(
            f"`{path}` has an unknown format",
            hint=f"items are in files of {', '.join(SUFFIXES)}",
        )


def _table_rows(path: Path, delimiter: str | None) -> Iterator[Row]:
    """Yield the rows of a CSV file, without those that are empty; its header tells the delimiter if it is None."""
    data = path.read_bytes()
    # Excel writes its "Unicode text" so.
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StudyError(f"`{path}:{line}` is not UTF-8", hint="save the file as UTF-8") from error
    first = text.partition("\n")[0]
    skipped = 0
    if declared := re.fullmatch(r"sep=(.)\r?", first):  # Excel's line
        delimiter, text, skipped = declared[1], text.partition("\n")[2], 1
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter or max(",;\t", key=first.count),
        strict=True,
        skipinitialspace=True,
    )
    try:
        header = [column.strip() for column in next(reader, [])]
        if twice := [column for column, times in Counter(header).items() if column and times > 1]:
            raise StudyError(f"`{path}` has column `{twice[0]}` twice", hint="columns have different names")
        for cells in reader:
            place = f"{path}:{reader.line_num + skipped}"
            if any(cell.strip() for cell in cells[len(header) :]):
                raise StudyError(
                    f"`{place}` has {len(cells)} cells, the header {len(header)}",
                    hint="put a text with a comma, semicolon or tab in quotes",
                )
            if any(cell.strip() for cell in cells):
                padded = cells + [""] * (len(header) - len(cells))
                yield Row(place, dict(zip(header, padded, strict=False)))
    except csv.Error as error:
        raise StudyError(f"`{path}:{reader.line_num + skipped}` is not valid CSV: {error}") from error


def _texts(task: OwnTask, row: Row) -> tuple[str, list[str], str]:
    """Return question, choices and answer of a row, as they are written."""
    question = "\n".join(filter(None, (_text(row, column) for column in task.question)))
    if not question:
        raise StudyError(f"`{row.place}` has no question")
    choices = (
        [_text(row, column) for column in task.choices]
        if len(task.choices) > 1
        else _listed(row, task.choices[0])
    )
    while choices and not choices[-1]:
        choices.pop()
    if "" in choices:
        raise StudyError(f"choice {choices.index('') + 1} of `{row.place}` is empty, and a later one is not")
    if len(choices) < 2:
        raise StudyError(f"`{row.place}` has {count_text(len(choices), 'choice')}, at least two are needed")
    answer = _text(row, task.answer)
    if not answer:
        raise StudyError(f"`{row.place}` has no answer")
    return question, choices, answer


def _listed(row: Row, column: str) -> list[str]:
    """Return the choices that one column lists."""
    value = _column(row, column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise StudyError(f"choices of `{row.place}` are not a list: {error}") from error
    if not isinstance(value, list):
        raise StudyError(
            f"`{column}` of `{row.place}` is not a list of choices",
            hint=_fields_hint(column, value) or 'write a column for each: choices = ["A", "B", "C", "D"]',
        )
    return [_plain(row, column, choice) for choice in value]


def _text(row: Row, column: str) -> str:
    return _plain(row, column, _column(row, column))


def _plain(row: Row, column: str, value: object) -> str:
    """Return a text or number as text; empty: there is none."""
    if isinstance(value, dict | list):
        raise StudyError(f"`{column}` of `{row.place}` is not a text", hint=_fields_hint(column, value))
    return "" if value is None else str(value).strip()


def _fields_hint(column: str, value: object) -> str:
    """Return how the fields of an object are named; empty if it is none."""
    fields = " or ".join(f"`{column}.{field}`" for field in value) if isinstance(value, dict) else ""
    return f"it has fields: write {fields}" if fields else ""


def _column(row: Row, column: str) -> Any:
    """Return the value of a column; ``choices.text`` is the field ``text`` of what stands in ``choices``."""
    if column in row.values:
        return row.values[column]
    try:
        return _field(row.values, column)
    except KeyError as error:
        columns = ", ".join(f"`{key}`" for key in row.values)
        raise StudyError(
            f"`{row.place}` has no column `{column}`",
            hint=f"it has {columns}; `question`, `choices` and `answer` of the task name them",
        ) from error


def _field(value: Any, path: str) -> Any:
    """Return a field of an object, or of each object of a list."""
    if isinstance(value, list):
        return [_field(item, path) for item in value]
    if not isinstance(value, dict):
        raise KeyError(path)
    head, _, rest = path.partition(".")
    return _field(value[head], rest) if rest else value[head]


def _answers(
    rows: Sequence[Row], texts: Sequence[tuple[str, list[str], str]], first_number: int | None
) -> list[int]:
    """Return the numbers of the right choices, from 0.

    All answers of a file are read in one way: as texts of choices, or as letters and numbers. A choice `C` of one item must not
    change what the answer C means there.

    Raises:
        StudyError: neither way fits all items, or it cannot be told whether numbers begin at 0 or 1.
    """
    first = first_number if first_number is not None else _first_number(texts)
    as_labels = [_label(answer, len(choices), first or 0) for _, choices, answer in texts]
    as_texts = [choices.index(answer) if answer in choices else None for _, choices, answer in texts]
    readings = [as_labels] if first_number is not None else [as_texts, as_labels]
    answers = min(readings, key=lambda reading: reading.count(None))
    if None in answers:
        row = answers.index(None)
        _, choices, answer = texts[row]
        raise StudyError(
            f"the answer `{answer}` of `{rows[row].place}` is none of its {len(choices)} choices",
            hint="the answers of a file are all texts of choices, or all letters (A is the first) or numbers"
            if first_number is None
            else f"by `first_number = {first_number}` the last of them is {len(choices) - 1 + first_number}",
        )
    if answers is as_labels and first is None:
        raise StudyError(
            "its answers are numbers, and it cannot be told whether the first choice is 0 or 1",
            hint="write `first_number = 0` or `first_number = 1`",
        )
    # Of equal choices the first is taken as the most likely one, so it is the right one.
    return [
        choices.index(choices[answer])
        for answer, (_, choices, _) in zip(answers, texts, strict=True)
        if answer is not None
    ]


def _number(answer: str) -> int | None:
    """Return the number that an answer is; a table that once had gaps writes 2 as 2.0."""
    digits = answer.removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _first_number(texts: Sequence[tuple[str, list[str], str]]) -> int | None:
    """Return the number of the first choice, as the answers tell; 0 if none is a number, None if they do not tell."""
    numbers = [
        (number, len(choices)) for _, choices, answer in texts if (number := _number(answer)) is not None
    ]
    if not numbers or any(number == 0 for number, _ in numbers):
        return 0
    return 1 if any(number == count for number, count in numbers) else None


def _label(answer: str, choices: int, first: int) -> int | None:
    """Return the number of the choice, from 0, that a letter or a number names; None: it names none."""
    number = _number(answer)
    if number is not None:
        number -= first
    elif len(answer) == 1:
        number = ascii_uppercase.find(answer.upper())
    return number if number is not None and 0 <= number < choices else None
