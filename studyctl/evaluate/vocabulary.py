"""Token ids that a model has no embedding for: on a GPU they would end the process, not the step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studyctl.errors import StepError


def check_ids(ids: NDArray[np.integer] | Sequence[int], rows: int, tokenizer: Any, where: str) -> None:
    """Refuse token ids beyond a model's embedding.

    Args:
        ids: of any shape.
        rows: of the embedding; ids must be below it.
        tokenizer: that made them; names the token.
        where: names the text in the error, such as "item 3 of task `boats`".

    Raises:
        StepError: an id is too large.
    """
    largest = int(np.max(ids, initial=-1))
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise StepError(
            f"{where} holds the token `{token}` (id {largest:,}), but the model's embedding has {rows:,} rows",
            hint="the tokenizer got tokens that the model was not trained with: remove them from the tokenizer or the text, "
            "or give the model more rows (`resize_token_embeddings`)",
        )
