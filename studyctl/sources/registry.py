"""What the installed transformers loads by itself, read from its source: importing it takes seconds, which a plan has not."""

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studyctl.sources.hashes import remembered


@dataclass(frozen=True, slots=True)
class Registry:
    """The tables of transformers' auto classes."""

    version: str
    words: frozenset[str]
    """Every string of the tables of configs and tokenizers: model types and names of classes."""
    causal: Mapping[str, str]
    """Model type -> class that ``AutoModelForCausalLM`` makes of it."""


@functools.cache
def installed_registry() -> Registry | None:
    """Return the tables of the installed transformers; None if it is not installed, or keeps them in another way."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "models" / "auto"
    tables = [folder / f"{name}_auto.py" for name in ("modeling", "configuration", "tokenization")]
    if not all(path.is_file() for path in tables):
        return None
    tables += folder.glob("auto_mappings.py")  # where later versions keep the configs
    causal = remembered(tables[0], "causal classes 1", _causal_classes)
    words = {word for path in tables[1:] for word in remembered(path, "strings 1", _strings)}
    return Registry(importlib.metadata.version("transformers"), frozenset(words), causal) if causal else None


def _causal_classes(path: Path) -> dict[str, str]:
    """Return the pairs of strings in the table of causal models; empty if there is no such table."""
    classes = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")]):
                for pair in ast.walk(node):
                    match pair:
                        case ast.Tuple(elts=[ast.Constant(value=str(kind)), ast.Constant(value=str(name))]):
                            classes[kind] = name
    return classes


def _strings(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return sorted(
        {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    )
