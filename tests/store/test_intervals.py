"""Bootstrap intervals: paired with dense, seeded, and absent where there is too little to draw from."""

import math
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from studyctl.store.intervals import intervals
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from studyctl.store.schema import create_schema
from tests.store import builder
from tests.store.builder import FakeStudy

Rows = dict[tuple[str, str | None], tuple[int, float, float]]
LEAD = {"trial_id": "m-x", "model": "m", "method": "rtn", "variant": "x"}


def windows(connection: duckdb.DuckDBPyConnection, trial: str, language: str, nll: Iterable[float]) -> None:
    variant = "dense" if trial.endswith("dense") else trial.partition("-")[2]
    connection.executemany(
        'INSERT INTO windows (trial_id, model, method, variant, language, "window", nll_nats, tokens) '
        "VALUES (?, 'm', 'rtn', ?, ?, ?, ?, 100)",
        [(trial, variant, language, index, value) for index, value in enumerate(nll)],
    )


def interval_rows(fill: Callable[[duckdb.DuckDBPyConnection], None] | None, *flips: dict[str, Any]) -> Rows:
    with closing(duckdb.connect()) as connection:
        create_schema(connection)
        if fill is not None:
            fill(connection)
        for row in flips:
            values = [*LEAD.values(), row["task"], row["metric"], row["metric"] == "acc"]
            connection.execute(
                "INSERT INTO tasks (trial_id, model, method, variant, task, metric, averaged) VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        rows = intervals(connection, [LEAD | row for row in flips])
    return {(row["measure"], row["subject"]): (row["pairs"], row["low"], row["high"]) for row in rows}


def flips(task: str, items: int, lost: int, won: int, metric: str = "acc") -> dict[str, Any]:
    return {"task": task, "metric": metric, "items": items, "right_to_wrong": lost, "wrong_to_right": won}


def test_windows_that_all_change_alike_leave_no_doubt() -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        dense = np.linspace(200, 400, 20)  # how hard a window is drops out
        windows(connection, "m-dense", "en", dense)
        windows(connection, "m-x", "en", dense + 100 * math.log(1.25))

    assert interval_rows(fill) == {
        ("ppl_ratio", "en"): (20, pytest.approx(1.25), pytest.approx(1.25)),
        ("ppl_ratio", None): (1, pytest.approx(1.25), pytest.approx(1.25)),
    }


def test_the_width_is_that_of_the_mean_difference() -> None:
    scatter = np.random.default_rng(0).normal(10, 4, 200)

    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        windows(connection, "m-dense", "en", np.full(200, 300.0))
        windows(connection, "m-x", "en", 300 + scatter)

    _, low, high = interval_rows(fill)["ppl_ratio", "en"]
    expected = 3.92 * scatter.std() / 200**0.5 / 100
    assert math.log(high) - math.log(low) == pytest.approx(expected, rel=0.1)
    assert low < math.exp(scatter.mean() / 100) < high


def test_the_mean_over_languages_is_geometric_and_surer_than_each() -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        for number, language in enumerate(("en", "sw", "zh", "ar")):
            scatter = np.random.default_rng(number).normal(10, 4, 50)
            windows(connection, "m-dense", language, np.full(50, 300.0))
            windows(connection, "m-x", language, 300 + scatter)

    rows = interval_rows(fill)
    pairs, low, high = rows.pop(("ppl_ratio", None))
    assert pairs == 4
    widths = [math.log(top / bottom) for _, bottom, top in rows.values()]
    assert math.log(high / low) == pytest.approx(np.mean(widths) / 2, rel=0.15)


def test_a_change_of_accuracy() -> None:
    rows = interval_rows(None, flips("arc", 1000, lost=60, won=20))
    pairs, low, high = rows["acc", "arc"]
    deviation = math.sqrt((0.08 - 0.04**2) / 1000)
    assert pairs == 1000
    assert (low, high) == pytest.approx((-0.04 - 1.96 * deviation, -0.04 + 1.96 * deviation), abs=0.002)


def test_nothing_turned_is_no_certainty() -> None:
    items, low, high = interval_rows(None, flips("arc", 50, 0, 0))["acc", "arc"]
    assert items == 50
    assert -0.06 < low < 0 < high < 0.06


def test_the_mean_over_tasks_takes_their_main_metrics_as_independent() -> None:
    rows = interval_rows(
        None, *(flips(task, 500, 30, 30) for task in "abcd"), flips("a", 500, 10, 0, "acc_norm")
    )
    widths = [high - low for (metric, task), (_, low, high) in rows.items() if task and metric == "acc"]
    pairs, low, high = rows["main", None]
    assert pairs == 4
    assert high - low == pytest.approx(np.mean(widths) / 2, rel=0.15)
    assert ("acc_norm", "a") in rows
    assert {measure for measure, subject in rows if subject is None} == {"main"}


def test_the_same_results_have_the_same_interval() -> None:
    assert interval_rows(None, flips("arc", 200, 9, 4)) == interval_rows(None, flips("arc", 200, 9, 4))


def test_too_few_pairs_and_figures_that_are_not_finite_have_none() -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        windows(connection, "m-dense", "en", [300.0] * 9)
        windows(connection, "m-x", "en", [310.0] * 9)
        windows(connection, "m-dense", "sw", [300.0] * 12)
        windows(connection, "m-x", "sw", [310.0] * 11 + [math.nan])

    assert interval_rows(fill, flips("arc", 9, 1, 0)) == {}


def test_views_show_them_beside_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "WINDOWS", 12)
    study = FakeStudy(tmp_path / "small").write_all()
    publish(study.paths)
    trial = "trial_id = 'alpha.wanda-0.5'"
    with closing(open_reader(study.paths)) as connection:
        ask = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
        (means,) = ask(
            f"SELECT ppl_ratio, ppl_ratio_low, ppl_ratio_high, acc_change, acc_change_low, acc_change_high FROM leaderboard WHERE {trial}"
        )
        assert means[1:3] == (pytest.approx(means[0]), pytest.approx(means[0]))
        assert means[4] < means[3] < means[5]
        for low, ratio, high in ask(
            f"SELECT ppl_ratio_low, ppl_ratio, ppl_ratio_high FROM perplexity_vs_dense WHERE {trial}"
        ):
            assert (low, high) == (pytest.approx(ratio), pytest.approx(ratio))
        for low, change, high in ask(
            f"SELECT change_low, change, change_high FROM tasks_vs_dense WHERE {trial}"
        ):
            assert low < change < high
        assert ask(
            "SELECT count(*) FROM leaderboard WHERE variant = 'dense' AND ppl_ratio_low IS NOT NULL"
        ) == [(0,)]
