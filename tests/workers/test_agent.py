"""What an agent knows of its allocation."""

import pytest

pytest.importorskip("distributed", reason="workers on other machines need studyctl[cluster]")

from studyctl.workers.agent import slurm_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10:00", 600), ("1:02:03", 3723), ("2-00:00:00", 172_800), ("1-01:00:00", 90_000), ("59", 59),
        ("UNLIMITED", None), ("NOT_SET", None), ("INVALID", None), ("", None),
    ],
)  # fmt: skip
def test_times_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert slurm_seconds(text) == seconds
