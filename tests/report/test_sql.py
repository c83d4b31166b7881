"""``studyctl sql``: rows are written while they are computed, and Ctrl-C ends a query."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.store.builder import FakeStudy

ENDLESS = "SELECT range AS x FROM range(100_000_000_000) WHERE x < 100_000 OR hash(x) = 1"
"""Has its first rows at once, and then searches for hours."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from studyctl.store.publish import publish

    study = FakeStudy(tmp_path_factory.mktemp("sql") / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study.root


def start(root: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "studyctl", "sql", str(root), *arguments]
    # Where the tests run in the background of a script, SIGINT is ignored, and a child would ignore it, too.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear)


def test_rows_arrive_before_the_query_ends_and_ctrl_c_ends_it(root: Path) -> None:
    process = start(root, ENDLESS, "--format", "csv")
    assert process.stdout is not None
    assert process.stdout.readline() == b"x\n"
    assert process.stdout.readline() == b"0\n"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_an_answer_of_any_length_is_written(root: Path, tmp_path: Path, format: str) -> None:
    out, errors = start(root, "FROM range(250_000) t(x)", "--format", format).communicate(timeout=120)
    assert errors == b""
    (tmp_path / "out").write_bytes(out)
    rows = {
        "csv": lambda: [int(line) for line in out.decode().splitlines()[1:]],
        "json": lambda: [row["x"] for row in json.loads(out)],
        "parquet": lambda: pq.read_table(tmp_path / "out")["x"].to_pylist(),
    }[format]()
    assert rows == list(range(250_000))


def test_an_error_in_a_late_row_is_a_problem(root: Path) -> None:
    query = "SELECT CASE WHEN x = 200_000 THEN error('late') ELSE x END FROM range(250_000) t(x)"
    process = start(root, query, "--format", "csv")
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out[:20].count(b"\n")) != (0, 0)
    assert b"late" in errors
    assert b"Traceback" not in errors
