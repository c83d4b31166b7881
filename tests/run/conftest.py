"""What tests of running need."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console


@pytest.fixture
def workplace(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the sources, where the test is at work."""
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def console() -> Console:
    """A console that is no terminal; ``console.file.getvalue()`` is what was printed on it."""
    return Console(file=io.StringIO(), width=120)
