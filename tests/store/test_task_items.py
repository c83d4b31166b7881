"""What items say about tasks: changes paired with dense, and whether answers are better than chance."""

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pytest
from scipy import stats

from studyctl.store.schema import create_schema
from studyctl.store.task_items import Guessing, task_chance, task_pairs


@pytest.fixture
def tables() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        create_schema(connection)
        yield connection


def put_task(
    tables: duckdb.DuckDBPyConnection,
    variant: str,
    scores: Sequence[float],
    *,
    choices: Sequence[int] = (),
    golds: Sequence[int | None] = (),
    passages: Sequence[str] = (),
    value: float | None = None,
) -> None:
    count = len(scores)
    lead = (f"m.{variant}", "m", "x", variant, "task")
    tables.execute(
        "INSERT INTO tasks (trial_id, model, method, variant, task, metric, value, main, averaged) "
        "VALUES (?, ?, ?, ?, ?, 'acc', ?, true, true)",
        [*lead, sum(scores) / count if value is None else value],
    )
    rows = zip(
        range(count),
        scores,
        choices or [4] * count,
        golds or [None] * count,
        passages or [None] * count,
        strict=True,
    )
    tables.executemany(
        "INSERT INTO items (trial_id, model, method, variant, task, item, score, loglikelihoods, gold, passage) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*lead, item, score, [-1.0] * many, gold, passage) for item, score, many, gold, passage in rows],
    )


def chance_of(tables: duckdb.DuckDBPyConnection) -> dict[str, tuple[float, float, bool]]:
    rows: list[dict[str, Any]] = list(task_chance(tables, task_pairs(tables)))
    return {row["variant"]: (row["chance"], row["p"], row["above"]) for row in rows}


def test_items_are_compared_one_by_one_and_summed_by_passage(tables: duckdb.DuckDBPyConnection) -> None:
    put_task(tables, "dense", [1, 1, 1, 0, 0, 1], passages=["a", "a", "b", "b", "c", "c"])
    put_task(tables, "x", [0, 0, 1, 1, 0, 0], passages=["a", "a", "b", "b", "c", "c"])
    (pair,) = task_pairs(tables)
    assert (pair.items, pair.passages, pair.right_to_wrong, pair.wrong_to_right) == (6, 3, 3, 1)
    assert pair.binary
    assert pair.complete
    assert pair.change == pytest.approx(-1 / 3)
    # Passages change by -2, 1, -1 where -2/3 each is expected.
    assert pair.squares == pytest.approx((4 / 3) ** 2 + (5 / 3) ** 2 + (1 / 3) ** 2)


def test_values_between_right_and_wrong_do_not_flip(tables: duckdb.DuckDBPyConnection) -> None:
    put_task(tables, "dense", [0.5, 1, 0])
    put_task(tables, "x", [0.25, 1, 1])
    (pair,) = task_pairs(tables)
    assert not pair.binary
    assert chance_of(tables) == {}


def test_a_value_that_is_not_the_mean_of_the_items_is_not_theirs(tables: duckdb.DuckDBPyConnection) -> None:
    put_task(tables, "dense", [1, 1, 0])
    put_task(tables, "x", [1, 0, 0], value=0.9)
    assert [pair.complete for pair in task_pairs(tables)] == [False]


def test_guessing_draws_a_choice_of_each_item() -> None:
    """Three choices or two: an exact Poisson binomial; oracle scipy."""
    guessing = Guessing(choices=((2, 30), (3, 20), (5, 1)), commonest=0.2)
    assert guessing.chance == pytest.approx((30 / 2 + 20 / 3 + 1 / 5) / 51)
    exact = stats.poisson_binom([1 / 2] * 30 + [1 / 3] * 20 + [1 / 5])
    for right in (0, 10, 22, 27.5, 51):
        assert guessing.p(right) == pytest.approx(exact.sf(right - 1e-9), abs=1e-12)


def test_always_the_commonest_answer_may_be_the_better_guess() -> None:
    guessing = Guessing(choices=((2, 100),), commonest=0.62)
    assert guessing.chance == 0.62
    assert guessing.p(70) == pytest.approx(stats.binom(100, 0.62).sf(69))


def test_a_generated_answer_is_never_guessed() -> None:
    guessing = Guessing(choices=((1, 50),), commonest=0.0)
    assert (guessing.chance, guessing.p(0), guessing.p(0.5)) == (0, 1, 0)


def test_many_items_do_not_overflow() -> None:
    guessing = Guessing(choices=((4, 40_000),), commonest=0.25)
    assert guessing.p(10_150) == pytest.approx(stats.binom(40_000, 0.25).sf(10_149), rel=1e-6)


def test_a_variant_is_judged_together_with_dense(tables: duckdb.DuckDBPyConnection) -> None:
    """Of 20 items with four choices, 9 right are above chance (p = 0.041), 8.5 as well, 8 are not (p = 0.102)."""
    golds = [item % 4 for item in range(20)]
    for variant, right in (("dense", 9), ("x", 8), ("y", 7), ("z", 0)):
        put_task(tables, variant, [1] * right + [0] * (20 - right), golds=golds)
    chance = chance_of(tables)
    assert {variant: above for variant, (_, _, above) in chance.items()} == {
        "dense": True,
        "x": True,
        "y": False,
        "z": False,
    }
    assert chance["dense"] == (0.25, pytest.approx(stats.binom(20, 0.25).sf(8)), True)
    assert chance["y"][1] == pytest.approx(stats.binom(20, 0.25).sf(7))
