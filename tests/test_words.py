"""Names say what they hold: words that could hold anything are no names."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VAGUE = {"found", "wanted", "told", "known", "lacking", "beside", "anew", "said", "given"}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every name that a module defines, with its line."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def test_no_name_could_hold_anything() -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for room in ("studyctl", "tui", "benchmarks")
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, name in names(ast.parse(path.read_text()))
        if name.strip("_") in VAGUE
    ]
    assert not vague, "\n".join(vague)
