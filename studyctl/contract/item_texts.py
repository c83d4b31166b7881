"""The texts of a task's items, which the study keeps once for all of its trials: what columns they have, and how long they may be."""

import pyarrow as pa

ITEM_CHARACTERS = 4_000
"""Characters of an item, its prompt and choices together; a target has as many at most."""
TASK_CHARACTERS = 1 << 24
"""Characters of all items of a task: with more than 4,194 items, each may have fewer."""
ANSWER_CHARACTERS = 1_000
"""Characters of an answer that a model generated."""
MOST_BYTES = 1 << 28
"""Larger texts are not read: more than twice what :data:`TASK_CHARACTERS` take in UTF-8, prompts and targets."""

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("item", pa.int32()),
    ("prompt", pa.string()),
    ("choices", pa.list_(pa.string())),
    ("target", pa.string()),
]
ITEM_TEXTS = pa.schema(_COLUMNS)
"""``item`` is lm-eval's ``doc_id``. ``prompt`` is the context as it was scored, with few-shot examples and chat template; where choices
have contexts of their own, what these begin with. ``choices`` continue the prompt, in the order of ``items.loglikelihoods``, without
blanks around; empty where there are none. ``target`` is the right answer where there are no choices."""


def cut(text: str, room: int) -> str:
    """Return a text with at most so many characters (or one): mostly its end, which holds the question, ``…`` for what is left out."""
    if len(text) <= room:
        return text
    head = room // 4
    tail = max(0, room - head - 1)
    return f"{text[:head]}…{text[len(text) - tail :]}"
