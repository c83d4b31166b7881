"""The one reader of TOML: what is wrong is a fault at a place."""

from pathlib import Path

import pytest

from studyctl import toml
from studyctl.toml import Fault, TomlError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "fault", "place"),
    [
        ("a = \nb = 1", Fault.NO_VALUE, (1, 5)),
        ("a = yes", Fault.NO_VALUE, (1, 5)),
        ('a = "b\n', Fault.LINE_ENDS_IN_TEXT, (1, 7)),
        ('a = "\\d"', Fault.ESCAPE, (1, 8)),
        ('a = "\\u12"', Fault.ESCAPE, (1, 8)),
        ("a: 1", Fault.NO_EQUALS, (1, 2)),
        ("a = [1\nb = 2", Fault.LIST_NOT_CLOSED, (2, 1)),
        ("a = { b = 1 ; }", Fault.INLINE_TABLE_NOT_CLOSED, (1, 13)),
        ("a = 1 2", Fault.MORE_AFTER_VALUE, (1, 7)),
        ("ä = 1", Fault.NO_STATEMENT, (1, 1)),
        ("[a", Fault.HEADER_NOT_CLOSED, (None, 1)),
        ("a = 1\n[a.b]", Fault.KEY_OF_VALUE, (2, 5)),
        ("[a]\n[a]", Fault.TWICE, (2, 3)),
        ("a = " + "[" * 100_000, Fault.TOO_DEEP, (1, 1)),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_fault(text: str, fault: Fault, place: tuple[int | None, int]) -> None:
    with pytest.raises(TomlError) as caught:
        toml.read(text)
    assert (caught.value.fault, (caught.value.line, caught.value.column)) == (fault, place)


def test_no_other_module_reads_toml_by_itself() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for room in ("studyctl", "tui")
        for path in (ROOT / room).rglob("*.py")
        if "tomllib" in path.read_text("utf-8")
    }
    assert readers == {"studyctl/toml.py"}
