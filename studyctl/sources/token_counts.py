"""How many tokens a text has, before anything runs: counted by the ``tokenizers`` library alone, without torch."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from studyctl.contract.identity import ModelIdentity, TextIdentity
from studyctl.sources.hashes import remembered
from studyctl.sources.text_files import documents_of

COUNTED = 200_000
"""Characters that are tokenised; the tokens of a longer text are extrapolated from those of its beginning."""
MARGIN = 0.1
"""A count is exact up to this fraction: transformers rebuilds parts of some tokenizers."""


class TokenCount(NamedTuple):
    """Tokens of a text, without special tokens."""

    tokens: int
    whole: bool
    """Whether the whole text was counted."""

    def __str__(self) -> str:
        return f"{'' if self.whole else 'about '}{self.tokens:,} tokens"


def count_tokens(text: TextIdentity, model: ModelIdentity) -> TokenCount | None:
    """Return how many tokens a model's tokenizer makes of a local text, counted once for each of the two.

    Returns:
        None where this cannot be told: a dataset of the hub, a tokenizer that is not here or has no ``tokenizer.json``, or an
        installation without ``tokenizers``.
    """
    path = model.folder / "tokenizer.json" if model.folder is not None and model.kind != "package" else None
    if text.file is None or path is None or not path.is_file() or find_spec("tokenizers") is None:
        return None
    content = next((file.sha256 for file in model.files if file.path.name == path.name), model.key)

    def compute(file: Path) -> tuple[int, bool]:
        written = "\n".join(documents_of(file.read_bytes(), file, text.field))
        begin = written if len(written) <= COUNTED else written[:COUNTED]
        tokens = len(_tokenizer(path, content).encode(begin, add_special_tokens=False).ids)
        return round(tokens * len(written) / max(len(begin), 1)), len(written) <= COUNTED

    return TokenCount(*remembered(text.file.path, f"tokens of {text.field} by {content} 1", compute))


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, content: str) -> Any:
    """Return a tokenizer; ``content`` tells one file from the next at the same place."""
    from tokenizers import Tokenizer  # not needed where the counts are remembered

    return Tokenizer.from_file(str(path))
