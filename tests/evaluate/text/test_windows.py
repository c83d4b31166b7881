import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import StepError
from studyctl.evaluate.text.windows import (
    SEGMENT,
    TokenizedText,
    Windows,
    cut_windows,
    needed_tokens,
    window_order,
)

ALL = 1000
"""Windows: more than any text here has."""


def text_of(tokens: int, bytes_per_token: int = 1, *, complete: bool = True) -> TokenizedText:
    """Return a text of one document and one character a token; the ids are the places."""
    ends = np.arange(1, tokens + 1)
    return TokenizedText(
        np.arange(tokens, dtype=np.int32), ends * bytes_per_token, ends, np.zeros(1, np.int64), complete
    )


def text_made_of(*documents: list[str]) -> TokenizedText:
    """Return the text that documents, given as the words of their tokens, make when newlines join them."""
    words = [
        word for number, document in enumerate(documents) for word in (["\n"] if number else []) + document
    ]
    sizes = np.array([[len(word.encode()), len(word)] for word in words])
    whole = [len("".join(document).encode()) + 1 for document in documents]
    ends = sizes.cumsum(axis=0)
    return TokenizedText(
        np.arange(len(words), dtype=np.int32), ends[:, 0], ends[:, 1], np.cumsum([0, *whole[:-1]])
    )


def in_text_order(windows: Windows) -> Windows:
    order = np.argsort(windows.numbers)
    return Windows(
        windows.ids[order],
        windows.numbers[order],
        windows.bytes[order],
        windows.characters[order],
        windows.documents[order],
        windows.bos,
        windows.available,
    )


def cut(text: TokenizedText, length: int, bos: int | None = None) -> Windows:
    """Return all windows of a text in its order."""
    return in_text_order(cut_windows(text, length, ALL, bos))


class TestCutting:
    def test_windows_follow_each_other_and_the_last_partial_one_is_dropped(self) -> None:
        windows = cut(text_of(11), 4)
        assert windows.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert windows.numbers.tolist() == [0, 1]

    def test_count_takes_so_many_of_them(self) -> None:
        windows = cut_windows(text_of(100), 4, 2, None)
        assert windows.ids.tolist() == [list(range(4 * n, 4 * n + 4)) for n in windows.numbers]
        assert len(windows) == 2

    def test_count_beyond_the_text_takes_all_there_is(self) -> None:
        assert len(cut_windows(text_of(9), 4, 128, None)) == 2

    def test_a_bos_takes_one_place_of_each_window(self) -> None:
        windows = cut(text_of(7), 4, 99)
        assert windows.ids.tolist() == [[99, 0, 1, 2], [99, 3, 4, 5]]
        assert windows.bos

    @pytest.mark.parametrize("bos", [None, 99])
    def test_the_first_token_of_a_window_is_not_scored(self, bos: int | None) -> None:
        assert cut(text_of(8), 4, bos).scored_tokens == 3

    @pytest.mark.parametrize("bos", [None, 99])
    def test_a_text_shorter_than_a_window_is_an_error(self, bos: int | None) -> None:
        with pytest.raises(StepError, match="2 tokens, fewer than the"):
            cut_windows(text_of(2), 4, ALL, bos)

    def test_a_text_of_one_window_is_enough(self) -> None:
        assert cut(text_of(4), 4).ids.tolist() == [[0, 1, 2, 3]]
        assert cut(text_of(3), 4, 99).ids.tolist() == [[99, 0, 1, 2]]

    def test_ids_are_int32(self) -> None:
        assert cut(text_of(8), 4).ids.dtype == cut(text_of(8), 4, 99).ids.dtype == np.int32


class TestSizes:
    """Those of the scored tokens of each window."""

    WORDS = ("a", "é", "語", "🙂", "bc", "ß!", "x", "語語", "end")
    """Of 1, 2, 3, 4, 2, 3, 1, 6 and 3 bytes."""

    def test_without_bos_the_first_token_of_each_window_does_not_count(self) -> None:
        windows = cut(text_made_of([*self.WORDS]), 4)
        assert windows.bytes.tolist() == [2 + 3 + 4, 3 + 1 + 6]
        assert windows.characters.tolist() == [3, 2 + 1 + 2]

    def test_with_bos_all_tokens_count(self) -> None:
        windows = cut(text_made_of([*self.WORDS]), 4, 99)
        assert windows.bytes.tolist() == [1 + 2 + 3, 4 + 2 + 3, 1 + 6 + 3]
        assert windows.characters.tolist() == [3, 1 + 2 + 2, 1 + 2 + 3]

    def test_without_bos_bytes_are_those_of_the_scored_tokens(self) -> None:
        windows = cut(text_of(8, bytes_per_token=3), 4)
        assert windows.bytes.tolist() == [9, 9]

    def test_with_bos_all_of_the_text_is_scored(self) -> None:
        windows = cut(text_of(6, bytes_per_token=3), 4, 99)
        assert windows.bytes.sum() == 18

    def test_a_token_that_is_part_of_a_character_ends_where_the_character_does(self) -> None:
        # 🙂 in two tokens, both with the end of the character; then a, b, c.
        text = TokenizedText(
            np.arange(5, dtype=np.int32),
            np.array([4, 4, 5, 6, 7]),
            np.array([1, 1, 2, 3, 4]),
            np.zeros(1, np.int64),
        )
        assert cut(text, 2, 99).bytes.tolist() == [4, 0, 1, 1, 1]
        assert cut(text, 2, 99).characters.tolist() == [1, 0, 1, 1, 1]
        assert cut(text, 2).bytes.tolist() == [0, 1], "the 🙂 is the context of the first window"


class TestDocuments:
    def test_a_window_is_of_the_document_in_which_it_begins(self) -> None:
        text = text_made_of(["a", "b", "c"], ["d"], ["e", "f", "g", "h", "i"])
        # a b | c \n | d \n | e f | g h
        assert cut(text, 2).documents.tolist() == [0, 0, 1, 2, 2]
        # Also where it begins with the newline: that is the end of the document before.
        # a b c | \n d \n | e f g
        assert cut(text, 3).documents.tolist() == [0, 0, 2]

    def test_a_bos_is_in_none_of_them(self) -> None:
        text = text_made_of(["a", "b", "c"], ["d", "e"])
        # a b | c \n | d e
        assert cut(text, 3, 99).documents.tolist() == [0, 0, 1]

    def test_documents_are_found_by_bytes_not_by_characters(self) -> None:
        text = text_made_of(["語", "語"], ["🙂", "b"], ["c"])
        # 語 | 語 | \n | 🙂 | b | \n | c
        assert cut(text, 2, 99).documents.tolist() == [0, 0, 0, 1, 1, 1, 2]

    def test_an_empty_document_is_where_the_next_one_does_not_begin_yet(self) -> None:
        text = text_made_of(["a"], [], ["b"])
        # a | \n | \n | b
        assert cut(text, 2, 99).documents.tolist() == [0, 0, 1, 2]


class TestOrder:
    def test_it_is_the_same_everywhere_and_for_ever(self) -> None:
        assert window_order(10, 10).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
        assert window_order(10, 4).tolist() == [2, 3, 1, 0, 6, 7, 5, 4, 9, 8]

    def test_windows_are_taken_in_it(self) -> None:
        windows = cut_windows(text_of(20), 2, 4, None)
        assert windows.numbers.tolist() == [2, 8, 4, 9]
        assert windows.ids.tolist() == [[4, 5], [16, 17], [8, 9], [18, 19]]

    @given(count=st.integers(1, 600), segment=st.integers(1, 300))
    def test_each_segment_is_a_permutation_of_its_windows(self, count: int, segment: int) -> None:
        order = window_order(count, segment)
        for begin in range(0, count, segment):
            end = min(begin + segment, count)
            assert sorted(order[begin:end]) == list(range(begin, end))

    def test_without_segments_they_are_from_all_over_the_text(self) -> None:
        numbers = cut_windows(text_of(2000), 2, 100, None).numbers
        assert min(numbers) < 100
        assert max(numbers) >= 900

    def test_more_text_beyond_a_segment_does_not_change_it(self) -> None:
        short, long = (cut_windows(text_of(tokens), 2, 5, None, segment=8) for tokens in (16, 200))
        assert short.ids.tolist() == long.ids.tolist()
        assert max(long.numbers) < 8

    def test_so_much_of_a_dataset_is_needed_that_whole_segments_are_there(self) -> None:
        assert needed_tokens(1, 512) == SEGMENT * 512
        assert needed_tokens(SEGMENT, 512) == SEGMENT * 512
        assert needed_tokens(SEGMENT + 1, 512) == 2 * SEGMENT * 512


class TestAvailable:
    def test_it_is_what_the_whole_text_has_not_what_is_taken(self) -> None:
        assert cut_windows(text_of(41), 4, 3, None).available == 10
        assert cut_windows(text_of(41), 4, ALL, 99).available == 13

    def test_of_the_beginning_of_a_text_it_is_not_known(self) -> None:
        assert cut_windows(text_of(41, complete=False), 4, 3, None).available is None


def test_a_slice_is_windows_in_the_order_in_which_they_are_taken() -> None:
    windows = cut_windows(text_made_of([*"abcdefgh"], [*"語語語語語語"]), 2, ALL, None)
    part = windows.slice(2, 5)
    assert len(part) == 3
    for name in ("ids", "numbers", "bytes", "characters", "documents"):
        assert getattr(part, name).tolist() == getattr(windows, name)[2:5].tolist(), name
    assert (part.bos, part.available) == (windows.bos, windows.available)
    assert windows.slice(5, 100).numbers.tolist() == windows.numbers[5:].tolist()


@given(
    tokens=st.integers(2, 200),
    length=st.integers(2, 20),
    count=st.integers(1, 30),
    more=st.integers(0, 30),
    bos=st.sampled_from([None, 999]),
    segment=st.sampled_from([None, 1, 5, 64]),
)
def test_more_windows_begin_with_the_same_ones(
    tokens: int, length: int, count: int, more: int, bos: int | None, segment: int | None
) -> None:
    if tokens < length - (bos is not None):
        return
    few = cut_windows(text_of(tokens), length, count, bos, segment)
    many = cut_windows(text_of(tokens), length, count + more, bos, segment)
    assert few.ids.tolist() == many.ids[: len(few)].tolist()
    assert len(few) == min(count, many.available or 0)


@given(
    tokens=st.integers(2, 200),
    length=st.integers(2, 20),
    bos=st.sampled_from([None, 999]),
    segment=st.sampled_from([None, 1, 5, 64]),
)
def test_all_windows_in_the_order_of_the_text_hold_its_beginning(
    tokens: int, length: int, bos: int | None, segment: int | None
) -> None:
    text_length = length - (bos is not None)
    if tokens < text_length:
        return
    windows = in_text_order(cut_windows(text_of(tokens), length, ALL, bos, segment))
    assert windows.ids.shape[1] == length
    kept = windows.ids[:, length - text_length :].ravel()
    assert kept.tolist() == list(range(len(kept)))
    assert len(kept) == tokens // text_length * text_length
    assert windows.bytes.sum() == len(windows) * (length - 1)
