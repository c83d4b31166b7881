"""What `studyctl list` prints."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from studyctl.report.studies import draw_studies
from studyctl.store.studies import StudyRow


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_cut_in_a_narrow_terminal(width: int) -> None:
    row = StudyRow(
        "ø" * 100,
        "running",
        trials=1200,
        done=1000,
        failed=7,
        host="ß" * 30,
        last_sign=datetime(2026, 1, 2, tzinfo=UTC),
    )
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    draw_studies([row], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    tables = text.count("study")
    assert text.count("ø") == 100 * tables
    assert text.count("ß") == 30
    for shown in ("▶ running", "1000/1200", "failed", " 7", "last sign of life", "2026-01-0"):
        assert shown in text
