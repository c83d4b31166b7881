"""A worker keeps the memory of freed tensors for the next ones."""

import json
import platform
import resource
import subprocess
import sys

import pytest

ROUNDS, PAGES = 20, 1024
PAGE = resource.getpagesize()
SCRIPT = f"""
import json, resource, sys
import numpy as np
from studyctl.run.memory import keep_freed_memory

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_arrays_reuse_the_memory_of_freed_ones() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept = json.loads(done.stdout)
    assert kept * 10 < plain
