"""How problems look, to the character."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from studyctl.errors import Problem
from studyctl.report.problems import as_json, draw


def drawn(*problems: Problem, width: int = 80, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    draw(problems, console)
    return stream.getvalue()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("specs") / "mine.toml"
    path.parent.mkdir()
    path.write_text("\n" * 13 + "sparcity = [0.3, 0.5]\n" + "\n" * 6 + "group_size = 128\n")
    return path


def test_two_problems(spec: Path) -> None:
    unknown = Problem("unknown key `sparcity`", spec, 14, 1, 8, note="did you mean `sparsity`?")
    size = Problem(
        "group_size 128 does not divide the input of 60 linears (in = 576)",
        spec,
        21,
        14,
        3,
        note="SmolLM2-135M: q_proj of all 30 blocks",
        hint="64 divides every linear of this model",
    )
    assert (
        drawn(unknown, size)
        == """\
error: unknown key `sparcity`
  --> specs/mine.toml:14:1
   |
14 | sparcity = [0.3, 0.5]
   | ^^^^^^^^ did you mean `sparsity`?

error: group_size 128 does not divide the input of 60 linears (in = 576)
  --> specs/mine.toml:21:14
   |
21 | group_size = 128
   |              ^^^ SmolLM2-135M: q_proj of all 30 blocks
   = hint: 64 divides every linear of this model

2 problems in specs/mine.toml
"""
    )


def test_warnings_are_counted_apart(spec: Path) -> None:
    text = drawn(
        Problem("slow", spec, 14, 1, 3, severity="warning"),
        Problem("a", spec.absolute(), 21, 1),
        Problem("b", spec, 1, 1),
    )
    assert text.startswith("warning: slow\n")
    assert text.endswith("\n1 warning, 2 problems in specs/mine.toml\n")


def test_several_files(spec: Path) -> None:
    base = spec.with_name("base.toml")
    base.write_text("x\n")
    assert drawn(Problem("a", spec, 14, 1), Problem("b", base, 1, 1)).endswith(
        "2 problems in specs/mine.toml, specs/base.toml\n"
    )


def test_problems_of_a_trial_have_no_line() -> None:
    problem = Problem(
        "out of memory",
        trial="SmolLM2-135M-awq-3bit-g64",
        stage="compress",
        note="at block 3",
        hint="fewer samples\nor a smaller batch",
    )
    assert (
        drawn(problem)
        == """\
error: out of memory
 --> SmolLM2-135M-awq-3bit-g64 compress
  = at block 3
  = hint: fewer samples
          or a smaller batch

"""
    )


def test_a_problem_of_nothing_in_particular() -> None:
    assert drawn(Problem("no spec")) == "error: no spec\n\n"


def test_a_file_that_is_gone_or_shorter_by_now(spec: Path) -> None:
    assert "  |" not in drawn(Problem("a", spec.with_name("gone.toml"), 3, 1), Problem("b", spec, 99, 1))


@pytest.mark.parametrize(
    ("line", "column", "length", "shown", "carets"),
    [
        ("\tbits = 9", 9, 1, "    bits = 9", "           ^"),
        ('name = "你好" x', 13, 1, 'name = "你好" x', "              ^"),
        ('"你好" = 3', 1, 4, '"你好" = 3', "^^^^^^"),
        ("a = e\u0301 x", 8, 1, "a = e\u0301 x", "      ^"),
        ("a = \x1b[31m9", 10, 1, "a = �[31m9", "         ^"),
        ("a = ", 5, 1, "a = ", "    ^"),
        ("a = [bold]9", 11, 1, "a = [bold]9", "          ^"),
    ],
)
def test_carets_are_under_what_they_mark(
    spec: Path, line: str, column: int, length: int, shown: str, carets: str
) -> None:
    spec.write_text(line + "\r\n")
    lines = drawn(Problem("x", spec, 1, column, length)).split("\n")
    assert lines[3:5] == [f"1 | {shown}", f"  | {carets}"]


def test_long_lines_are_clipped_around_the_caret(spec: Path) -> None:
    spec.write_text("a = [" + "1, " * 100 + "xyz, " + "2, " * 100 + "]")
    lines = drawn(Problem("x", spec, 1, 306, 3), width=60).split("\n")
    shown, carets = lines[3], lines[4]
    assert shown.startswith("1 | …")
    assert shown.endswith("…")
    assert cell_len(shown) <= 60
    start = carets.index("^")
    assert shown[start : start + 3] == "xyz"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=120),
    st.integers(1, 121),
    st.integers(1, 130),
    st.integers(20, 100),
)
def test_any_line_fits_and_has_its_caret(line: str, column: int, length: int, width: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        path.write_bytes(line.encode())
        lines = drawn(Problem("x", path, 1, min(column, len(line) + 1), length), width=width).split("\n")
    shown, carets = lines[3], lines[4]
    assert cell_len(shown) <= max(width, 24)
    assert "^" in carets
    assert len(carets) <= max(cell_len(shown), len("  | ")) + 1


def test_colour_is_for_terminals_only(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("unknown key", spec, 14, 1, 8)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in drawn(problem, colour=True)
    assert "\x1b" not in drawn(problem)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in drawn(problem, colour=True)


def test_as_json(spec: Path) -> None:
    problems = as_json([Problem("é", spec, 1, 2, hint="do")])
    assert json.loads(json.dumps(problems)) == [
        {
            "what": "é",
            "file": "specs/mine.toml",
            "line": 1,
            "column": 2,
            "length": 1,
            "hint": "do",
            "severity": "error",
        }
    ]
