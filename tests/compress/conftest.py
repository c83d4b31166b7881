"""What most tests of compression need."""

from collections.abc import Iterator

import pytest
import torch

from .tiny import VOCABULARY, Listener


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Threads only cost time on matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ids() -> torch.Tensor:
    """Calibration ids ``[5, 24]``: with 48 tokens a chunk, the last chunk is smaller than the others."""
    return torch.randint(3, VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def listener() -> Listener:
    return Listener()
