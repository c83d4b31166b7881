"""Exports are tested with the models and calibration of compression, and with llama.cpp where it is."""

from pathlib import Path

import pytest

from studyctl.llama import find_llama
from tests.compress.conftest import _one_thread, ids
from tests.run.studies import make_model

__all__ = ["_one_thread", "ids"]


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and its tokenizer."""
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def llama() -> Path:
    """The folder of llama.cpp's library."""
    if (folder := find_llama()) is None:
        pytest.skip("llama.cpp is not here; STUDYCTL_LLAMA names its folder")
    return folder
