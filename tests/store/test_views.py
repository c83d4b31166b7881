"""The views: arithmetic on known figures, and no silent holes."""

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from studyctl.store.publish import publish
from studyctl.store.query import open_reader
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
        ("rtn-4bit-g64", "ppl_ratio"),
        ("dense", "ppl_ratio"),
    ]


def test_progress_counts_trials_and_stages(published: Callable[[str], Rows]) -> None:
    assert published("SELECT model, trials, done, stages, stages_done FROM progress") == [
        ("org/alpha", 3, 3, 17, 17),
        ("org/beta", 3, 3, 17, 17),
    ]


def test_a_language_that_is_not_finite_spoils_the_mean_instead_of_dropping_out(study: FakeStudy) -> None:
    study.write_plan()
    study.attempt("alpha.dense").run_all()
    attempt = study.attempt("alpha.wanda-0.5")
    attempt.run_all(*(stage for stage in attempt.stages if stage != "perplexity:sw"))
    broken = study.attempt("alpha.wanda-0.5", 2)
    broken.begin("perplexity:sw")
    broken.writer.write("perplexity", stage="perplexity:sw", language="sw", perplexity=math.nan, tokens=400)
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
        attempt.writer.write("perplexity", stage="perplexity:en", language="en", perplexity=written)
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
