import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import StepError
from studyctl.evaluate.windows import TokenizedText, cut_windows


def text_of(tokens: int, bytes_per_token: int = 1) -> TokenizedText:
    return TokenizedText(np.arange(tokens, dtype=np.int32), np.arange(1, tokens + 1) * bytes_per_token)


def test_windows_follow_each_other_and_the_last_partial_one_is_dropped() -> None:
    windows = cut_windows(text_of(11), 4, 0, None)
    assert windows.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows.bytes == 8


def test_count_takes_the_first_windows() -> None:
    assert cut_windows(text_of(100), 4, 2, None).ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_count_beyond_the_text_takes_all_there_is() -> None:
    assert len(cut_windows(text_of(9), 4, 128, None).ids) == 2


def test_a_bos_takes_one_place_of_each_window() -> None:
    windows = cut_windows(text_of(7), 4, 0, 99)
    assert windows.ids.tolist() == [[99, 0, 1, 2], [99, 3, 4, 5]]
    assert windows.bos
    assert windows.bytes == 6


def test_without_bos_the_first_token_of_each_window_is_not_scored_and_its_share_of_bytes_not_counted() -> (
    None
):
    windows = cut_windows(text_of(8, bytes_per_token=3), 4, 0, None)
    assert windows.scored_tokens == 6
    assert windows.scored_bytes == 24 * 6 // 8


def test_with_bos_all_of_the_text_is_scored() -> None:
    windows = cut_windows(text_of(6, bytes_per_token=3), 4, 0, 99)
    assert windows.scored_tokens == 6
    assert windows.scored_bytes == 18


@pytest.mark.parametrize("bos", [None, 99])
def test_a_text_shorter_than_a_window_is_an_error(bos: int | None) -> None:
    with pytest.raises(StepError, match="2 tokens, fewer than the"):
        cut_windows(text_of(2), 4, 0, bos)


@given(
    tokens=st.integers(2, 200),
    length=st.integers(2, 20),
    count=st.integers(0, 30),
    bos=st.sampled_from([None, 999]),
)
def test_windows_hold_the_beginning_of_the_text_in_order(
    tokens: int, length: int, count: int, bos: int | None
) -> None:
    text_length = length - (bos is not None)
    if tokens < text_length:
        return
    windows = cut_windows(text_of(tokens), length, count, bos)
    assert windows.ids.shape[1] == length
    kept = windows.ids[:, length - text_length :].ravel()
    assert kept.tolist() == list(range(len(kept)))
    assert windows.bytes == len(kept)
    assert count == 0 or len(windows.ids) <= count
