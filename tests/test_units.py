"""Figures as people read them."""

import pytest

from studyctl.units import count_text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials"), (1200, "1,200 trials")]
)
def test_a_count_has_its_noun_in_the_right_number(count: int, text: str) -> None:
    assert count_text(count, "trial") == text
