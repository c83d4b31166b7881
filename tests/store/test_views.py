"""The views: arithmetic on known figures, and no silent holes."""

import math
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from studyctl.contract.records import TextBatch, TextTotals, Window
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from studyctl.store.schema import create_schema
from tests.store.builder import FakeStudy

Rows = list[tuple[Any, ...]]


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "small")


def ask(study: FakeStudy, sql: str) -> Rows:
    with closing(open_reader(study.paths)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rows]:
    study = FakeStudy(tmp_path_factory.mktemp("views") / "small").write_all()
    publish(study.paths)
    return lambda sql: ask(study, sql)


def test_leaderboard_compares_with_dense_of_the_same_model(published: Callable[[str], Rows]) -> None:
    rows = published(
        "SELECT trial_id, bits_per_weight, ppl_ratio, worst_language, worst_ppl_ratio, languages, acc, acc_change, tasks, "
        "flips, right_to_wrong, wrong_to_right, kl_nats FROM leaderboard"
    )
    assert [row[0] for row in rows] == [
        "alpha.dense", "alpha.wanda-0.5", "alpha.rtn-4bit-g64", "beta.dense", "beta.wanda-0.5", "beta.rtn-4bit-g64",
    ]  # fmt: skip
    ratio = 1.5 * (1.0 * 1.2 * 1.1) ** (1 / 3)
    assert rows[1] == (
        "alpha.wanda-0.5", 9.0, pytest.approx(ratio), "sw", pytest.approx(1.8), 3, 0.35, pytest.approx(-0.25), 2, 14, 12, 2,
        pytest.approx(0.1),
    )  # fmt: skip
    assert rows[0][2] == pytest.approx(1.0)
    assert rows[0][-1] is None


def test_tasks_vs_dense_has_flips_and_p_for_each_metric(published: Callable[[str], Rows]) -> None:
    assert published(
        "SELECT task, metric, value, dense_value, items, right_to_wrong, wrong_to_right, mcnemar_p FROM tasks_vs_dense "
        "WHERE trial_id = 'alpha.wanda-0.5' ORDER BY ALL"
    ) == [
        ("arc_easy", "acc", 0.35, 0.6, 20, 6, 1, pytest.approx(0.125)),
        ("arc_easy", "acc_norm", 0.35, 0.6, 20, 6, 1, pytest.approx(0.125)),
        ("boolq", "acc", 0.35, 0.6, 20, 6, 1, pytest.approx(0.125)),
    ]


def test_flips_are_the_items_that_turned(published: Callable[[str], Rows]) -> None:
    assert published(
        "SELECT item, direction, dense_predicted = gold, predicted = gold FROM flips "
        "WHERE trial_id = 'alpha.rtn-4bit-g64' AND task = 'boolq' ORDER BY item"
    ) == [(0, "right_to_wrong", True, False), (13, "wrong_to_right", False, True)]


def test_pareto_keeps_what_nothing_beats(published: Callable[[str], Rows]) -> None:
    assert published("SELECT variant, measure FROM pareto WHERE model = 'org/alpha'") == [
        ("rtn-4bit-g64", "acc"),  # as good as dense, at a quarter of its size
        ("rtn-4bit-g64", "bits_per_byte_change"),
        ("dense", "bits_per_byte_change"),
        ("rtn-4bit-g64", "ppl_ratio"),
        ("dense", "ppl_ratio"),
    ]


def test_progress_counts_trials_and_steps(published: Callable[[str], Rows]) -> None:
    assert published("SELECT model, trials, done, stages, stages_done FROM progress") == [
        ("org/alpha", 3, 3, 17, 17),
        ("org/beta", 3, 3, 17, 17),
    ]


def test_a_language_that_is_not_finite_spoils_the_mean_instead_of_dropping_out(study: FakeStudy) -> None:
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    attempt = study.attempt("alpha.wanda-0.5")
    attempt.run_all(*(step for step in attempt.steps if step != "perplexity:sw"))
    broken = study.attempt("alpha.wanda-0.5", 2)
    broken.begin("perplexity:sw")
    broken.writer.write(Window(language="sw", window=0, nll_nats=math.nan, tokens=400))
    broken.writer.write(TextBatch(language="sw", sequence_length=401, bos=False))
    broken.end("perplexity:sw")
    publish(study.paths)
    assert ask(
        study,
        "SELECT ppl_ratio, languages, worst_language FROM leaderboard WHERE trial_id = 'alpha.wanda-0.5'",
    ) == [(None, 3, "zh")]


@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, 5e-324])
def test_no_perplexity_breaks_a_view(study: FakeStudy, value: float) -> None:
    study.write_plan()
    for trial in ("alpha.dense", "alpha.wanda-0.5"):
        attempt = study.attempt(trial)
        attempt.begin("perplexity:en")
        written = 1.0 if trial == "alpha.dense" else value
        attempt.writer.write(TextTotals(language="en", perplexity=written))
        attempt.end("perplexity:en")
    publish(study.paths)
    for view in (
        "leaderboard",
        "perplexity_vs_dense",
        "tasks_vs_dense",
        "flips",
        "failures",
        "progress",
        "pareto",
        "ranks",
        "disagreement",
        "agreement",
    ):
        ask(study, f"FROM {view}")


def test_without_dense_there_are_no_ratios(study: FakeStudy) -> None:
    study.write_plan()
    study.attempt("alpha.wanda-0.5").run_all()
    publish(study.paths)
    assert ask(
        study,
        "SELECT ppl_ratio, languages, acc, acc_change, flips FROM leaderboard WHERE trial_id = 'alpha.wanda-0.5'",
    ) == [(None, 0, 0.35, None, None)]


def test_languages_that_dense_has_not_measured_yet_do_not_count(study: FakeStudy) -> None:
    study.write_plan()
    study.attempt("alpha.dense").run_all("load", "perplexity:en")
    study.attempt("alpha.wanda-0.5").run_all()
    publish(study.paths)
    assert ask(study, "SELECT ppl_ratio, languages FROM leaderboard WHERE trial_id = 'alpha.wanda-0.5'") == [
        (pytest.approx(1.5), 1)
    ]


# -- ranks and disagreement


@pytest.fixture
def tables() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    create_schema(connection)
    return connection


def put_trials(tables: duckdb.DuckDBPyConnection, *variants: str) -> None:
    for position, variant in enumerate(("dense", *variants)):
        tables.execute(
            "INSERT INTO trials (trial_id, model, method, variant, state, position) VALUES (?, 'm', 'x', ?, 'done', ?)",
            [f"m.{variant}", variant, position],
        )


def put_tasks(
    tables: duckdb.DuckDBPyConnection,
    task: str,
    metric: str = "acc",
    *,
    main: bool = True,
    averaged: bool = True,
    **values: float | None,
) -> None:
    for variant, value in values.items():
        tables.execute(
            "INSERT INTO tasks (trial_id, model, method, variant, task, metric, value, main, averaged) "
            "VALUES (?, 'm', 'x', ?, ?, ?, ?, ?, ?)",
            [f"m.{variant}", variant, task, metric, value, main, averaged],
        )


def put_perplexity(
    tables: duckdb.DuckDBPyConnection, language: str, bytes_per_token: float = 4, **values: float | None
) -> None:
    for variant, value in values.items():
        tables.execute(
            "INSERT INTO perplexity (trial_id, model, method, variant, language, perplexity, bits_per_byte) "
            "VALUES (?, 'm', 'x', ?, ?, ?, ?)",
            [
                f"m.{variant}",
                variant,
                language,
                value,
                None if value is None else math.log2(value) / bytes_per_token,
            ],
        )


def tau(tables: duckdb.DuckDBPyConnection, metric: str, other: str) -> tuple[float | None, int]:
    rows = tables.execute(
        "SELECT kendall_tau, variants FROM disagreement WHERE metric = ? AND other_metric = ?",
        [metric, other],
    ).fetchall()
    assert len(rows) == 1
    return rows[0]


def ranked(tables: duckdb.DuckDBPyConnection, metric: str) -> Rows:
    return tables.execute(
        "SELECT variant, rank, tied, trials FROM ranks WHERE metric = ? ORDER BY rank, variant", [metric]
    ).fetchall()


def test_ranks_put_the_best_first_whichever_way_a_metric_runs(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a", "b", "c")
    put_perplexity(tables, "en", dense=10.0, a=30.0, b=11.0, c=20.0)
    put_tasks(tables, "boolq", dense=0.7, a=0.6, b=0.4, c=0.5)
    assert ranked(tables, "bits_per_byte_change") == [("b", 1, 1, 3), ("c", 2, 1, 3), ("a", 3, 1, 3)]
    assert ranked(tables, "task:boolq") == [("a", 1, 1, 3), ("c", 2, 1, 3), ("b", 3, 1, 3)]
    assert ranked(tables, "acc_change") == ranked(tables, "task:boolq")


def test_means_and_ranks_are_of_main_metrics_that_are_fractions(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a")
    put_tasks(tables, "boolq", dense=0.7, a=0.6)
    put_tasks(tables, "boolq", "acc_norm", main=False, averaged=False, dense=0.1, a=0.9)
    put_tasks(tables, "squad", "f1", dense=0.5, a=0.2)
    put_tasks(tables, "wikitext", "word_perplexity", averaged=False, dense=20.0, a=30.0)
    rows = tables.execute("SELECT acc, acc_change, tasks FROM leaderboard WHERE variant = 'a'").fetchall()
    assert rows == [(pytest.approx(0.4), pytest.approx(-0.2), 2)]
    ranks = tables.execute("SELECT DISTINCT metric FROM ranks ORDER BY ALL").fetchall()
    assert ranks == [("acc_change",), ("task:boolq",), ("task:squad",)]


def test_trials_that_tie_share_a_rank(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a", "b", "c")
    put_tasks(tables, "boolq", a=0.5, b=0.5, c=0.4)
    assert ranked(tables, "task:boolq") == [("a", 1, 2, 3), ("b", 1, 2, 3), ("c", 3, 1, 3)]


def test_means_that_differ_in_rounding_only_tie(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a", "b")
    for task, a, b in (("x", 0.1, 0.3), ("y", 0.2, 0.2), ("z", 0.3, 0.1)):
        put_tasks(tables, task, dense=0.0, a=a, b=b)
    values = tables.execute("SELECT DISTINCT acc_change FROM leaderboard WHERE variant <> 'dense'").fetchall()
    assert len(values) == 2  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1
    assert [rank for _, rank, *_ in ranked(tables, "acc_change")] == [1, 1]


def test_a_trial_without_all_languages_or_tasks_is_not_ranked_by_their_means(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    put_trials(tables, "a", "b")
    put_perplexity(tables, "en", dense=10.0, a=11.0, b=12.0)
    put_perplexity(tables, "sw", dense=10.0, b=13.0)
    put_tasks(tables, "boolq", dense=0.5, a=0.5, b=0.4)
    put_tasks(tables, "arc", dense=0.5, a=0.5)
    for metric in ("bits_per_byte_change", "worst_bits_per_byte_change"):
        assert ranked(tables, metric) == [("b", 1, 1, 1)]
    assert ranked(tables, "acc_change") == [("a", 1, 1, 1)]
    assert ranked(tables, "task:boolq") == [("a", 1, 1, 2), ("b", 2, 1, 2)]


def test_a_language_that_is_not_finite_leaves_no_worst_language_to_rank(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    put_trials(tables, "a", "b")
    put_perplexity(tables, "en", dense=10.0, a=11.0, b=12.0)
    put_perplexity(tables, "sw", dense=10.0, a=None, b=13.0)
    assert ranked(tables, "worst_bits_per_byte_change") == [("b", 1, 1, 1)]


def test_the_worst_language_is_that_of_bytes_not_of_tokens(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a")
    put_perplexity(tables, "ar", bytes_per_token=8, dense=10.0, a=20.0)  # long tokens: each says more
    put_perplexity(tables, "de", bytes_per_token=2, dense=10.0, a=16.0)
    assert tables.execute(
        "SELECT worst_language, worst_bits_per_byte_change, worst_ppl_ratio, ppl_ratio, bits_per_byte_change "
        "FROM leaderboard WHERE variant = 'a'"
    ).fetchall() == [
        (
            "de",
            pytest.approx(math.log2(1.6) / 2),
            pytest.approx(1.6),
            pytest.approx(math.sqrt(2 * 1.6)),
            pytest.approx((1 / 8 + math.log2(1.6) / 2) / 2),
        )
    ]


def test_dense_knows_a_language_that_it_predicts_better_than_bzip2(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a")
    for language in ("en", "th", "zh"):
        put_perplexity(tables, language, dense=16.0, a=32.0)  # dense: one bit a byte
    for language, bits in (("en", 2.5), ("th", 1.0)):  # zh: measured before
        tables.execute("UPDATE perplexity SET bzip2_bits_per_byte = ? WHERE language = ?", [bits, language])
    rows = tables.execute(
        "SELECT language, dense_knows FROM perplexity_vs_dense WHERE variant = 'a' ORDER BY ALL"
    )
    assert rows.fetchall() == [("en", True), ("th", False), ("zh", None)]
    known = "SELECT languages_known FROM leaderboard WHERE variant = 'a'"
    assert tables.execute(known).fetchall() == [(None,)]
    tables.execute("DELETE FROM perplexity WHERE language = 'zh'")
    assert tables.execute(known).fetchall() == [(1,)]


def test_means_are_of_all_tasks_and_of_those_above_chance(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a")
    for task, dense, a, above in (
        ("boolq", 0.5, 0.3, False),
        ("arc", 0.8, 0.7, True),
        ("piqa", 0.7, 0.7, True),
    ):
        put_tasks(tables, task, dense=dense, a=a)
        tables.execute(
            "INSERT INTO task_chance VALUES ('m.a', 'm', 'x', 'a', ?, 'acc', 0.5, 0.5, ?)", [task, above]
        )
    put_tasks(tables, "squad", "f1", dense=0.9, a=0.8)  # not tested
    assert tables.execute(
        "SELECT acc, acc_change, tasks, acc_above_chance, acc_change_above_chance, tasks_above_chance "
        "FROM leaderboard WHERE variant = 'a'"
    ).fetchall() == [
        (pytest.approx(0.625), pytest.approx(-0.1), 4, pytest.approx(0.7), pytest.approx(-0.05), 2)
    ]


def test_the_pareto_front_is_by_mib_where_every_trial_has_them(tables: duckdb.DuckDBPyConnection) -> None:
    """A pruned model stored dense has not shrunk, whatever its bits a weight."""
    put_trials(tables, "pruned", "quantized")
    put_tasks(tables, "boolq", dense=0.7, pruned=0.69, quantized=0.6)
    sizes = {"dense": (16.0, 100.0), "pruned": (9.0, 100.0), "quantized": (4.3, 50.0)}
    front = "SELECT variant FROM pareto WHERE measure = 'acc' ORDER BY value"
    for variant, (bits, _) in sizes.items():
        tables.execute("UPDATE trials SET bits_per_weight = ? WHERE variant = ?", [bits, variant])
    assert tables.execute(front).fetchall() == [("quantized",), ("pruned",), ("dense",)]
    for variant, (_, mib) in sizes.items():
        tables.execute("UPDATE trials SET size_mib = ? WHERE variant = ?", [mib, variant])
    assert tables.execute(front).fetchall() == [("quantized",), ("dense",)]


def test_the_pareto_front_is_by_the_file_where_every_measured_trial_has_one(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    """A file has the tokenizer too: beside files, the bare weights of a trial without one would look smaller."""
    put_trials(tables, "pruned", "quantized", "not_measured")
    put_tasks(tables, "boolq", dense=0.7, pruned=0.69, quantized=0.6)
    tables.execute("UPDATE trials SET size_mib = 100")
    front = "SELECT variant, file_mib FROM pareto WHERE measure = 'acc' ORDER BY value"
    for variant, mib in (("dense", 102.0), ("quantized", 50.0)):
        tables.execute("UPDATE trials SET file_mib = ? WHERE variant = ?", [mib, variant])
    assert tables.execute(front).fetchall() == [("dense", 102.0)]
    tables.execute("UPDATE trials SET file_mib = 102 WHERE variant = 'pruned'")
    assert tables.execute(front).fetchall() == [("quantized", 50.0), ("dense", 102.0)]


def test_the_pareto_front_of_many_trials_is_that_of_all_pairs(tables: duckdb.DuckDBPyConnection) -> None:
    """With ties in size, in quality, and in both."""
    drawn = random.Random(0)
    size = {f"v{place}": drawn.randrange(8) for place in range(60)}
    quality = {name: (mib + drawn.randrange(4)) / 12 for name, mib in size.items()}
    put_trials(tables, *quality)
    put_tasks(tables, "boolq", dense=0.0, **quality)
    for name, mib in {"dense": 9, **size}.items():
        tables.execute("UPDATE trials SET size_mib = ? WHERE variant = ?", [mib, name])
    best = {
        name
        for name in quality
        if not any(
            size[other] <= size[name]
            and quality[other] >= quality[name]
            and (size[other], quality[other]) != (size[name], quality[name])
            for other in quality
        )
    }
    front = tables.execute("SELECT variant FROM pareto WHERE measure = 'acc'").fetchall()
    assert {name for (name,) in front} == best
    assert len(front) == len(best) > 3


def test_tau_is_one_for_the_same_order_and_minus_one_for_the_reverse(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    put_trials(tables, "a", "b", "c")
    put_tasks(tables, "up", a=0.1, b=0.2, c=0.3)
    put_tasks(tables, "also_up", a=0.3, b=0.5, c=0.9)
    put_tasks(tables, "down", a=0.3, b=0.2, c=0.1)
    assert tau(tables, "task:up", "task:also_up") == (1.0, 3)
    assert tau(tables, "task:down", "task:up") == tau(tables, "task:up", "task:down") == (-1.0, 3)


def test_tau_b_divides_by_the_pairs_that_do_not_tie(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a", "b", "c", "d")
    put_tasks(tables, "x", a=0.4, b=0.3, c=0.3, d=0.1)  # one tied pair of six
    put_tasks(tables, "y", a=0.4, b=0.3, c=0.2, d=0.3)  # another one
    # ab +, ac +, ad +, bc tied in x, bd tied in y, cd -: 2 / sqrt(5 * 5)
    assert tau(tables, "task:x", "task:y") == (pytest.approx(0.4), 4)


def test_tau_is_unknown_where_a_metric_tells_no_variant_from_another(
    tables: duckdb.DuckDBPyConnection,
) -> None:
    put_trials(tables, "a", "b")
    put_tasks(tables, "x", a=0.4, b=0.3)
    put_tasks(tables, "flat", a=0.5, b=0.5)
    put_tasks(tables, "alone", a=0.5)
    assert tau(tables, "task:x", "task:flat") == (None, 2)
    assert tau(tables, "task:x", "task:alone") == (None, 1)


def test_tau_takes_the_trials_that_both_metrics_rank(tables: duckdb.DuckDBPyConnection) -> None:
    put_trials(tables, "a", "b", "c")
    put_tasks(tables, "x", a=0.3, b=0.2, c=0.1)
    put_tasks(tables, "y", a=0.3, c=0.1)
    assert tau(tables, "task:x", "task:y") == (1.0, 2)


def test_results_hand_out_ranks_disagreement_and_pareto_of_one_model(study: FakeStudy) -> None:
    study.write_all()
    publish(study.paths)
    with results.open(study.paths) as published:
        ranks, agreements = published.ranks("org/alpha"), published.disagreement("org/alpha")
        best = [(one.variant, one.value) for one in ranks if one.metric == "task:boolq"]
        assert best == [("rtn-4bit-g64", 0.6), ("wanda-0.5", 0.35)]
        assert {one.model for one in ranks} == {one.model for one in agreements} == {"org/alpha"}
        assert {
            one.kendall_tau for one in agreements if "kl_nats_per_byte" not in (one.metric, one.other_metric)
        } == {1.0}
        assert {one.kendall_tau for one in agreements if one.metric == "kl_nats_per_byte"} == {
            None
        }  # all have the same
        assert [one.variant for one in published.pareto("org/beta") if one.measure == "ppl_ratio"] == [
            "rtn-4bit-g64",
            "dense",
        ]
