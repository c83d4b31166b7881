"""Seconds and peak memory of every step of a study in bfloat16, beside what ``studyctl plan`` says it takes at most."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.made import TIMED, Size, finished, start, write_study
from benchmarks.page import note, table
from studyctl.files import StudyPaths
from studyctl.store.query import run_sql

GIB = 1 << 30
SQL = """
SELECT s.variant, s.step, s.seconds, s.peak_memory_bytes AS host, s.peak_device_bytes AS device
FROM steps s JOIN trials t USING (trial_id) WHERE s.state = 'done' ORDER BY t.position, s.finished_at
"""


def main(folder: Path, model: Path, texts: Path, size: Size, device: str, name: str) -> bool:
    """Run the study of a model; return whether memory stays below the plan's bounds."""
    spec = write_study(folder, name, model, texts, size, dtype="bfloat16", device=device, variants=TIMED)
    planned = subprocess.run(
        [sys.executable, "-m", "studyctl", "plan", str(spec), "--json"],
        cwd=folder, env=os.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    estimate = json.loads(planned.stdout)["estimate"]
    process = start(spec)
    try:
        finished(process, spec)
    finally:
        process.kill()
    rows = run_sql(StudyPaths(folder / "runs" / name), SQL).to_pylist()
    table(
        ("variant", "step", "seconds", "GiB on the GPU", "GiB of the process"),
        [
            (
                row["variant"],
                row["step"],
                f"{row['seconds']:.2f}",
                f"{(row['device'] or 0) / GIB:.2f}",
                f"{row['host'] / GIB:.2f}",
            )
            for row in rows
        ],
    )
    peaks = {
        "GPU": (max(row["device"] or 0 for row in rows), estimate["device_bytes"]),
        "process": (max(row["host"] for row in rows), estimate["host_bytes"]),
    }
    seconds = sum(row["seconds"] for row in rows)
    bounds = ", ".join(
        f"{what} {peak / GIB:.2f} of {bound / GIB:.2f} GiB" for what, (peak, bound) in peaks.items()
    )
    note(
        f"highest peaks of the plan's bounds: {bounds}; {seconds:.0f} s, estimated {estimate['seconds']:.0f} s"
    )
    return all(peak <= bound for peak, bound in peaks.values())
