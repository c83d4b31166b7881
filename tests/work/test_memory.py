"""The peak of a step is without memory that was free before it."""

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

SMALL, COUNT = 64 << 10, 1024
SCRIPT = f"""
import json, sys
import numpy as np
from studyctl.work.memory import peak_bytes, reset_peak

arrays = [np.ones({SMALL}, np.uint8) for _ in range({COUNT})]
before = peak_bytes()
arrays = arrays[-1:]  # the last one keeps all that is free below it
reset_peak()
json.dump([before, peak_bytes()], sys.stdout)
"""


def test_a_new_peak_is_without_what_was_free_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert before - after > SMALL * COUNT * 3 // 4
