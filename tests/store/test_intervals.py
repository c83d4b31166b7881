"""Intervals: closed forms, paired with dense, and absent where there is too little to judge the spread by."""

import math
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy import optimize, stats

from studyctl.store.intervals import (
    Estimate,
    intervals,
    mean_of_languages,
    mean_of_tasks,
    ratio_of_sums,
    student,
    tango,
)
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from studyctl.store.schema import create_schema
from studyctl.store.task_items import TaskPairs
from tests.store.builder import FakeStudy

Rows = dict[tuple[str, str | None], tuple[int, float, float]]
LEAD = ("m-x", "m", "rtn", "x")
Fill = Callable[[duckdb.DuckDBPyConnection], None]


def windows(
    connection: duckdb.DuckDBPyConnection,
    trial: str,
    language: str,
    nll: Iterable[float],
    tokens: int | list[int] = 100,
    documents: Iterable[int] | None = None,
) -> None:
    variant = "dense" if trial.endswith("dense") else trial.partition("-")[2]
    nll = list(nll)
    lengths = [tokens] * len(nll) if isinstance(tokens, int) else tokens
    places = range(len(nll)) if documents is None else documents
    connection.executemany(
        'INSERT INTO windows (trial_id, model, method, variant, language, "window", nll_nats, tokens, bytes, characters, document) '
        "VALUES (?, 'm', 'rtn', ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (trial, variant, language, index, value, length, 4 * length, 2 * length, place)
            for index, (value, length, place) in enumerate(zip(nll, lengths, places, strict=True))
        ],
    )


def interval_rows(fill: Fill | None, *tasks: TaskPairs, above: Iterable[TaskPairs] = ()) -> Rows:
    with closing(duckdb.connect()) as connection:
        create_schema(connection)
        if fill is not None:
            fill(connection)
        rows = list(intervals(connection, tasks, {task.key for task in above}))
    return {(row["measure"], row["subject"]): (row["pairs"], row["low"], row["high"]) for row in rows}


def flips(task: str, items: int, lost: int, won: int, metric: str = "acc") -> TaskPairs:
    """Items that are each about a text of their own."""
    change = (won - lost) / items
    return TaskPairs(
        LEAD, task, metric, metric == "acc", items, items, True, items, items + won - lost, lost, won,
        squares=lost + won - items * change**2, complete=True,
    )  # fmt: skip


# -- languages


def test_windows_that_all_change_alike_leave_no_doubt() -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        dense = np.linspace(200, 400, 20)  # how hard a window is drops out
        windows(connection, "m-dense", "en", dense)
        windows(connection, "m-x", "en", dense + 100 * math.log(1.25))

    rows = interval_rows(fill)
    assert rows["ppl_ratio", "en"] == (20, pytest.approx(1.25), pytest.approx(1.25))
    assert rows["ppl_ratio", None] == (1, pytest.approx(1.25), pytest.approx(1.25))


def test_a_language_has_the_t_interval_of_its_windows() -> None:
    """By hand: differences 1, 2, 3, 6 of 100 tokens each; mean 3, s² = 14/3, t(3) = 3.1824463."""

    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        windows(connection, "m-dense", "en", [300, 310, 320, 330])
        windows(connection, "m-x", "en", [301, 312, 323, 336])

    rows = interval_rows(fill)
    half = 3.1824463 * math.sqrt(14 / 3 / 4)
    ends = (math.exp((3 - half) / 100), math.exp((3 + half) / 100))
    assert rows["ppl_ratio", "en"] == (4, pytest.approx(ends[0]), pytest.approx(ends[1]))
    bits = [(3 - half) / 400 / math.log(2), (3 + half) / 400 / math.log(2)]
    assert rows["bits_per_byte_change", "en"][1:] == tuple(pytest.approx(end) for end in bits)
    assert rows["bits_per_character_change", "en"][1:] == tuple(pytest.approx(2 * end) for end in bits)
    assert ("kl_nats", "en") not in rows  # it was not measured


def test_windows_of_different_lengths_count_by_their_tokens() -> None:
    """By hand: d = 1, 1, 2, 6 of t = 100, 100, 200, 200 tokens: r = 1/60; Σ(d - r t)² = (4 + 4 + 16 + 64)/9."""
    estimate = ratio_of_sums(np.array([1.0, 1, 2, 6]), np.array([100.0, 100, 200, 200]))
    assert estimate == (pytest.approx(1 / 60), pytest.approx(4 / 3 * 88 / 9 / 600**2), 4)


def test_many_documents_with_several_windows_are_the_units() -> None:
    shift = np.random.default_rng(0).normal(5, 3, 20)  # of each document: its windows are alike

    def fill(documents: list[int]) -> Fill:
        def fill(connection: duckdb.DuckDBPyConnection) -> None:
            windows(connection, "m-dense", "en", [300.0] * 40, documents=documents)
            windows(connection, "m-x", "en", 300 + np.repeat(shift, 2), documents=documents)

        return fill

    units, low, _ = interval_rows(fill([place // 2 for place in range(40)]))["ppl_ratio", "en"]
    half = stats.t.ppf(0.975, 19) * shift.std(ddof=1) / math.sqrt(20)
    assert (units, math.log(low)) == (20, pytest.approx((shift.mean() - half) / 100))
    units, *_ = interval_rows(fill([max(0, place - 21) for place in range(40)]))["ppl_ratio", "en"]
    assert units == 40  # one long document is not many


def test_a_mean_over_languages_has_satterthwaites_degrees_of_freedom() -> None:
    """Of two languages with windows alike it is Welch's test of their sum: oracle scipy."""
    first, second = np.array([1.0, 2, 3, 6, 8]), np.array([10.0, 30, 20, 70])
    cells = [
        Estimate(values.mean(), values.var(ddof=1) / len(values), len(values)) for values in (first, second)
    ]
    welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    assert student(*mean_of_languages(cells)) == (
        pytest.approx(welch.low / 2),
        pytest.approx(welch.high / 2),
    )


def test_three_windows_are_too_few_and_what_is_not_finite_has_none() -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        for language, values in (("en", [310.0] * 3), ("sw", [310.0] * 11 + [math.nan])):
            windows(connection, "m-dense", language, [300.0] * len(values))
            windows(connection, "m-x", language, values)

    assert interval_rows(fill) == {}


@pytest.mark.parametrize(("dense", "variant"), [(8, 12), (12, 8)])
def test_a_figure_of_other_windows_than_the_paired_ones_has_none(dense: int, variant: int) -> None:
    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        windows(connection, "m-dense", "en", [300.0] * dense)
        windows(connection, "m-x", "en", [310.0] * variant)

    assert interval_rows(fill) == {}


@pytest.mark.parametrize("heavy_tails", [False, True])
@pytest.mark.parametrize(("languages", "count"), [(1, 8), (7, 8), (7, 30)])
def test_nineteen_of_twenty_intervals_hold_the_truth(languages: int, count: int, heavy_tails: bool) -> None:
    """2,000 studies: coverage 93 to 97 %."""
    draw = np.random.default_rng(count + languages)
    shape = (2000, languages, count)
    noise = draw.standard_t(3, shape) if heavy_tails else draw.normal(size=shape)
    spread = draw.uniform(0.5, 2, (languages, 1))
    held = 0
    sizes = np.full(count, 1.0)
    for study in 0.3 + spread * noise:
        cells = [ratio_of_sums(values, sizes) for values in study]
        low, high = student(*mean_of_languages([cell for cell in cells if cell is not None]))
        held += low < 0.3 < high
    assert 0.93 < held / 2000 < 0.975


# -- tasks


def likelihood_z(difference: float, wins: int, losses: int, items: int) -> float:
    """The score statistic, its nuisance parameter found by maximising the likelihood of the three counts."""
    ties = items - wins - losses

    def cost(loss: float) -> float:
        shares = ((wins, loss + difference), (losses, loss), (ties, 1 - 2 * loss - difference))
        return -sum(count * math.log(share) for count, share in shares if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    loss = optimize.minimize_scalar(
        cost, bounds=(low + 1e-12, high - 1e-12), method="bounded", options={"xatol": 1e-12}
    ).x
    return (wins - losses - items * difference) / math.sqrt(items * (2 * loss + difference - difference**2))


@pytest.mark.parametrize(("wins", "losses", "items"), [(20, 60, 1000), (3, 1, 40), (0, 5, 25), (7, 7, 20)])
def test_a_task_has_tangos_score_interval(wins: int, losses: int, items: int) -> None:
    """Its ends are where the score statistic of the likelihood is ±1.96."""
    _, low, high = interval_rows(None, flips("arc", items, losses, wins))["acc", "arc"]
    assert likelihood_z(low, wins, losses, items) == pytest.approx(1.959964, abs=1e-4)
    assert likelihood_z(high, wins, losses, items) == pytest.approx(-1.959964, abs=1e-4)
    assert low < (wins - losses) / items < high


def test_the_interval_excludes_no_change_exactly_where_mcnemars_z_does() -> None:
    """McNemar's z is (b - c)/√(b + c): 2.08 for 26 and 13, 1.95 for 25 and 13."""
    assert (26 - 13) / math.sqrt(39) > 1.96 > (25 - 13) / math.sqrt(38)
    assert interval_rows(None, flips("arc", 1000, 13, 26))["acc", "arc"][1] > 0
    assert interval_rows(None, flips("arc", 1000, 13, 25))["acc", "arc"][1] < 0


def test_nothing_turned_is_no_certainty() -> None:
    items, low, high = interval_rows(None, flips("arc", 50, 0, 0))["acc", "arc"]
    assert items == 50
    # Tango (1998): z²/(n + z²)
    assert (low, high) == (
        pytest.approx(-3.8415 / 53.8415, abs=1e-5),
        pytest.approx(3.8415 / 53.8415, abs=1e-5),
    )


def test_items_about_one_passage_are_one_unit() -> None:
    """By hand: six passages of two items change by -2, -2, 0, 0, 0, 1: d = -1/4, Σ(Σx + 1/2)² = 2·9/4 + 3/4 + 9/4 = 7.5."""
    pairs = TaskPairs(LEAD, "race", "acc", True, 12, 6, True, 8, 5, 4, 1, squares=7.5, complete=True)
    half = 2.5705818 * math.sqrt(6 / 5 * 7.5) / 12
    units, low, high = interval_rows(None, pairs)["acc", "race"]
    assert (units, low, high) == (6, pytest.approx(-0.25 - half), pytest.approx(-0.25 + half))


def test_passages_in_which_nothing_turned_are_no_certainty() -> None:
    pairs = TaskPairs(LEAD, "race", "acc", True, 100, 50, True, 60, 60, 0, 0, squares=0.0, complete=True)
    assert (
        interval_rows(None, pairs)["acc", "race"]
        == interval_rows(None, flips("race", 50, 0, 0))["acc", "race"]
    )


def test_other_values_than_right_and_wrong_have_the_paired_t_interval() -> None:
    dense, variant = np.array([0.5, 0.25, 1, 0, 0.75]), np.array([0.4, 0.35, 0.8, 0, 0.25])
    differences = variant - dense
    pairs = TaskPairs(
        LEAD, "squad", "f1", True, 5, 5, False, dense.sum(), variant.sum(), 3, 1,
        squares=5 * differences.var(), complete=True,
    )  # fmt: skip
    expected = stats.ttest_rel(variant, dense).confidence_interval(0.95)
    _, low, high = interval_rows(None, pairs)["f1", "squad"]
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_the_mean_over_tasks_is_that_of_the_differences() -> None:
    """By hand: T = 2; d = -0.04 and 0.01; V = [(41/201 - 0.0016)/200 + (11/101 - 0.0001)/100] / 4."""
    tasks = [flips("a", 200, 24, 16), flips("b", 100, 4, 5, "acc")]
    variance = ((40 + 1) / 201 - 0.0016) / 200 + ((9 + 1) / 101 - 0.0001) / 100
    half = 1.959964 * math.sqrt(variance) / 2
    assert mean_of_tasks(tasks) == (pytest.approx(-0.015 - half), pytest.approx(-0.015 + half))
    rows = interval_rows(None, *tasks, flips("a", 200, 10, 0, "acc_norm"), above=tasks[:1])
    assert rows["main", None] == (2, pytest.approx(-0.015 - half), pytest.approx(-0.015 + half))
    assert rows["main_above_chance", None] == (1, *rows["acc", "a"][1:])
    assert {measure for measure, subject in rows if subject is None} == {"main", "main_above_chance"}


@pytest.mark.parametrize("lost", range(0, 201, 20))
def test_an_interval_contains_its_estimate(lost: int) -> None:
    tasks = [flips("a", 200, lost, 0), flips("b", 5, 4, 0)]
    rows = interval_rows(None, *tasks)
    for task in tasks:
        assert rows["acc", task.task][1] <= task.change <= rows["acc", task.task][2]
    mean = (tasks[0].change + tasks[1].change) / 2
    assert rows["main", None][1] < mean < rows["main", None][2]


def test_nineteen_of_twenty_intervals_of_tasks_hold_the_truth() -> None:
    """20,000 tasks of 200 items, of which 12 % turn wrong and 7 % right."""
    draw = np.random.default_rng(1)
    counts = draw.multinomial(200, [0.12, 0.07, 0.81], size=20_000)
    low, high = tango(counts[:, 1].astype(float), counts[:, 0].astype(float), np.full(20_000, 200.0))
    assert 0.94 < np.mean((low <= -0.05) & (high >= -0.05)) < 0.96


def test_items_that_are_not_those_of_the_figure_have_none() -> None:
    assert interval_rows(None, flips("arc", 200, 9, 4)._replace(complete=False)) == {}
    assert interval_rows(None, flips("arc", 3, 1, 0)) == {}


def test_views_show_them_beside_the_figure(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "small").write_all()
    publish(study.paths)
    of_texts = (
        "ppl_ratio", "bits_per_byte_change", "bits_per_character_change", "kl_nats", "kl_nats_per_byte"
    )  # fmt: skip
    figures = {
        "leaderboard": (*of_texts, "acc_change"),
        "perplexity_vs_dense": of_texts,
        "tasks_vs_dense": ("change",),
    }
    with closing(open_reader(study.paths)) as connection:

        def ask(sql: str) -> list[Any]:
            return connection.execute(sql).fetchall()

        for view, names in figures.items():
            for name in names:
                columns = f"{name}_low, {name}, {name}_high"
                rows = ask(f"SELECT {columns} FROM {view} WHERE variant <> 'dense'")
                assert rows
                for low, value, high in rows:
                    assert low <= value <= high, (view, name)
        assert ask(
            "SELECT count(*) FROM leaderboard WHERE variant = 'dense' AND ppl_ratio_low IS NOT NULL"
        ) == [(0,)]
