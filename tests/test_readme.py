"""The README is short, and what it shows was made by this version from the embedded study as it is."""

from tests.readme import README, ROOT, origin


def test_the_picture_is_of_this_version_and_this_spec() -> None:
    picture = (ROOT / "docs" / "app.svg").read_text()
    assert f"<!-- {origin()} -->" in picture, "make quickstart && python -m tests.tui.picture runs/pocket"


def test_the_transcript_is_of_this_version_and_this_spec() -> None:
    assert f"; {origin()} -->" in README.read_text(), "make quickstart && python -m tests.readme runs/pocket"


def test_it_is_read_in_a_minute() -> None:
    assert len(README.read_text().splitlines()) < 120
