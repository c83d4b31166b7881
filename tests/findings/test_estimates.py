"""Means over models and languages: closed forms, held against scipy, statsmodels, tables by hand and simulated studies."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from studyctl.contract.hypotheses import Level
from studyctl.findings.estimates import (
    Cannot,
    Cells,
    Estimate,
    estimate,
    interaction,
    needed,
    over_both,
    over_clusters,
    windows_share,
)
from studyctl.findings.verdicts import ALPHA, holm
from tests.findings.simulated import (
    COMPONENTS,
    NULL,
    Components,
    Shape,
    coverage,
    kl_studies,
    studies,
)

FIRST, SECOND = np.array([1.0, 2, 3, 6, 8]), np.array([10.0, 30, 20, 70])


def cells(*rows: list[np.ndarray]) -> Cells:
    """Return the cells of windows ``[models][languages]``."""
    return Cells(
        np.array([[windows.mean() for windows in row] for row in rows]),
        np.array([[windows.var(ddof=1) / len(windows) for windows in row] for row in rows]),
        np.array([[len(windows) for windows in row] for row in rows]),
    )


def table(values: list[list[float]]) -> Cells:
    """Return cells whose windows do not matter."""
    array = np.array(values)
    return Cells(array, np.ones_like(array), np.full(array.shape, 10))


class TestWindows:
    def test_one_cell_has_the_paired_t_test(self) -> None:
        left, right = np.array([3.1, 2.7, 4.4, 3.9, 3.3]), np.array([2.9, 2.8, 3.6, 3.1, 3.2])
        expected = stats.ttest_rel(left, right)
        found = estimate(cells([left - right]), Level.WINDOWS)
        assert found.p() == pytest.approx(expected.pvalue, rel=1e-9)
        assert found.ends == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
        assert (found.freedom, found.units) == (4, 5)

    @pytest.mark.parametrize("null", [-1.0, 0.0, 0.25])
    def test_one_sided(self, null: float) -> None:
        windows = np.array([0.3, -0.1, 0.8, 0.7, 0.1])
        found = estimate(cells([windows]), Level.WINDOWS)
        above = stats.ttest_1samp(windows, null, alternative="greater").pvalue
        below = stats.ttest_1samp(windows, null, alternative="less").pvalue
        assert (found.p_above(null), found.p_below(null)) == (pytest.approx(above), pytest.approx(below))
        assert found.p(null) == pytest.approx(stats.ttest_1samp(windows, null).pvalue)

    def test_two_equal_cells_are_as_many_windows_each_with_its_own_mean(self) -> None:
        """By hand: s² = 1 in both, n = 4: V = 2 · (1/4) / 4 = 1/8 with 2 · 3 degrees of freedom; t(6) = 2.4469119."""
        windows = np.array([-1.0, -0.5, 0.5, 1.0]) / math.sqrt(2.5 / 3)
        found = estimate(cells([windows, windows + 2]), Level.WINDOWS)
        assert (found.value, found.variance, found.freedom) == (
            pytest.approx(1.0), pytest.approx(1 / 8), pytest.approx(6),
        )  # fmt: skip
        assert found.ends[1] - 1 == pytest.approx(2.4469119 * math.sqrt(1 / 8))

    def test_two_cells_are_welchs_test(self) -> None:
        """The mean of two is half of the difference of the one and the negative of the other."""
        found = estimate(cells([FIRST, SECOND]), Level.WINDOWS)
        welch = CompareMeans(DescrStatsW(FIRST), DescrStatsW(-SECOND))
        _, p, freedom = welch.ttest_ind(usevar="unequal")
        ends = welch.tconfint_diff(usevar="unequal")
        assert (found.p(), found.freedom) == (pytest.approx(p), pytest.approx(freedom))
        assert found.ends == pytest.approx((ends[0] / 2, ends[1] / 2))

    def test_satterthwaite_by_hand(self) -> None:
        """u = 1, 2, 3 with 4, 6, 11 windows: V = 6/9, df = 36 / (1/3 + 4/5 + 9/10) = 1080/61."""
        three = Cells(np.array([[0.0, 3, 6]]), np.array([[1.0, 2, 3]]), np.array([[4, 6, 11]]))
        found = estimate(three, Level.WINDOWS)
        assert found == (3, pytest.approx(6 / 9), pytest.approx(1080 / 61), 21)

    def test_three_windows_in_one_cell_are_too_few(self) -> None:
        with pytest.raises(Cannot, match="3 windows in a cell, 4 are needed"):
            estimate(cells([FIRST, SECOND[:3]]), Level.WINDOWS)

    @pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.5, 0.0), (-0.5, 0.0)])
    def test_windows_that_all_differ_alike_leave_no_doubt(self, value: float, p: float) -> None:
        found = estimate(cells([np.full(5, value)]), Level.WINDOWS)
        assert (found.ends, found.p()) == ((value, value), p)
        assert found.p_above(0.1) == float(value < 0.1)


class TestClusters:
    VALUES = ((0.5, 1.5, 0.1), (1.0, 2.2, 0.9), (2.0, 1.8, 1.1), (0.3, 0.4, -0.6))
    """Of four models in three languages."""

    @pytest.mark.parametrize(("level", "axis"), [(Level.LANGUAGES, 0), (Level.MODELS, 1)])
    def test_a_level_is_the_t_test_of_its_means(self, level: Level, axis: int) -> None:
        values = table([list(row) for row in self.VALUES])
        means = values.values.mean(axis=axis)
        expected = stats.ttest_1samp(means, 0)
        found = estimate(values, level)
        assert found.p() == pytest.approx(expected.pvalue)
        assert found.ends == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert found.units == len(means)

    def test_languages_and_models_together_have_the_mean_squares_of_an_analysis_of_variance(self) -> None:
        values = np.array(self.VALUES)
        rows = [(m, language, value) for m, row in enumerate(values) for language, value in enumerate(row)]
        anova = anova_lm(ols("x ~ C(m) + C(l)", pd.DataFrame(rows, columns=["m", "l", "x"])).fit())
        square = anova["sum_sq"] / anova["df"]
        a, b, e = square["C(m)"], square["C(l)"], square["Residual"]
        sum_of_all = a + b - e
        assert sum_of_all > max(a, b)  # so that it is not cut off
        found = over_both(values)
        assert found.variance == pytest.approx(sum_of_all / 12)
        assert found.freedom == pytest.approx(sum_of_all**2 / (a**2 / 3 + b**2 / 2 + e**2 / 6))
        assert (found.value, found.units) == (pytest.approx(values.mean()), 3)

    @pytest.mark.parametrize(("turned", "freedom"), [(False, 3), (True, 2)])
    def test_the_variance_is_never_under_that_of_one_level_alone(self, turned: bool, freedom: int) -> None:
        """Languages whose means are alike: their mean square is 0, so the models' is taken, with its own degrees of freedom."""
        pattern = np.array([[1.0, -1, 0], [-1, 0, 1], [0, 1, -1], [0, 0, 0]])
        values = pattern + np.array([[0.0], [1], [2], [5]])
        if turned:
            values = np.array([[1.0, -1, 0], [-1, 0, 1], [0, 1, -1]]).T + np.array([0.0, 1, 5])
        found = over_both(values)
        means = values.mean(axis=0 if turned else 1)
        assert found.variance == pytest.approx(means.var(ddof=1) / len(means))
        assert found.freedom == freedom

    @pytest.mark.parametrize(
        ("shape", "level", "why"),
        [
            ((2, 7), Level.MODELS, "2 models, 3 are needed"),
            ((1, 7), Level.CROSSED, "1 model, 3 are needed"),
            ((5, 2), Level.LANGUAGES, "2 languages, 3 are needed"),
            ((5, 1), Level.CROSSED, "1 language, 3 are needed"),
        ],
    )
    def test_two_of_a_kind_say_nothing_of_others(
        self, shape: tuple[int, int], level: Level, why: str
    ) -> None:
        with pytest.raises(Cannot, match=why):
            estimate(table(np.ones(shape).tolist()), level)


class TestInteraction:
    GROUPS = (np.array([1.0, 1.4, 2.0]), np.array([0.2, 0.9, 0.1, 0.5]))

    def test_it_is_the_pooled_t_test_of_two_samples(self) -> None:
        expected = stats.ttest_ind(*self.GROUPS, equal_var=True)
        found = interaction(self.GROUPS, "language")
        assert found.p() == pytest.approx(expected.pvalue)
        assert found.ends == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert (found.freedom, found.units) == (5, 7)

    def test_one_language_against_several(self) -> None:
        expected = stats.ttest_ind([3.0], self.GROUPS[1], equal_var=True).pvalue
        assert interaction((np.array([3.0]), self.GROUPS[1]), "language").p() == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("sizes", "why"),
        [((1, 1), "one task in each group, at least two are needed in one"), ((0, 3), "a group has no task")],
    )
    def test_two_tasks_cannot_tell(self, sizes: tuple[int, int], why: str) -> None:
        with pytest.raises(Cannot, match=why):
            interaction((np.ones(sizes[0]), np.ones(sizes[1])), "task")


class TestNeeded:
    """How many units decide: an effect as large as it is estimated, at 5 % two-sided and a power of 80 %."""

    def test_languages_have_that_power_by_statsmodels(self) -> None:
        draw = np.random.default_rng(3).normal(0.2, 1, 40)
        languages = table([draw.tolist()])
        count = needed(languages, Level.LANGUAGES).languages
        power = TTestPower().solve_power(draw.mean() / draw.std(ddof=1), alpha=0.05, power=0.8)
        assert count == pytest.approx(power, rel=0.05)

    def test_windows_are_counted_for_each_cell(self) -> None:
        """By hand: s = 1 in 2 cells of 50 windows, θ = 0.1: V = 1/100, (t(98) + z)² · 50/100 · 100 = 2.8260887² · 50 = 399.3."""
        two = Cells(np.array([[0.1, 0.1]]), np.array([[0.02, 0.02]]), np.array([[50, 50]]))
        found = needed(two, Level.WINDOWS)
        assert (found.windows, found.languages, found.models) == (400, None, None)

    def test_of_no_worse_the_distance_is_that_from_the_margin(self) -> None:
        languages = table([[0.3, -0.2, 0.1, 0.2]])
        moved = table([[0.8, 0.3, 0.6, 0.7]])
        assert needed(languages, Level.LANGUAGES, null=-0.5) == needed(moved, Level.LANGUAGES)

    def test_both_levels_as_if_each_were_alone(self) -> None:
        values = table([[0.5, 1.5, -1.1], [1.0, 2.2, -0.9], [2.0, -1.8, 1.1]])
        both = needed(values, Level.CROSSED)
        assert both.languages == needed(values, Level.LANGUAGES).languages
        assert both.models == needed(values, Level.MODELS).models
        assert both.windows is None

    def test_no_number_decides_where_there_is_no_difference(self) -> None:
        assert needed(table([[1.0, -1, 2, -2]]), Level.LANGUAGES).languages is None

    def test_units_that_do_not_vary_have_not_decided_and_more_are_not_told(self) -> None:
        assert needed(table([[0.1, 0.1, 0.1, 0.1]]), Level.LANGUAGES).languages is None


class TestWindowsShare:
    def test_it_is_the_noise_of_windows_in_the_variance_of_means(self) -> None:
        """By hand: two models, three languages, u = 0.06 each. A language's mean has 0.06/2 = 0.03 of the windows; the means
        0, 1, 2 vary by 1."""
        values = Cells(np.array([[0.0, 1, 2], [0, 1, 2]]), np.full((2, 3), 0.06), np.full((2, 3), 10))
        assert windows_share(values, Level.LANGUAGES) == pytest.approx(0.03)
        assert windows_share(values, Level.MODELS) == math.inf  # the models are alike
        assert windows_share(values, Level.CROSSED) == pytest.approx(0.03)
        assert windows_share(values, Level.WINDOWS) is None


def test_infinite_degrees_of_freedom_are_a_normal_distribution() -> None:
    found = Estimate(0.5, 0.09, math.inf, 100)
    normal = stats.norm(0.5, 0.3)
    assert found.ends == pytest.approx(normal.interval(0.95))
    assert found.p() == pytest.approx(2 * normal.cdf(0))
    assert found.p_above(0.2) == pytest.approx(1 - stats.norm(0.2, 0.3).cdf(0.5))


def test_a_cluster_is_as_good_as_its_mean() -> None:
    assert over_clusters(np.array([1.0, 2, 3]), "model").variance == pytest.approx(1 / 3)


# -- simulated studies; ``python -m benchmarks findings`` draws ten times as many


class Case(NamedTuple):
    shape: Shape
    components: Components
    heavy_tails: bool


CASES = [
    Case(Shape(models=3, windows=8), COMPONENTS[0], heavy_tails=True),
    Case(Shape(models=5, windows=30), COMPONENTS[0], heavy_tails=False),
    Case(Shape(models=3, windows=30), COMPONENTS[1], heavy_tails=False),
    Case(Shape(models=5, windows=8), COMPONENTS[1], heavy_tails=True),
]


def bounds(count: int) -> tuple[float, float]:
    """93 to 97 %, with three standard errors of the number of studies."""
    error = 3 * math.sqrt(0.05 * 0.95 / count)
    return 0.93 - error, 0.97 + error


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.shape.models}x{case.shape.windows}")
def test_nineteen_of_twenty_intervals_hold_the_truth_of_their_level(case: Case) -> None:
    draw = np.random.default_rng(case.shape.windows + case.shape.models)
    drawn = studies(draw, 600, case.shape, case.components, heavy_tails=case.heavy_tails)
    low, high = bounds(600)
    for level, share in coverage(drawn).items():
        assert low < share < high, level


def test_so_do_those_of_ratios_of_kl() -> None:
    draw = np.random.default_rng(4)
    low, high = bounds(200)
    for level, share in coverage(kl_studies(draw, 200, Shape(models=3, windows=8), COMPONENTS[0])).items():
        assert low < share < high, level


def test_families_without_a_difference_seldom_have_a_verdict() -> None:
    """600 families of a hypothesis at each level: in 5 % one of them is wrong by chance."""
    draw, count = np.random.default_rng(1), 600
    drawn = {level: studies(draw, count, Shape(5, 8), components) for level, components in NULL.items()}
    wrong = 0
    for _ in range(count):
        p = [estimate(next(of_level).cells, level).p() for level, of_level in drawn.items()]
        wrong += min(holm(p)) <= ALPHA
    assert wrong / count < 0.06 + 3 * math.sqrt(0.06 * 0.94 / count)
