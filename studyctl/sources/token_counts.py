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
    if not text.files or path is None or not path.is_file() or find_spec("tokenizers") is None:
        return None
    content = next((file.sha256 for file in model.files if file.path.name == path.name), model.key)

    def compute(file: Path) -> tuple[int, bool] | None:
        written = "\n".join(documents_of(file.read_bytes(), file, text.field))
        begin = written[:COUNTED]
        if (tokenizer := _tokenizer(path, content)) is None:
            return None
        tokens = len(tokenizer.encode(begin, add_special_tokens=False).ids)
        return round(tokens * len(written) / max(len(begin), 1)), begin == written

    counts = [remembered(file.path, f"tokens of {text.field} by {content} 1", compute) for file in text.files]
    counted = [count for count in counts if count is not None]
    if len(counted) < len(counts):
        return None
    return TokenCount(sum(tokens for tokens, _ in counted), all(exact for _, exact in counted))


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, content: str | None) -> Any:
    """Return a tokenizer, or None if the library cannot read the file, which loading the model will say.

    Args:
        path: its ``tokenizer.json``.
        content: tells one file from the next at the same place.
    """
    from tokenizers import Tokenizer  # not needed where the counts are remembered

    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises no other class
        return None
