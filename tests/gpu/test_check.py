"""``make gpu-check``: what counts as agreement, and that no part can keep the others from running."""

import os
import subprocess
import sys

import pytest

from benchmarks.gpu import __main__ as check
from benchmarks.gpu.figures import Figures, agrees
from tests.thorough import THOROUGH

DENSE = Figures(kl=0.0, perplexity=20.0, accuracy=0.5)
QUANTIZED = Figures(kl=0.1, perplexity=22.0, accuracy=0.5)


def test_figures_agree_to_the_rounding_of_their_dtype() -> None:
    assert agrees(DENSE, DENSE, "float32")
    assert agrees(Figures(0.102, 22.01, 0.5), QUANTIZED, "float32")
    assert not agrees(Figures(0.104, 22.01, 0.5), QUANTIZED, "float32")
    assert not agrees(Figures(0.102, 22.1, 0.5), QUANTIZED, "float32")
    assert agrees(Figures(0.12, 22.1, 0.5), QUANTIZED, "bfloat16")
    assert not agrees(Figures(float("nan"), 22.0, 0.5), QUANTIZED, "bfloat16")


def test_a_part_that_crashes_or_has_no_time_is_a_word_and_not_the_end() -> None:
    environment = {name: value for name, value in os.environ.items() if name != check.FOLDER}
    assert check._run("steps", environment, 60.0) == "ended with 1"
    assert check._run("steps", environment, 0.001).startswith("ended after")
    assert check._run("steps", environment, 0.0) == "no time was left"


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="minutes; STUDYCTL_REFERENCE=all runs it")
def test_a_rehearsal_goes_through_without_a_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--rehearse"],
        cwd=check.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all agree" in done.stdout
    assert "HFLM, best batch" in done.stdout
