"""Two trials on the same windows: a paired t interval, and nothing where windows are too few. The view says the same in SQL."""

import math
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pytest
from scipy import stats

from studyctl.store.contrast import Contrast, contrast
from studyctl.store.schema import create_schema

LN2 = math.log(2)


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        create_schema(connection)
        yield connection


def add(
    database: duckdb.DuckDBPyConnection,
    trial: str,
    nll: Sequence[float],
    *,
    language: str = "en",
    size: int | None = 400,
    kl: Sequence[float] | None = None,
    documents: Sequence[int] | None = None,
) -> None:
    """Add windows of 100 tokens of a trial; each is in a document of its own if these are not named."""
    for place, value in enumerate(nll):
        document = documents[place] if documents else place
        row = ["m", trial, trial, language, place, value, 100, size, document, kl[place] if kl else None]
        database.execute(
            'INSERT INTO windows BY NAME SELECT ? AS model, ? AS trial_id, ? AS variant, ? AS language, ? AS "window", '
            "? AS nll_nats, ? AS tokens, ? AS bytes, ? AS document, ? AS kl_nats",
            row,
        )


def compared(database: duckdb.DuckDBPyConnection) -> Contrast:
    result = contrast(database, "m", "left", "right")
    assert result is not None
    return result


def test_one_language_has_the_paired_t_interval(database: duckdb.DuckDBPyConnection) -> None:
    left, right = [300.0, 310.0, 290.0, 305.0, 330.0], [280.0, 301.0, 288.0, 280.0, 300.0]
    add(database, "left", left)
    add(database, "right", right)
    result = compared(database)
    ends = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert result.bits_per_byte == pytest.approx(np.mean(np.subtract(left, right)) / 400 / LN2)
    assert (result.low, result.high) == pytest.approx((ends.low / 400 / LN2, ends.high / 400 / LN2))
    assert (result.windows, result.languages, result.is_told_apart) == (5, 1, True)


def test_languages_count_alike_whatever_their_size(database: duckdb.DuckDBPyConnection) -> None:
    for trial, en, zh in (("left", 100.0, 100.0), ("right", 90.0, 110.0)):
        add(database, trial, [en] * 4, size=100)
        add(database, trial, [zh] * 8, language="zh", size=50)
    result = compared(database)
    assert result.bits_per_byte == pytest.approx((0.1 - 0.2) / 2 / LN2)
    assert (result.windows, result.languages) == (12, 2)


def test_what_windows_do_not_agree_on_is_not_told_apart(database: duckdb.DuckDBPyConnection) -> None:
    add(database, "left", [100.0, 90.0, 110.0, 95.0])
    add(database, "right", [99.0, 95.0, 104.0, 99.0])
    result = compared(database)
    assert result.low < 0 < result.high
    assert not result.is_told_apart


def test_many_documents_with_several_windows_are_the_units(database: duckdb.DuckDBPyConnection) -> None:
    documents = [place for place in range(20) for _ in range(2)]
    add(database, "left", [100.0 + place for place in documents], documents=documents)
    add(database, "right", [100.0] * 40, documents=documents)
    of_documents = stats.ttest_1samp([2.0 * place for place in range(20)], 0).confidence_interval(0.95)
    result = compared(database)
    assert (result.low, result.high) == pytest.approx(
        (of_documents.low / 800 / LN2, of_documents.high / 800 / LN2)
    )


def test_three_windows_or_a_window_without_bytes_say_nothing(database: duckdb.DuckDBPyConnection) -> None:
    assert contrast(database, "m", "left", "right") is None
    for trial in ("left", "right"):
        add(database, trial, [1.0, 2.0, 3.0])
        add(database, f"{trial}-without", [1.0, 2.0, 3.0, 4.0], size=None)
    assert contrast(database, "m", "left", "right") is None
    assert contrast(database, "m", "left-without", "right-without") is None


def test_only_windows_of_both_are_compared(database: duckdb.DuckDBPyConnection) -> None:
    add(database, "left", [5.0, 6.0, 7.0, 9.0, 8.0])
    add(database, "right", [5.0, 5.0, 5.0, 5.0])
    assert compared(database).windows == 4


# -- the view


@pytest.mark.parametrize("count", [4, 5, 8, 30, 200])
def test_the_view_has_the_intervals_of_scipy(database: duckdb.DuckDBPyConnection, count: int) -> None:
    random = np.random.default_rng(count)
    left, right = random.normal(300, 20, (2, count))
    kl, other_kl = random.lognormal(0, 0.5, (2, count))
    add(database, "left", left.tolist(), kl=kl.tolist())
    add(database, "right", right.tolist(), kl=other_kl.tolist())
    row = database.execute(
        "SELECT bits_per_byte_change, bits_per_byte_change_low, bits_per_byte_change_high, kl_ratio, kl_ratio_low, kl_ratio_high, "
        "units FROM contrasts WHERE trial_id = 'left' AND other_trial_id = 'right'"
    ).fetchall()[0]
    paired = stats.ttest_rel(left, right).confidence_interval(0.95)
    change = np.mean(left - right) / 400 / LN2
    assert row[0] == pytest.approx(change)
    half = (paired.high - paired.low) / 2 / 400 / LN2
    assert row[1:3] == pytest.approx((change - half, change + half), abs=0.002 * half)
    # The delta method: the variance of a logarithm of a ratio of means is that of kl / K - kl' / K'.
    influence = kl / kl.mean() - other_kl / other_kl.mean()
    error = stats.t.ppf(0.975, count - 1) * influence.std(ddof=1) / math.sqrt(count)
    log_ratio = math.log(kl.mean() / other_kl.mean())
    assert row[3] == pytest.approx(math.exp(log_ratio))
    assert [math.log(end) for end in row[4:6]] == pytest.approx(
        [log_ratio - error, log_ratio + error], abs=0.002 * error
    )
    assert row[6] == count


def test_the_view_has_both_orders_and_no_interval_for_three_windows(
    database: duckdb.DuckDBPyConnection,
) -> None:
    add(database, "left", [1.0, 2.0, 3.0])
    add(database, "right", [1.0, 2.0, 4.0])
    rows = database.execute(
        "SELECT trial_id, other_trial_id, bits_per_byte_change, bits_per_byte_change_low FROM contrasts"
    ).fetchall()
    assert [(row[0], row[1], row[3]) for row in rows] == [("left", "right", None), ("right", "left", None)]
    assert rows[0][2] == -rows[1][2]
