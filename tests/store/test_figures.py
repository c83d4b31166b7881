"""What was measured of a trial, beside dense, from the journals."""

import math
from pathlib import Path

import pytest

from studyctl.journal.index import read_stored
from studyctl.store.figures import read_figures
from tests.store.builder import MODELS, FakeStudy, steps_of, trial_name

DENSE, WANDA = (trial_name(MODELS[0], variant) for variant in ("dense", "wanda-0.5"))


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    study = FakeStudy(tmp_path / "small")
    study.write_all()
    return study


def test_perplexity_stands_beside_dense(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(stored, study.weights_key(WANDA), study.weights_key(DENSE), study.evaluations)
    assert [one.language for one in figures.languages] == ["en", "sw", "zh"]
    ratios = [one.ratio for one in figures.languages]
    assert all(
        math.isclose(ratio or 0, expected) for ratio, expected in zip(ratios, (1.5, 1.8, 1.65), strict=True)
    )
    assert all(one.kl_nats is not None and one.top1 is not None for one in figures.languages)


def test_tasks_stand_beside_dense(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(stored, study.weights_key(WANDA), study.weights_key(DENSE), study.evaluations)
    accuracy = {one.task: one for one in figures.tasks if one.metric == "acc"}
    # Of 20 items dense has 12 right; wanda loses 6 of them and wins 1.
    assert (accuracy["boolq"].value, accuracy["boolq"].dense_value) == (7 / 20, 12 / 20)
    assert math.isclose(accuracy["boolq"].change or 0, -5 / 20)
    # 9.5 of 20 right, on average, of two choices each.
    assert accuracy["boolq"].above_chance is False


def test_dense_is_compared_with_nothing(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    figures = read_figures(stored, study.weights_key(DENSE), study.weights_key(DENSE), study.evaluations)
    assert len(figures.languages) == 3
    assert all(one.ratio is None for one in figures.languages)
    assert all(one.change is None for one in figures.tasks)


def test_only_what_is_asked_for_and_stored_is_told(study: FakeStudy) -> None:
    stored = read_stored(study.paths)
    asked = steps_of({"perplexity:sw": "key-of-perplexity:sw", "perplexity:en": "another protocol"})
    figures = read_figures(stored, study.weights_key(WANDA), study.weights_key(DENSE), asked)
    assert [one.language for one in figures.languages] == ["sw"]
    assert figures.tasks == []
    assert read_figures(stored, "nothing", None, study.evaluations).languages == []
