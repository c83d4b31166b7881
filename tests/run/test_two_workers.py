"""A study on two devices of one machine."""

from pathlib import Path

from rich.console import Console

from studyctl.errors import ExitCode
from studyctl.journal.index import read_stored
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.store.query import run_sql
from tests.run.studies import write_spec


def test_both_run_trials_and_the_second_is_ready_when_dense_is_done(
    workplace: Path, console: Console
) -> None:
    spec = write_spec(workplace, change=('devices = "cpu"', 'devices = ["cpu", "cpu"]'))
    started = run_study(spec, Selection(), console)
    assert started.code == ExitCode.DONE
    attempts = {trial: attempt for trial, (attempt,) in read_stored(started.paths).attempts.items()}
    dense, *variants = (
        attempts[name].started for name in ("tiny-dense", "tiny-wanda-0.5", "tiny-rtn-4bit-g16")
    )
    assert {variant.pid for variant in variants} > {dense.pid}
    assert run_sql(started.paths, "select count(*) from perplexity").column(0).to_pylist() == [6]
