"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Read once, when huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# A busy machine is no fault of a test.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder with real texts, task items and small trained models; kept beside the project, not part of it."""
    folder = Path(os.environ.get("STUDYCTL_REAL", Path(__file__).parents[2] / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"real texts and models are not here ({folder}); set STUDYCTL_REAL")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test or fixture reads or writes the user's cache, or what studyctl remembers about the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDYCTL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))
        yield


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, a task and a tiny model (see ``tests/run/studies.py``); made once, not to be changed."""
    from tests.run.studies import make_sources  # imports torch

    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder)
    return folder
