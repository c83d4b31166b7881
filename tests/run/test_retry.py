"""``studyctl retry`` without a runner: the trials that failed, and no other."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from studyctl.cli import app
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.store.query import run_sql
from tests.run.studies import write_spec


@pytest.fixture
def spec(workplace: Path) -> Path:
    """Of a study whose task fails at every trial: an item's answer is none of its choices."""
    with (workplace / "tasks" / "boats.jsonl").open("a") as file:
        file.write(json.dumps({"question": "where", "choices": ["here", "there"], "answer": 9}) + "\n")
    return write_spec(workplace, execution="retries = 0")


def attempts(paths: StudyPaths) -> dict[str, int]:
    """Return how often each trial was tried, by its variant."""
    return {
        row["variant"]: row["attempts"]
        for row in run_sql(paths, "select variant, attempts from trials").to_pylist()
    }


def test_only_what_failed_is_tried_again(spec: Path, console: Console) -> None:
    started = run_study(spec, Selection(("dense",)), console)
    assert started.code is ExitCode.FAILED
    before = attempts(started.paths)
    ended = CliRunner().invoke(app, ["retry", "small"])
    assert ended.exit_code == ExitCode.FAILED
    assert attempts(started.paths) == before | {"dense": before["dense"] + 1}
    assert before == {"dense": 1, "rtn-4bit-g16": 0, "wanda-0.5": 0}


def test_a_trial_is_named_by_its_variant(spec: Path, console: Console) -> None:
    started = run_study(spec, Selection(("dense", "rtn*")), console)
    CliRunner().invoke(app, ["retry", "small", "rtn-4bit-g16"])
    assert attempts(started.paths) == {"dense": 1, "rtn-4bit-g16": 2, "wanda-0.5": 0}


def test_where_nothing_failed_it_says_what_goes_on(workplace: Path, console: Console) -> None:
    spec, root = write_spec(workplace), StudyPaths(workplace / "of two words")
    started = run_study(spec, Selection(("dense",)), console, root=root)
    ended = CliRunner().invoke(app, ["retry", "of two words"])
    assert ended.exit_code == ExitCode.DONE
    assert f"no trial of of two words failed; `studyctl run '{root.spec}'` runs" in ended.stderr
    assert attempts(started.paths) == {"dense": 1, "rtn-4bit-g16": 0, "wanda-0.5": 0}
