"""What counts as running out of memory."""

import pytest
import torch

from studyctl.evaluate.memory import is_out_of_memory


def test_an_allocation_that_this_machine_cannot_make_is_one() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(10**15)
    assert is_out_of_memory(failed.value)


def test_other_errors_of_torch_are_none() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(failed.value)
