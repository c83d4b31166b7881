"""A worker imports models of transformers without scipy, which is installed, and stays so for whoever asks."""

import subprocess
import sys
from importlib.util import find_spec

PROGRAM = """
import sys
from studyctl.sources.lean_transformers import import_models
import_models()
from transformers.models.llama import modeling_llama
from transformers.utils import is_scipy_available
print("scipy.optimize" in sys.modules, is_scipy_available())
"""


def test_models_are_imported_without_scipy() -> None:
    assert find_spec("scipy") is not None
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr
