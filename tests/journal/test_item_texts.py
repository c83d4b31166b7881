"""The texts of items are written once, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studyctl.contract.item_texts import ITEM_TEXTS
from studyctl.files import StudyPaths, machine
from studyctl.journal.parts import keep_texts

TEXTS = pa.Table.from_pylist(
    [{"item": number, "prompt": f"question {number}", "choices": ["a", "b"], "target": None} for number in range(5)],
    schema=ITEM_TEXTS,
)  # fmt: skip
SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from studyctl.files import StudyPaths
from studyctl.journal.parts import keep_texts
from tests.journal.test_item_texts import TEXTS
{before}
try:
    keep_texts(StudyPaths(Path(sys.argv[1])), "key", TEXTS)
except OSError as error:
    print(error.strerror or error)
"""


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path)


def run(paths: StudyPaths, before: str) -> str:
    """Write the texts in another process, to which something happens; return what it says."""
    command = [sys.executable, "-c", SCRIPT.format(before=before), str(paths.root)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60).stdout


def files(paths: StudyPaths) -> list[str]:
    return sorted(path.name for path in paths.items.iterdir())


def test_they_come_back(paths: StudyPaths) -> None:
    assert keep_texts(paths, "key", TEXTS) == paths.item_texts("key")
    assert pq.read_table(paths.item_texts("key")) == TEXTS


def test_who_comes_second_writes_nothing(paths: StudyPaths) -> None:
    path = keep_texts(paths, "key", TEXTS)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert keep_texts(paths, "key", TEXTS) == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


@pytest.mark.parametrize("content", [b"", b"PAR1 torn"])
def test_a_torn_file_is_written_again(paths: StudyPaths, content: bytes) -> None:
    keep_texts(paths, "key", TEXTS).write_bytes(content)
    assert pq.read_table(keep_texts(paths, "key", TEXTS)) == TEXTS


def test_a_kill_leaves_nothing_that_the_next_does_not_remove(paths: StudyPaths) -> None:
    run(paths, "pq.write_table = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)")
    (left,) = files(paths)
    assert left.startswith(f".key.parquet.{machine()}-")
    keep_texts(paths, "key", TEXTS)
    assert files(paths) == ["key.parquet"]


def test_a_full_disk_is_an_error_and_leaves_nothing(paths: StudyPaths) -> None:
    said = run(
        paths,
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    )
    assert "File too large" in said
    assert files(paths) == []
