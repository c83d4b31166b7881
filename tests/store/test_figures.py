"""What was measured of a trial, beside dense, from the journals."""

import math
from pathlib import Path

import pytest

from studyctl.journal.index import read_stored
from studyctl.store import results
from studyctl.store.figures import read_figures
from studyctl.store.publish import publish
from tests.store.builder import MODELS, FakeStudy, steps_of, trial_name

DENSE, WANDA = (trial_name(MODELS[0], variant) for variant in ("dense", "wanda-0.5"))


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "small")
    study.write_all()
    return study


def test_perplexity_stands_beside_dense(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(
        study.paths, stored, study.weights_key(WANDA), study.weights_key(DENSE), study.evaluations
    )
    assert [one.language for one in figures.languages] == ["en", "sw", "zh"]
    ratios = [one.ppl_ratio for one in figures.languages]
    assert all(
        math.isclose(ratio or 0, expected) for ratio, expected in zip(ratios, (1.5, 1.8, 1.65), strict=True)
    )
    assert all(one.kl_nats is not None and one.top1 is not None for one in figures.languages)


def test_tasks_stand_beside_dense(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(
        study.paths, stored, study.weights_key(WANDA), study.weights_key(DENSE), study.evaluations
    )
    accuracy = {one.task: one for one in figures.tasks if one.metric == "acc"}
    # Of 20 items dense has 12 right; wanda loses 6 of them and wins 1.
    assert (accuracy["boolq"].value, accuracy["boolq"].dense_value) == (7 / 20, 12 / 20)
    assert math.isclose(accuracy["boolq"].change or 0, -5 / 20)
    # 9.5 of 20 right, on average, of two choices each.
    assert accuracy["boolq"].above_chance is False


def test_dense_is_compared_with_itself(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(
        study.paths, stored, study.weights_key(DENSE), study.weights_key(DENSE), study.evaluations
    )
    assert len(figures.languages) == 3
    assert figures.means.variant == "dense"
    assert {one.ppl_ratio for one in figures.languages} == {1.0}
    assert not any(one.ppl_ratio_low for one in figures.languages)


def test_only_what_is_asked_for_and_stored_is_told(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    asked = steps_of({"perplexity:sw": "key-of-perplexity:sw", "perplexity:en": "another protocol"})
    figures = read_figures(study.paths, stored, study.weights_key(WANDA), study.weights_key(DENSE), asked)
    assert [one.language for one in figures.languages] == ["sw"]
    assert figures.tasks == []
    assert read_figures(study.paths, stored, "nothing", None, study.evaluations).languages == []


def test_intervals_are_those_that_are_published(study: FakeStudy) -> None:
    publish(study.paths)
    figures = read_figures(
        study.paths,
        read_stored(study.paths),
        study.weights_key(WANDA),
        study.weights_key(DENSE),
        study.evaluations,
    )
    with results.open(study.paths) as published:
        pairs = [
            (figures.languages, published.perplexity(WANDA)),
            (figures.tasks, published.tasks(WANDA)),
            ([figures.means], [row for row in published.leaderboard() if row.trial_id == WANDA]),
        ]
    for own, expected in pairs:
        assert len(own) == len(expected)
        for one, row in zip(own, expected, strict=True):
            ends = [name for name in row._fields if name.endswith(("_low", "_high"))]
            assert [getattr(one, name) for name in ends] == [getattr(row, name) for name in ends]
    assert figures.means.acc_change_low is not None
