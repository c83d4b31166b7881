"""A batch of windows is the unit of work: more windows later measure the new ones only, with the figures of a new study."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from studyctl.contract.records import StepFinished
from studyctl.contract.steps import Span, StepKind
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.plan.preview import preview
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from studyctl.store.query import run_sql
from tests.run.studies import text, write_spec

FIGURES = (
    "select * from perplexity order by all",
    "select * from fidelity order by all",
    "select * from windows order by all",
)


@pytest.fixture
def study(workplace: Path) -> Callable[[int], Path]:
    """Return a function that writes the study with so many windows; its texts have more than 32."""
    for language in ("en", "de"):
        lines = [json.dumps({"text": line}) + "\n" for line in text(language, 60)]
        (workplace / "text" / language / "test.jsonl").write_text("".join(lines))
    return lambda windows: write_spec(workplace, change=("windows = 4", f"windows = {windows}"))


def run(spec: Path, root: StudyPaths | None = None) -> StudyPaths:
    started = run_study(spec, Selection(), Console(quiet=True), root=root)
    assert started.code == ExitCode.DONE, started.message
    return started.paths


def measured(paths: StudyPaths) -> list[tuple[str, str, Span]]:
    """Return trial, language and windows of every batch that was ever measured."""
    return sorted(
        (one.trial, one.step.subject or "", one.step.windows or (0, 0))
        for path in paths.journal.glob("*.jsonl")
        for one in read_journal(path)
        if isinstance(one, StepFinished) and one.step.kind is StepKind.PERPLEXITY
    )


def new_batches(paths: StudyPaths, act: Callable[[], object]) -> set[Span]:
    """Return the batches that ``act`` measures, which are the same for every trial and language."""
    before = measured(paths)
    act()
    after = measured(paths)
    for one in before:
        after.remove(one)
    by_place: dict[tuple[str, str], set[Span]] = {}
    for trial, language, span in after:
        by_place.setdefault((trial, language), set()).add(span)
    assert len(by_place) == 3 * 2, "three trials in two languages"
    (spans,) = {frozenset(spans) for spans in by_place.values()}
    return set(spans)


def figures(paths: StudyPaths) -> list[list[dict[str, Any]]]:
    return [run_sql(paths, query).to_pylist() for query in FIGURES]


def references(paths: StudyPaths) -> int:
    return len(list((paths.cache / "dense").glob("*-*-*.safetensors")))


def test_from_8_to_32_windows_measures_24(study: Callable[[int], Path], tmp_path: Path) -> None:
    paths = run(study(8))
    assert references(paths) == 2
    spec = study(32)
    (reason,) = {todo.reason for todo in preview(load_spec(spec)).comparison.todo}
    assert reason == "perplexity.windows 8 → 32"
    assert new_batches(paths, lambda: run(spec)) == {(8, 16), (16, 24), (24, 32)}
    assert references(paths) == 2 * 4, "those of the dense model grow with it"
    assert figures(paths) == figures(run(spec, StudyPaths(tmp_path / "new")))


def test_a_batch_that_was_cut_short_is_measured_again(study: Callable[[int], Path], tmp_path: Path) -> None:
    paths = run(study(10))
    assert new_batches(paths, lambda: run(study(20))) == {(8, 16), (16, 20)}
    assert new_batches(paths, lambda: run(study(18))) == {(16, 18)}
    assert figures(paths) == figures(run(study(18), StudyPaths(tmp_path / "new")))


def test_a_text_that_ends_before_is_measured_to_its_end_once(study: Callable[[int], Path]) -> None:
    paths = run(study(0))
    (most,) = run_sql(paths, "select max(windows) as windows from perplexity").to_pylist()
    before = measured(paths)
    for asked in (1000, most["windows"], 0):
        run(study(asked))
    assert measured(paths) == before
    assert run_sql(paths, "select count(*) as n from trials where state <> 'done'").to_pylist() == [{"n": 0}]
