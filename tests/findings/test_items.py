"""Differences in the items of tasks, held against published figures, statsmodels and sums by hand."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from studyctl.contract.hypotheses import Level, Measure, Sides
from studyctl.findings.items import Flips, clustered_variance, mcnemar_p, tango
from tests.findings.studies import Study, hypothesis

COUNTS = [(20, 60, 1000), (3, 1, 40), (0, 5, 25), (26, 13, 200), (7, 7, 20), (1, 0, 4)]


def statsmodels_p(wins: int, losses: int, *, exact: bool) -> float:
    """Return the p of McNemar's test, without a correction."""
    return float(mcnemar([[9, wins], [losses, 9]], exact=exact, correction=False).pvalue)


def likelihood(difference: float, wins: int, losses: int, items: int) -> float:
    """Return the most likely probability of a loss under a true difference, by maximising the likelihood."""
    ties = items - wins - losses

    def cost(loss: float) -> float:
        shares = ((wins, loss + difference), (losses, loss), (ties, 1 - 2 * loss - difference))
        return -sum(count * math.log(share) for count, share in shares if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    bounds = (low + 1e-12, high - 1e-12)
    return float(optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)


def score(difference: float, wins: int, losses: int, items: int) -> float:
    loss = likelihood(difference, wins, losses, items)
    return (wins - losses - items * difference) / math.sqrt(items * (2 * loss + difference - difference**2))


class TestOneTask:
    def test_the_interval_is_the_published_one(self) -> None:
        """Airway hyper-responsiveness of 21 children, Fagerland, Lydersen and Laake (2014), tables II and V: -0.517 to -0.026."""
        assert Flips(1, 7, 21).ends == pytest.approx((-0.517, -0.026), abs=5e-4)
        assert Flips(7, 1, 21).ends == pytest.approx((0.026, 0.517), abs=5e-4)

    def test_nothing_flipped_is_no_certainty(self) -> None:
        """Tango (1998): ± z² / (n + z²)."""
        assert Flips(0, 0, 50).ends == pytest.approx((-3.8414588 / 53.8414588, 3.8414588 / 53.8414588))
        assert Flips(0, 0, 50).p() == 1

    @pytest.mark.parametrize("counts", COUNTS)
    def test_its_p_is_mcnemars_without_a_correction(self, counts: tuple[int, int, int]) -> None:
        wins, losses, items = counts
        assert Flips(*counts).p() == pytest.approx(statsmodels_p(wins, losses, exact=False))
        assert Flips(*counts).value == (wins - losses) / items

    @pytest.mark.parametrize("counts", COUNTS)
    @pytest.mark.parametrize("null", [-0.05, 0.02])
    def test_against_a_margin_it_has_the_score_of_the_likelihood(
        self, counts: tuple[int, int, int], null: float
    ) -> None:
        expected = stats.norm.sf(score(null, *counts))
        assert Flips(*counts).p_above(null) == pytest.approx(expected, abs=1e-5)
        assert Flips(*counts).p_below(null) == pytest.approx(1 - expected, abs=1e-5)

    @pytest.mark.parametrize("counts", COUNTS)
    def test_interval_and_p_agree(self, counts: tuple[int, int, int]) -> None:
        """At an end of the interval p is 5 %."""
        flips = Flips(*counts)
        for end in flips.ends:
            if abs(end) < 1:
                assert flips.p(end) == pytest.approx(0.05, abs=1e-6)

    @pytest.mark.parametrize("items", [5, 200])
    @pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
    def test_the_interval_holds_the_estimate_and_stays_within_one(self, items: int, share: float) -> None:
        for wins, losses in ((share * items, 0), (0, share * items)):
            flips = Flips(wins, losses, items)
            low, high = flips.ends
            assert -1 <= low <= flips.value <= high <= 1

    def test_many_tasks_at_once_are_as_one_each(self) -> None:
        low, high = tango(*(np.array(column, float) for column in zip(*COUNTS, strict=True)))
        assert list(zip(low, high, strict=True)) == [Flips(*counts).ends for counts in COUNTS]


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 11), (0, 30), (120, 80), (3000, 2900)]
)
def test_mcnemars_exact_test(wins: int, losses: int) -> None:
    assert mcnemar_p(wins, losses) == pytest.approx(
        min(1.0, statsmodels_p(wins, losses, exact=True)), rel=1e-9
    )


class TestClusters:
    def test_by_hand(self) -> None:
        """Three passages of 2, 1 and 3 items that change by (1, 1), (0), (-1, 0, 0): d = 1/6; the sums of x - d are 5/3, -1/6, -3/2;
        V = 3/2 · (25/9 + 1/36 + 9/4) / 36."""
        changes = np.array([1.0, 1, 0, -1, 0, 0])
        variance, units = clustered_variance(changes, np.array([0, 0, 1, 2, 2, 2]))
        assert (variance, units) == (pytest.approx(1.5 * (25 / 9 + 1 / 36 + 9 / 4) / 36), 3)

    def test_one_item_each_is_the_variance_of_a_mean(self) -> None:
        changes = np.array([0.3, -0.2, 0.8, 0.1])
        variance, units = clustered_variance(changes, None)
        assert (variance, units) == (pytest.approx(stats.sem(changes) ** 2), 4)


class TestMeans:
    """Through the tables, as a hypothesis on ``accuracy`` has them."""

    def test_over_tasks_by_hand(self) -> None:
        """T = 2: 24 wins and 16 losses of 200, 4 and 5 of 100: V = [(41/201 - 0.04²)/200 + (10/101 - 0.01²)/100] / 4."""
        study = Study()
        flip(study, "a", 24, 16, 200)
        flip(study, "b", 4, 5, 100)
        row = study.verdict(hypothesis("accuracy"))
        variance = ((40 + 1) / 201 - 0.04**2) / 200 + ((9 + 1) / 101 - 0.01**2) / 100
        half = 1.9599640 * math.sqrt(variance) / 2
        assert row["estimate"] == pytest.approx((0.04 - 0.01) / 2)
        assert (row["low"], row["high"]) == (pytest.approx(0.015 - half), pytest.approx(0.015 + half))
        assert row["p"] == pytest.approx(2 * stats.norm.sf(0.015 / (half / 1.9599640)))
        assert row["units"] == 300

    def test_one_task_of_two_trials_is_tangos(self) -> None:
        study = Study()
        flip(study, "a", 3, 11, 40)
        row = study.verdict(hypothesis("accuracy"))
        assert (row["estimate"], (row["low"], row["high"])) == (-0.2, Flips(3, 11, 40).ends)
        assert row["p"] == pytest.approx(statsmodels_p(3, 11, exact=False))

    def test_items_about_one_passage_are_one_unit(self) -> None:
        """By hand: passages change by 2, 1, -1, 0 of two items each: d = 1/4, Σ(Σx - 1/2)² = 9/4 + 1/4 + 9/4 + 1/4; t(3)."""
        study = Study()
        passages = [f"text {item // 2}" for item in range(8)]
        study.items("left", [1, 1, 1, 0, 0, 0, 1, 0], passages=passages)
        study.items("right", [0, 0, 0, 0, 0, 1, 1, 0], passages=passages)
        row = study.verdict(hypothesis("accuracy"))
        half = 3.1824463 * math.sqrt(4 / 3 * 5 / 64)
        assert (row["estimate"], row["units"]) == (0.25, 4)
        assert (row["low"], row["high"]) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))

    def test_passages_in_which_nothing_flipped_are_no_certainty(self) -> None:
        study = Study()
        passages = [f"text {item // 2}" for item in range(100)]
        for side in ("left", "right"):
            study.items(side, [0, 1] * 50, passages=passages)
        row = study.verdict(hypothesis("accuracy"))
        assert (row["low"], row["high"]) == pytest.approx(Flips(0, 0, 50).ends)
        assert row["verdict"] == "undecided"

    def test_several_variants_in_which_nothing_flipped_are_none_either(self) -> None:
        study = Study()
        for variant in ("a", "b", "c"):
            study.items(variant, [0, 1] * 25)
        row = study.verdict(hypothesis("accuracy", Sides(("a", "b"), ("c",))))
        assert (row["low"], row["high"]) == pytest.approx(Flips(0, 0, 50).ends)

    def test_a_side_of_several_variants_is_their_mean_in_each_item(self) -> None:
        draw = np.random.default_rng(5)
        scores = draw.integers(0, 2, (3, 60)).astype(float)
        study = Study()
        for variant, of_variant in zip(("a", "b", "c"), scores, strict=True):
            study.items(variant, of_variant)
        row = study.verdict(hypothesis("accuracy", Sides(("a", "b"), ("c",))))
        expected = stats.ttest_rel(scores[:2].mean(axis=0), scores[2])
        ends = expected.confidence_interval(0.95)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["low"], row["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))

    def test_scores_that_are_not_right_or_wrong_have_the_paired_t_test(self) -> None:
        draw = np.random.default_rng(6)
        left, right = draw.uniform(size=(2, 25))
        study = Study()
        study.items("left", left)
        study.items("right", right)
        assert study.verdict(hypothesis("accuracy"))["p"] == pytest.approx(
            stats.ttest_rel(left, right).pvalue
        )

    def test_nats_of_the_right_answer_have_the_paired_t_test(self) -> None:
        """The first of three choices is right: its log probability among the three."""
        draw = np.random.default_rng(7)
        choices = {side: draw.normal(-20, 3, (60, 3)) for side in ("left", "right")}
        study = Study()
        for side, of_side in choices.items():
            study.items(side, [0.0] * 60, choices=of_side.tolist())
        left, right = (
            np.log(np.exp(of_side[:, 0]) / np.exp(of_side).sum(axis=1)) for of_side in choices.values()
        )
        row = study.verdict(hypothesis("gold_nats"))
        assert row["estimate"] == pytest.approx((left - right).mean())
        assert row["p"] == pytest.approx(stats.ttest_rel(left, right).pvalue)

    def test_tasks_of_several_models_are_cells_alike(self) -> None:
        study = Study()
        for model, wins in (("m", 9), ("n", 3)):
            flip(study, "a", wins, 5, 80, model=model)
        row = study.verdict(hypothesis("accuracy"))
        variance = ((14 + 1) / 81 - 0.05**2) / 80 + ((8 + 1) / 81 - 0.025**2) / 80
        assert row["estimate"] == pytest.approx((4 / 80 - 2 / 80) / 2)
        assert row["high"] - row["estimate"] == pytest.approx(1.9599640 * math.sqrt(variance) / 2)

    def test_over_models_it_is_the_t_test_of_their_means(self) -> None:
        study = Study()
        wins = (9, 3, 8, 6)
        for number, of_model in enumerate(wins):
            flip(study, "a", of_model, 5, 80, model=f"m{number}")
            flip(study, "b", 2, 2, 40, model=f"m{number}")
        row = study.verdict(hypothesis("accuracy", generalize=Level.MODELS))
        means = [(count - 5) / 80 / 2 for count in wins]
        assert row["p"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def flip(study: Study, task: str, wins: int, losses: int, items: int, model: str = "m") -> None:
    """Add a task of which left has so many right that right has wrong, and the reverse; both have half of the rest."""
    both = [item % 2 for item in range(items - wins - losses)]
    study.items("left", [*([1] * wins), *([0] * losses), *both], task=task, model=model)
    study.items("right", [*([0] * wins), *([1] * losses), *both], task=task, model=model)


def test_nineteen_of_twenty_intervals_of_means_over_tasks_hold_the_truth() -> None:
    """2,000 studies of three tasks of 100 items, of which 12 % turn wrong and 7 % right; 93 to 97 %."""
    draw = np.random.default_rng(2)
    held = 0
    for counts in draw.multinomial(100, [0.07, 0.12, 0.81], size=(2000, 3)):
        flips = [Flips(int(wins), int(losses), 100) for wins, losses, _ in counts]
        mean = sum(one.value for one in flips) / 3
        error = math.sqrt(sum(one.variance_in_mean(3) for one in flips)) / 3
        held += abs(mean + 0.05) < 1.959964 * error
    assert 0.93 < held / 2000 < 0.97


def test_gold_nats_need_fifty_items() -> None:
    study = Study()
    for side in ("left", "right"):
        study.items(side, [0.0] * 49, choices=[[-1.0, -2.0]] * 49)
    row = study.verdict(hypothesis("gold_nats"))
    assert (row["verdict"], row["reason"]) == (
        "cannot be tested",
        "m, arc: 49 items in a task, 50 are needed",
    )
    assert row["metric"] == Measure.GOLD_NATS
