"""The app's tests: no animation, no blinking, studies under a folder of their own."""

from pathlib import Path

import pytest

from tests.store.builder import FakeStudy
from tests.tui import studies


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


@pytest.fixture
def small(runs: Path) -> FakeStudy:
    return studies.finished(runs / "small")


@pytest.fixture
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the app remembers, and files without a folder, go into a folder of the test's own."""
    monkeypatch.setenv("STUDYCTL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
