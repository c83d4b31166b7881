"""The names of steps are spelled and taken apart in one module; everywhere else a step is a type."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from studyctl.contract.steps import StepId, StepKind

ROOT = Path(__file__).parents[1]
HOME = ROOT / "studyctl" / "contract" / "steps.py"
FILES = [path for room in ("studyctl", "tui") for path in sorted((ROOT / room).rglob("*.py")) if path != HOME]
NAMES = frozenset(StepKind)


def spelled(tree: ast.AST) -> Iterator[int]:
    """Yield the lines in which code builds a step's name, compares something with one, or takes one apart."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if any(text.startswith(f"{name}:") for name in NAMES):
                if "\n" not in text and " " not in text:
                    yield node.lineno
            case ast.Compare():
                compared = [node.left, *node.comparators]
                yield from (one.lineno for one in _constants(compared) if one.value in NAMES)
            case ast.MatchValue(value=ast.Constant(value=value)) if value in NAMES:
                yield node.value.lineno


def _constants(nodes: list[ast.expr]) -> Iterator[ast.Constant]:
    for node in nodes:
        if isinstance(node, ast.Constant):
            yield node
        elif isinstance(node, ast.Tuple | ast.Set | ast.List):
            yield from _constants(node.elts)


def test_no_other_module_knows_the_names_of_steps() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in spelled(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'name.startswith("perplexity:")',
        'f"task:{name}"',
        'if stage == "compress": pass',
        'if stage in ("load", "export"): pass',
        'match kind:\n    case "task": pass',
    ],
)
def test_the_check_finds(code: str) -> None:
    assert list(spelled(ast.parse(code)))


def test_a_name_is_read_as_it_was_written() -> None:
    for step in (StepId(StepKind.COMPRESS), StepId(StepKind.TASK, "a:b"), StepId(StepKind.PERPLEXITY, "sw")):
        assert StepId.parse(str(step)) == step
    with pytest.raises(ValueError, match="nonsense"):
        StepId.parse("nonsense:en")
