"""A worker keeps the memory of freed tensors for the next ones."""

import json
import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

ROUNDS, PAGES = 20, 1024
PAGE = resource.getpagesize()
SCRIPT = f"""
import json, resource, sys
import numpy as np
from studyctl.work.memory import keep_freed_memory

def rounds():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({ROUNDS}):
        arrays = [np.ones({PAGES * PAGE}, np.uint8) for _ in range(4)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = rounds()
keep_freed_memory()
rounds()
json.dump([plain, rounds()], sys.stdout)
"""


def test_large_arrays_reuse_the_memory_of_freed_ones() -> None:
    plain, kept = _printed(SCRIPT)
    assert kept * 10 < plain


SMALL, COUNT = 64 << 10, 1024
LEFT = f"""
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
    before, after = _printed(LEFT)
    assert before - after > SMALL * COUNT * 3 // 4


def _printed(script: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    numbers: list[int] = json.loads(done.stdout)
    return numbers
