"""Texts that are no TOML: what is wrong, where, and what to write instead."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import Problem, SpecError
from studyctl.spec.syntax import read_toml

FILE = Path("a.toml")


def problems(text: str) -> list[Problem]:
    """Return what is wrong with a TOML text."""
    with pytest.raises(SpecError) as caught:
        read_toml(text, FILE)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "place", "what", "note"),
    [
        ("a = \nb = 1", (1, 5, 1), "`a` has no value", ""),
        ("a = foo", (1, 5, 3), "`foo` is not a value", 'text needs quotes: "foo"'),
        ("a = True", (1, 5, 4), "`True` is not a value", "write true"),
        ("a = None", (1, 5, 4), "`None` is not a value", "leave the key out"),
        ("a = .5", (1, 5, 2), "`.5` is not a number", "write 0.5"),
        ("a = “x”", (1, 5, 3), "these quotes are not TOML's", 'write "…" with straight quotes'),
        ("a: 3", (1, 2, 1), "a key needs `=` and a value", "write `=` instead of `:`"),
        (
            "ä = 3",
            (1, 1, 1),
            "a key or a table's header is expected here",
            "a key with such letters needs quotes",
        ),
        ('a = "x\nb = 1', (1, 5, 2), "text in quotes is not closed", ""),
        ('a = """x\nb = 1', (1, 5, 4), "text in quotes is not closed", ""),
        (
            "a = [1,\nb = 2",
            (2, 1, 1),
            "a list is not closed: `]` or `,` is missing before this",
            "the list of `a` begins on line 1",
        ),
        ("a = [1", (1, 7, 1), "a list is not closed: `]` or `,` is missing before this", ""),
        ("a = ", (1, 4, 1), "`a` has no value", ""),
        ("a = [1 2]", (1, 8, 1), "a list is not closed: `]` or `,` is missing before this", ""),
        (
            'a = "C:\\users"',
            (1, 8, 1),
            "a backslash in double quotes starts an escape",
            "use single quotes: 'C:\\folder'",
        ),
        ("[a\nb = 1", (1, 3, 1), "the table's header is not closed", ""),
        ("a = 1 b = 2", (1, 7, 1), "the value has ended before this", ""),
        ("a = 1\na = 2", (2, 1, 1), "key `a` is defined twice", "first in line 1"),
        ("a.b = 1\na.b.c = 2", (2, 3, 1), "key `b` is defined twice", "first in line 1"),
        (
            'é = "你"\r\nb = \r\n',
            (1, 1, 1),
            "a key or a table's header is expected here",
            "a key with such letters needs quotes",
        ),
    ],
)
def test_one_error(text: str, place: tuple[int, int, int], what: str, note: str) -> None:
    problem = problems(text)[0]
    assert (problem.line, problem.column, problem.length) == place
    assert (problem.what, problem.note) == (what, note)


def test_all_errors_that_stay_within_their_line() -> None:
    text = "a = True\nb = 1\nb = 2\n[x\ny = 1\n[z]\ny = \n"
    assert [(problem.line, problem.what) for problem in problems(text)] == [
        (1, "`True` is not a value"),
        (3, "key `b` is defined twice"),
        (4, "the table's header is not closed"),
        (7, "`y` has no value"),
    ]


def test_a_list_of_tables_written_as_one() -> None:
    text = '[compression]\nmethod = "rtn"\n[compression]\nmethod = "gptq"\n'
    (problem,) = problems(text)
    assert (problem.line, problem.what) == (3, "table `compression` is defined twice")
    assert problem.hint == "write `[[compression]]` for each of several"


def test_endless_nesting_is_reported() -> None:
    (problem,) = problems("a = " + "[" * 5000)
    assert problem.what == "lists or tables are nested too deeply"


@given(st.text("ab=[]{}\"'\n\r\t#.,1e:你\\ ", max_size=40))
def test_a_text_has_data_or_problems_with_places(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        lines = text.split("\n")
        for problem in problems(text):
            assert problem.line is not None
            assert problem.column is not None
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
    else:
        assert read_toml(text, FILE)[0] == data


@pytest.mark.parametrize(
    "text",
    [
        "question;a;b\nWhere?;here;there\nWho?;I;you\n",
        '"question","a"\n"What is 1 + 1, if x = 1?","2"\n',
        '{"text": "one"}\n{"text": "two"}\n',
        '[{"text": "one"},\n{"text": "two"}]\n',
        "study:\n  name: x\nmodels:\n  - id: y\n",
        "".join(f"Sentence {number} of a text.\n" for number in range(100)),
    ],
)
def test_another_kind_of_file_is_one_problem(text: str) -> None:
    (problem,) = problems(text)
    assert (problem.what, problem.line) == ("this is not a TOML file", 1)
    assert problem.hint.startswith("name a .toml file; ")


@pytest.mark.parametrize("text", ["a: 3\n[b]\nc: 4\n", "a = 1\nb: 3\nc: 4\n", "# a study\n[[models]]\nid: 4\nx: 1\n"])  # fmt: skip
def test_mistakes_in_a_toml_file_are_all_shown(text: str) -> None:
    assert [problem.what for problem in problems(text)] == ["a key needs `=` and a value"] * 2
