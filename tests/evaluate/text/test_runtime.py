"""The distance of another program's logits to dense, held against torch's KL of whole logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from studyctl.errors import StepError
from studyctl.evaluate.text.head import Head
from studyctl.evaluate.text.reference import keep_reference, open_reference
from studyctl.evaluate.text.runtime import Continued, compare_runtime
from studyctl.evaluate.text.windows import Windows
from studyctl.reporter import SilentReporter

VOCABULARY, HIDDEN, LENGTH, COUNT = 40, 8, 12, 3


@pytest.fixture
def windows() -> Windows:
    numbers = np.arange(COUNT, dtype=np.int64)
    ids = (
        torch.randint(0, VOCABULARY, (COUNT, LENGTH), generator=torch.Generator().manual_seed(0))
        .int()
        .numpy()
    )
    return Windows(ids=ids, numbers=numbers, bytes=numbers, characters=numbers, documents=numbers, bos=False)


class Other:
    """A program whose logits are drawn, the same for each window and position."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        self.logits = torch.randn(COUNT, LENGTH, vocabulary, generator=torch.Generator().manual_seed(1))
        self.seen: list[list[int]] = []

    @contextmanager
    def sequence(self, tokens: int) -> Iterator[Continued]:
        number, place = len(self.seen), 0
        self.seen.append([])

        def continued(ids: Sequence[int]) -> np.ndarray:
            nonlocal place
            self.seen[number] += ids
            place += len(ids)
            return self.logits[number, place - len(ids) : place].numpy()

        yield continued


def reference(folder: Path, windows: Windows) -> tuple[torch.Tensor, object]:
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(COUNT, LENGTH - 1, HIDDEN, generator=generator)
    head = Head(torch.randn(VOCABULARY, HIDDEN, generator=generator), None)
    keep_reference(folder / "dense.safetensors", states, windows, head)
    return head.logits(states.flatten(0, 1)).view(COUNT, LENGTH - 1, -1), open_reference(
        folder / "dense.safetensors"
    )


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_it_is_torchs_kl_over_the_scored_positions(tmp_path: Path, windows: Windows, batch: int) -> None:
    dense, kept = reference(tmp_path, windows)
    other, first = Other(), windows.slice(0, 2)
    seen = compare_runtime(other.sequence, first, kept, "en", batch, SilentReporter())
    log_p, log_q = (
        functional.log_softmax(logits.double(), -1) for logits in (dense[:2], other.logits[:2, : LENGTH - 1])
    )
    expected = functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    assert seen.kl_nats == pytest.approx(float(expected), rel=1e-5)
    assert (seen.language, seen.windows, seen.tokens) == ("en", 2, 2 * (LENGTH - 1))
    assert other.seen == windows.ids[:2, :-1].tolist()


def test_another_vocabulary_is_refused(tmp_path: Path, windows: Windows) -> None:
    _, kept = reference(tmp_path, windows)
    with pytest.raises(StepError, match="the runtime has 39 logits a token, the dense model 40"):
        compare_runtime(Other(39).sequence, windows, kept, "en", 64, SilentReporter())


def test_logits_that_are_not_finite_are_an_error(tmp_path: Path, windows: Windows) -> None:
    _, kept = reference(tmp_path, windows)
    other = Other()
    other.logits[0, 3] = float("nan")
    with pytest.raises(StepError, match="not finite"):
        compare_runtime(other.sequence, windows, kept, "en", 64, SilentReporter())
