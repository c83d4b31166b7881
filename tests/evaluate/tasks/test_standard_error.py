import pytest
from lm_eval.api import metrics

from studyctl.evaluate.tasks.statistics import standard_error


def test_of_a_mean_has_a_closed_form() -> None:
    assert standard_error(metrics.mean, [0, 0, 1, 1]) == pytest.approx((1 / 3 / 4) ** 0.5)


def test_of_one_value_is_not_defined() -> None:
    assert standard_error(metrics.mean, [1.0]) is None


def test_is_bootstrapped_like_lm_eval_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    values = [-0.5, -1.0, -2.0, -0.1, -3.0]
    assert standard_error(metrics.perplexity, values) == metrics.bootstrap_stderr(
        metrics.perplexity, values, iters=1000
    )


def test_of_an_unknown_aggregation_is_not_defined() -> None:
    assert standard_error(max, [1.0, 2.0]) is None
