"""What tests of backends need."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: its environments are nobody else's."""
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
