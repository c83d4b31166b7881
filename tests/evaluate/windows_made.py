"""Windows without a text."""

import numpy as np

from studyctl.evaluate.text.windows import Windows


def windows_of(ids: np.ndarray, bytes_each: int = 1) -> Windows:
    """Return windows of these ids, all of them there is, in the order of a text of so many bytes a token."""
    scored = np.full(len(ids), ids.shape[1] - 1)
    return Windows(
        ids=ids.astype(np.int32),
        numbers=np.arange(len(ids)),
        bytes=scored * bytes_each,
        characters=scored,
        documents=np.zeros(len(ids), np.int64),
        bos=False,
        available=len(ids),
    )
