"""A runner with 64 workers and a study of 100,000 trials takes little of its machine."""

from pathlib import Path

import pytest

from benchmarks.cluster import CORE_GOAL, MEMORY_GOAL, measure
from tests.thorough import THOROUGH


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="minutes; STUDYCTL_REFERENCE=all runs it")
def test_a_fifth_of_a_core_a_gibibyte_and_no_scan_of_all_journals(tmp_path: Path) -> None:
    taken, _ = measure(tmp_path, 60.0)
    assert taken.trials > 60
    assert taken.core <= 1.05 * CORE_GOAL
    assert taken.memory <= 1.05 * MEMORY_GOAL
    assert taken.opened <= 4
