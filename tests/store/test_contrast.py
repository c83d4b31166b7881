"""Two variants on the same windows: a paired t interval, and nothing where windows are too few."""

import math

import numpy as np
import pytest
from scipy import stats

from studyctl.store.contrast import Window, contrast

LN2 = math.log(2)


def windows(
    language: str, nll: list[float], size: int = 400, documents: list[int] | None = None
) -> list[Window]:
    places = documents or list(range(len(nll)))
    return [Window(language, n, value, 100, size, places[n]) for n, value in enumerate(nll)]


def test_one_language_has_the_paired_t_interval() -> None:
    left, right = [300.0, 310.0, 290.0, 305.0, 330.0], [280.0, 301.0, 288.0, 280.0, 300.0]
    found = contrast(windows("en", left), windows("en", right))
    assert found is not None
    ends = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert found.bits_per_byte == pytest.approx(np.mean(np.subtract(left, right)) / 400 / LN2)
    assert (found.low, found.high) == pytest.approx((ends.low / 400 / LN2, ends.high / 400 / LN2))
    assert (found.windows, found.languages, found.is_told_apart) == (5, 1, True)


def test_languages_count_alike_whatever_their_size() -> None:
    left = windows("en", [100.0] * 4, size=100) + windows("zh", [100.0] * 8, size=50)
    right = windows("en", [90.0] * 4, size=100) + windows("zh", [110.0] * 8, size=50)
    found = contrast(left, right)
    assert found is not None
    assert found.bits_per_byte == pytest.approx((0.1 - 0.2) / 2 / LN2)
    assert (found.windows, found.languages) == (12, 2)


def test_what_windows_do_not_agree_on_is_not_told_apart() -> None:
    found = contrast(windows("en", [100.0, 90.0, 110.0, 95.0]), windows("en", [99.0, 95.0, 104.0, 99.0]))
    assert found is not None
    assert found.low < 0 < found.high
    assert not found.is_told_apart


def test_many_documents_with_several_windows_are_the_units() -> None:
    documents = [place for place in range(20) for _ in range(2)]
    left = [100.0 + place for place in documents]
    found = contrast(
        windows("en", left, documents=documents), windows("en", [100.0] * 40, documents=documents)
    )
    of_documents = stats.ttest_1samp([2.0 * place for place in range(20)], 0).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(
        (of_documents.low / 800 / LN2, of_documents.high / 800 / LN2)
    )


def test_three_windows_or_a_window_without_bytes_say_nothing() -> None:
    assert contrast(windows("en", [1.0, 2.0, 3.0]), windows("en", [1.0, 2.0, 3.0])) is None
    assert contrast([], []) is None
    some = windows("en", [1.0, 2.0, 3.0, 4.0])
    assert contrast([row._replace(bytes=None) for row in some], some) is None


def test_only_windows_of_both_are_compared() -> None:
    left, right = windows("en", [5.0, 6.0, 7.0, 9.0, 8.0]), windows("en", [5.0, 5.0, 5.0, 5.0])
    found = contrast(left, right)
    assert found is not None
    assert found.windows == 4
