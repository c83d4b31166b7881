"""The ids that a tokenizer's files give to tokens, read without a tokenizer library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studyctl.errors import StudyError
from studyctl.sources.hashes import remembered

_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")
"""The one that has the vocabulary, and those that add tokens to it."""


def largest_token(folder: Path) -> tuple[int, str] | None:
    """Return the largest id and its token, by ``tokenizer.json`` and the files that add tokens to it.

    Returns:
        None if the folder has no ``tokenizer.json``.

    Raises:
        StudyError: a file is no JSON, or not in the form of a tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    largest = (-1, "")
    for name in _FILES:
        if (folder / name).is_file():
            number, token = remembered(folder / name, "largest token 1", _largest)
            largest = max(largest, (number, token))
    return largest


def read_vocabulary(folder: Path) -> dict[int, str]:
    """Return the tokens of a folder's tokenizer by id; empty if it has no ``tokenizer.json``.

    Raises:
        StudyError: a file is no JSON, or not in the form of a tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        return {}
    return dict(pair for name in _FILES if (folder / name).is_file() for pair in _read(folder / name))


def _largest(path: Path) -> tuple[int, str]:
    return max(_read(path), default=(-1, ""))


def _read(path: Path) -> list[tuple[int, str]]:
    try:
        return list(_tokens(path.name, json.loads(path.read_text("utf-8"))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"`{path}` is no file of a tokenizer: {error}", hint="download or copy it again"
        ) from error


def _tokens(name: str, content: dict[str, Any]) -> Iterator[tuple[int, str]]:
    if name == "added_tokens.json":
        yield from ((int(number), token) for token, number in content.items())
    elif name == "tokenizer_config.json":
        for number, about in content.get("added_tokens_decoder", {}).items():
            yield int(number), str(about["content"])
    else:
        for added in content.get("added_tokens") or ():
            yield int(added["id"]), str(added["content"])
        vocabulary = content.get("model", {}).get("vocab", {})
        pairs = (
            vocabulary.items()
            if isinstance(vocabulary, dict)
            else ((entry[0], n) for n, entry in enumerate(vocabulary))
        )
        yield from ((int(number), str(token)) for token, number in pairs)
