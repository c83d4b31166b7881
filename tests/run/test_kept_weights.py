"""Weights of finished trials are kept: what is added to a study later is measured without compressing again."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.contract.records import StepFinished, Warned
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.plan.preview import preview
from studyctl.report.plan import draw_plan
from studyctl.run.cleaning import clean
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from studyctl.store.query import run_sql
from tests.run.studies import write_spec

ONE_LANGUAGE = ('["en", "de"]', '["en"]')
FIGURES = (
    "select * from perplexity order by all",
    "select * from fidelity order by all",
    "select * from tasks order by all",
)


def run(spec: Path, root: StudyPaths | None = None) -> StudyPaths:
    started = run_study(spec, Selection(), Console(quiet=True), root=root)
    assert started.code == ExitCode.DONE, started.message
    return started.paths


def steps(paths: StudyPaths, since: int) -> set[str]:
    """Return the steps that variants finished in attempts after the first so many."""
    return {
        str(record.step)
        for path in paths.journal.glob("*.jsonl")
        if int(path.name.split(".")[-2]) > since and "dense" not in path.name
        for record in read_journal(path)
        if isinstance(record, StepFinished)
    }


def warnings(paths: StudyPaths) -> list[str]:
    return [
        record.message
        for path in paths.journal.glob("*.jsonl")
        for record in read_journal(path)
        if isinstance(record, Warned)
    ]


def figures(paths: StudyPaths) -> list[object]:
    return [run_sql(paths, query).to_pylist() for query in FIGURES]


def output(spec: Path) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    draw_plan(preview(load_spec(spec)), console, console)
    return console.export_text()


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(ONE_LANGUAGE, id="a language"),
        pytest.param(("windows = 4", "windows = 2"), id="windows"),
        pytest.param(
            ('names = ["boats"]\ninclude = ["tasks"]', 'names = ["boats"]\ninclude = ["tasks"]\nlimit = 4'),
            id="items",
        ),
        pytest.param(("[evaluation.fidelity]", '[evaluation.fidelity]\nmetrics = ["kl"]'), id="a metric"),
    ],
)
def test_what_is_added_runs_without_compressing(
    before: tuple[str, str], workplace: Path, tmp_path: Path
) -> None:
    paths = run(write_spec(workplace, change=before))
    spec = write_spec(workplace)
    assert "compress" not in " ".join(
        str(step) for todo in preview(load_spec(spec)).comparison.todo for step in todo.steps
    )
    run(spec)
    done = steps(paths, since=1)
    assert "load" in done
    assert "compress" not in done
    assert figures(paths) == figures(run(spec, StudyPaths(tmp_path / "new")))


def test_a_plan_says_what_is_compressed_again_where_weights_are_gone(
    workplace: Path, console: Console
) -> None:
    paths = run(write_spec(workplace, change=ONE_LANGUAGE))
    spec = write_spec(workplace)
    assert "of weights are kept for steps that are added (keep_trial_weights = 20 GiB)" in output(spec)
    clean(paths, console, yes=True)
    assert (
        "kept  (weights of finished trials: compressed again for steps that are added)"
        in console.file.getvalue()
    )  # type: ignore[attr-defined]
    again = output(spec)
    assert "new perplexity:de, compress again" in again
    assert "to compress again 2 trials, whose weights were not kept" in again
    assert "of weights are kept" not in again
    assert preview(load_spec(spec)).estimate.again_seconds > 0
    run(spec)
    assert "compress" in steps(paths, since=1)
    assert len(paths.all_weights()) == 2


def test_with_no_room_nothing_is_kept(workplace: Path) -> None:
    paths = run(write_spec(workplace, execution="keep_trial_weights = 0"))
    assert paths.all_weights() == frozenset()


def test_a_lower_limit_holds_also_where_nothing_is_compressed(workplace: Path) -> None:
    paths = run(write_spec(workplace, change=ONE_LANGUAGE))
    assert len(paths.all_weights()) == 2
    run(write_spec(workplace, execution="keep_trial_weights = 0"))
    assert paths.all_weights() == frozenset()


def test_what_was_used_longest_ago_goes_first(workplace: Path) -> None:
    paths = run(write_spec(workplace))
    sizes = {path: path.stat().st_size for path in paths.kept_weights("").parent.iterdir()}
    older, newer = sorted(sizes, key=lambda path: path.stat().st_mtime)
    os.utime(newer, (1, 1))
    write_spec(
        workplace,
        execution=f"keep_trial_weights = {sum(sizes.values()) - 1}",
        change=("bits = 4", "bits = 3"),
    )
    run(workplace / "small.toml")
    left = set(paths.kept_weights("").parent.iterdir())
    assert newer not in left
    assert older in left
    assert len(left) == 2


def test_kept_weights_that_are_torn_are_made_again(workplace: Path) -> None:
    paths = run(write_spec(workplace, change=ONE_LANGUAGE))
    for path in paths.kept_weights("").parent.iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    run(write_spec(workplace))
    assert "compress" in steps(paths, since=1)
    assert any("its content has changed since it was written" in text for text in warnings(paths))
