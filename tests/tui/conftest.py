"""The app's tests: no animation, no blinking, studies under a folder of their own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STUDYCTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
