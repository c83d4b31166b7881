"""Records a real run for the app's pictures: ``python -m tests.tui.record runs/pocket``.

Journals are kept as they are, without what belongs to one machine (host, process) and without most of the progress.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
BASE = re.compile(r"^# studyctl: relative paths start at .*\n")


def record(run: Path, target: Path) -> None:
    """Write a recording of a run's folder."""
    journals = target / "journal"
    journals.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "plan.json", target)
    (target / "spec.toml").write_text(BASE.sub("", (run / "spec.toml").read_text()))
    for part in (run / "journal").glob("*.parquet"):
        shutil.copyfile(part, journals / part.name)
    for journal in (run / "journal").glob("*.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        last = {_step(line): line["seq"] for line in lines if line["kind"] == "progress"}
        kept = [line for line in lines if line["kind"] != "progress" or last[_step(line)] == line["seq"]]
        text = "".join(json.dumps(_anywhere(line), separators=(",", ":")) + "\n" for line in kept)
        (journals / journal.name).write_text(text)


def _step(line: dict[str, Any]) -> tuple[str, str | None]:
    return line["step"]["kind"], line["step"].get("subject")


def _anywhere(line: dict[str, object]) -> dict[str, object]:
    return line | {"host": "node1", "pid": 4242} if "host" in line else line


if __name__ == "__main__":
    record(Path(sys.argv[1]), RECORDED / Path(sys.argv[1]).name)
