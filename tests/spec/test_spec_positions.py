"""Where keys and values are, in characters, whatever form the TOML has."""

import string
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from studyctl.spec.positions import Place, Places, Span, deepest, merged

FILE = Path("a.toml")


def place_of(text: str, *loc: str | int, key: bool = False) -> tuple[int, int, int] | None:
    place, reached = deepest(Places(text, FILE).root, loc)
    assert reached == loc
    span = place.key if key else place.value
    return (span.line, span.column, span.length) if span else None


@pytest.mark.parametrize(
    ("text", "loc", "key", "value"),
    [
        ("bits = 4", ("bits",), (1, 1, 4), (1, 8, 1)),
        ('\n  name\t= "x"', ("name",), (2, 3, 4), (2, 10, 3)),
        ('a."b c".d = 1', ("a", "b c", "d"), (1, 9, 1), (1, 13, 1)),
        ('"a\\u0062" = 1', ("ab",), (1, 1, 9), (1, 13, 1)),
        ("[a.b]\nc = [1,\n  22]", ("a", "b", "c", 1), None, (3, 3, 2)),
        ("[a.b]\nc = 1", ("a",), (1, 2, 1), (1, 1, 5)),
        ("[a.b]\nc = 1", ("a", "b"), (1, 4, 1), (1, 1, 5)),
        ("[a.b]\n[a]\nc = 1", ("a",), (2, 2, 1), (2, 1, 3)),
        ("[[m]]\nx = 1\n[[m]]\nx = 22", ("m", 1, "x"), (4, 1, 1), (4, 5, 2)),
        ("[[m]]\n[m.t]\nx = 1\n[[m]]\n[m.t]\nx = 2", ("m", 1, "t", "x"), (6, 1, 1), (6, 5, 1)),
        ("c = [{}, { l = [true] }]", ("c", 1, "l", 0), None, (1, 17, 4)),
        ("c = [ # no value\n  1, # one\n  2]", ("c", 1), None, (3, 3, 1)),
        ('a = "äöü" # é\n"ß" = { "你" = 3 }', ("ß", "你"), (2, 9, 3), (2, 15, 1)),
        ('a = "你好"\nb = 1', ("a",), (1, 1, 1), (1, 5, 4)),
        ("a = 1\r\nb = 2\r\n", ("b",), (2, 1, 1), (2, 5, 1)),
        ('a = """x\r\nlonger"""', ("a",), (1, 1, 1), (1, 5, 4)),
        ("", (), None, None),
    ],
)
def test_places(
    text: str,
    loc: tuple[str | int, ...],
    key: tuple[int, int, int] | None,
    value: tuple[int, int, int] | None,
) -> None:
    assert place_of(text, *loc, key=True) == key
    assert place_of(text, *loc) == value


def test_what_the_file_does_not_hold_is_skipped_over() -> None:
    root = Places("[[compression]]\nsparsity = 0.5", FILE).root
    assert deepest(root, ("compression", 0, "wanda", "sparsity", 0))[1] == ("compression", 0, "sparsity")
    assert deepest(root, ("compression", 0, "method"))[1] == ("compression", 0)
    assert deepest(root, ("models",))[1] == ()


def test_what_is_there_twice() -> None:
    repeated = Places("[a]\nx = 1\nx = 2\n[a]\nx = 3\n", FILE).repeated
    assert [(problem.what, problem.line, problem.note) for problem in repeated] == [
        ("key `x` is defined twice", 3, "first in line 2"),
        ("table `a` is defined twice", 4, "first in line 1"),
    ]


def test_broken_texts_keep_the_places_of_the_rest() -> None:
    places = Places("a = \n[t]\nb = 1\n", FILE)
    assert deepest(places.root, ("t", "b"))[0].value == Span(FILE, 3, 5, 1)


def test_merged_places_are_in_the_file_that_defines_them() -> None:
    base = Places("[t]\na = 1\nb = [1, 2]\n[[m]]\nx = 1\n[[m]]\nx = 2", Path("base.toml")).root
    over = Places("[t]\nb = [3]\n[[m]]\nx = 3", Path("over.toml")).root
    both = merged(base, over)

    def file(*loc: str | int) -> str:
        span = deepest(both, loc)[0].value
        assert span is not None
        return span.file.name

    assert (file("t", "a"), file("t", "b"), file("t", "b", 0)) == ("base.toml", "over.toml", "over.toml")
    assert file("m", 0, "x") == "over.toml"
    assert deepest(both, ("m", 1, "x"))[1] == ("m", "x")[:1], "arrays of tables are replaced"


NAMES = st.text(string.ascii_letters + "äß你 .-_'\\", min_size=1, max_size=5)
VALUES = st.recursive(
    st.integers(-9, 99)
    | st.booleans()
    | st.text("ab\"'\\\n\t#=[]{}é你", max_size=6)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items()}
    return dict(enumerate(map(_shape, value))) if isinstance(value, list) else {}


def _placed(place: Place) -> Any:
    return {name: _placed(child) for name, child in place.children.items()}


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_everything_that_tomllib_reads_has_a_place(data: dict[str, Any]) -> None:
    places = Places(tomlkit.dumps(data), FILE)
    assert not places.repeated
    assert _placed(places.root) == _shape(data)
