"""From the rows of a study to verdicts: what is compared with what, what is put together, and what cannot be tested."""

import math
from datetime import datetime, timedelta
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from studyctl.contract.hypotheses import (
    Alternative,
    By,
    Combine,
    Interaction,
    Level,
    Measure,
    PlannedHypothesis,
)
from studyctl.findings.grid import largest
from studyctl.findings.tables import TableRow, tables
from tests.findings.studies import BITS, MEASURED, Study, against, hypothesis, of_differences

DRAW = np.random.default_rng(11)
EN, DE, SW = DRAW.normal(0.4, 1, 12), DRAW.normal(-0.5, 1, 15), DRAW.normal(1.5, 1, 10)
"""How many nats more the left side needs in each window."""


def untestable(row: TableRow) -> str:
    """Return why a hypothesis cannot be tested, of which there must be no figure."""
    assert row["verdict"] == "cannot be tested"
    assert {
        row[name] for name in ("estimate", "low", "high", "p", "p_adjusted", "units", "needed_windows")
    } == {None}
    return str(row["reason"])


class TestCells:
    """One cell: figures of a language in one model."""

    def test_bits_per_byte_are_the_paired_t_test_of_windows(self) -> None:
        row = of_differences(en=EN).verdict(hypothesis("bits_per_byte", margin=None))
        expected = stats.ttest_1samp(EN * BITS, 0)
        ends = expected.confidence_interval(0.95)
        assert row["estimate"] == pytest.approx(EN.mean() * BITS)
        assert (row["low"], row["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))
        assert (row["p"], row["units"], row["languages"]) == (pytest.approx(expected.pvalue), 12, 1)

    def test_windows_of_different_lengths_count_by_their_bytes(self) -> None:
        """By hand: d = 1, 1, 2, 6 of 100, 100, 200, 200 bytes: r = 1/60 nats, V = 4/3 · Σ(d - r·s)² / 600² = 4/3 · 88/9 / 600²."""
        study = Study()
        study.windows("left", [1, 1, 2, 6], bytes=[100, 100, 200, 200])
        study.windows("right", [0, 0, 0, 0], bytes=[100, 100, 200, 200])
        row = study.verdict(hypothesis("bits_per_byte"))
        half = 3.1824463 * math.sqrt(4 / 3 * 88 / 9) / 600
        assert row["estimate"] == pytest.approx(1 / 60 / math.log(2))
        assert row["high"] - row["estimate"] == pytest.approx(half / math.log(2))

    def test_a_perplexity_ratio_is_per_token(self) -> None:
        row = of_differences(en=EN).verdict(hypothesis("ppl_ratio"))
        ends = stats.ttest_1samp(EN / 100, 0).confidence_interval(0.95)
        figures = (math.exp(ends.low), math.exp(EN.mean() / 100), math.exp(ends.high))
        assert (row["low"], row["estimate"], row["high"]) == pytest.approx(figures)

    def test_a_ratio_of_kls(self) -> None:
        """The influence of a window is its KL by the mean KL, of each side: the paired t test of these, about log(mean / mean)."""
        left, right = DRAW.lognormal(0, 0.5, (2, 20))
        study = Study()
        study.windows("left", kl=left)
        study.windows("right", kl=right)
        row = study.verdict(hypothesis("kl_ratio"))
        ratio = left.mean() / right.mean()
        half = stats.t.ppf(0.975, 19) * stats.sem(left / left.mean() - right / right.mean())
        figures = (ratio * math.exp(-half), ratio, ratio * math.exp(half))
        assert (row["low"], row["estimate"], row["high"]) == pytest.approx(figures)

    def test_signal_to_noise_in_decibels(self) -> None:
        """By hand: noise of 4 against 1 with the same signal is 10 · log10(1/4) = -6.0206 dB."""
        study = Study()
        study.windows("left", noise=[3.0, 4, 5, 4])
        study.windows("right", noise=[1.0, 1, 0.9, 1.1])
        row = study.verdict(hypothesis("snr"))
        h = np.array([3, 4, 5, 4]) / 4 - np.array([1, 1, 0.9, 1.1])
        assert row["estimate"] == pytest.approx(-6.0206, abs=1e-4)
        assert row["p"] == pytest.approx(2 * stats.t.sf(math.log(4) / stats.sem(h), 3))
        assert row["verdict"] == "contradicted"

    def test_agreement_of_the_most_likely_token(self) -> None:
        left, right = np.array([[95, 91, 88, 97, 90], [94, 85, 86, 91, 87]])
        study = Study()
        study.windows("left", top1=left.tolist())
        study.windows("right", top1=right.tolist())
        row = study.verdict(hypothesis("top1"))
        expected = stats.ttest_rel(left / 100, right / 100)
        assert (row["estimate"], row["p"]) == (pytest.approx(0.036), pytest.approx(expected.pvalue))

    def test_a_side_of_several_variants_is_their_mean_in_each_window(self) -> None:
        """For a ratio the mean KL, not the mean of its logarithms."""
        kl = DRAW.lognormal(0, 0.5, (3, 20))
        study = Study()
        for variant, of_variant in zip("abc", kl, strict=True):
            study.windows(variant, kl=of_variant)
        row = study.verdict(hypothesis("kl_ratio", against(("a", "b"), "c")))
        assert row["estimate"] == pytest.approx(kl[:2].mean() / kl[2].mean())

    def test_seeds_of_a_variant_count_as_one(self) -> None:
        """Two seeds of a and one b: the mean of a's mean and b."""
        nll = DRAW.normal(1, 1, (4, 12))
        study = Study()
        study.windows("a", nll[0], seed=0)
        study.windows("a", nll[1], seed=1)
        study.windows("b", nll[2])
        study.windows("c", nll[3])
        row = study.verdict(hypothesis("bits_per_byte", against(("a", "b"), "c")))
        differences = (nll[:2].mean(axis=0) + nll[2]) / 2 - nll[3]
        assert row["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
        assert row["calibration_draws"] == 2

    def test_many_documents_with_several_windows_are_the_units(self) -> None:
        study = Study()
        shifts = DRAW.normal(0.5, 1, 20)
        documents = [place // 3 for place in range(60)]
        study.windows("left", np.repeat(shifts, 3) + DRAW.normal(0, 0.01, 60), document=documents)
        study.windows("right", [0.0] * 60, document=documents)
        row = study.verdict(hypothesis("bits_per_byte"))
        assert row["units"] == 20
        assert row["p"] == pytest.approx(stats.ttest_1samp(shifts, 0).pvalue, rel=0.05)

    def test_few_documents_are_not(self) -> None:
        study = Study()
        for side in ("left", "right"):
            study.windows(side, EN, document=[place // 3 for place in range(12)])
        assert study.verdict(hypothesis("bits_per_byte"))["units"] == 12

    def test_only_windows_of_both_sides_are_compared(self) -> None:
        study = of_differences(en=EN)
        study.windows("other", [*EN, 5, 6, 7])
        row = study.verdict(hypothesis("bits_per_byte", against("other", "right")))
        assert (row["estimate"], row["units"]) == (pytest.approx(EN.mean() * BITS), 12)

    def test_windows_with_other_tokens_are_others(self) -> None:
        study = Study()
        study.windows("left", EN)
        study.windows("right", EN, tokens=[99] * 12)
        assert (
            untestable(study.verdict(hypothesis("bits_per_byte")))
            == "m, en: no bits_per_byte of the same windows"
        )

    def test_a_window_in_which_a_variant_broke_is_not_left_out(self) -> None:
        study = Study()
        study.windows("left", kl=[1.0, 2, 3, 4, None])  # infinite: journals have null
        study.windows("right", kl=[1.0, 2, 3, 4, 5])
        assert (
            untestable(study.verdict(hypothesis("kl_ratio")))
            == "m, en: kl_ratio is not finite in 1 of 5 windows"
        )


class TestMeans:
    STUDY = of_differences(en=EN, de=DE, sw=SW)

    def test_over_windows_each_language_has_its_own_variance(self) -> None:
        row = self.STUDY.verdict(hypothesis("bits_per_byte"))
        errors = np.array([stats.sem(cell) ** 2 for cell in (EN, DE, SW)])
        freedom = errors.sum() ** 2 / (errors**2 / [11, 14, 9]).sum()
        mean = np.mean([cell.mean() for cell in (EN, DE, SW)])
        assert row["estimate"] == pytest.approx(mean * BITS)
        assert row["p"] == pytest.approx(2 * stats.t.sf(mean / (math.sqrt(errors.sum()) / 3), freedom))
        assert (row["units"], row["languages"], row["models"]) == (37, 3, 1)

    def test_over_languages_only_their_means_count(self) -> None:
        row = self.STUDY.verdict(hypothesis("bits_per_byte", generalize=Level.LANGUAGES))
        expected = stats.ttest_1samp([cell.mean() for cell in (EN, DE, SW)], 0)
        assert (row["p"], row["units"]) == (pytest.approx(expected.pvalue), 3)
        assert "few languages: 3" in row["notes"]

    def test_all_levels_are_told_and_what_each_part_says(self) -> None:
        parts = self.STUDY.parts(hypothesis("bits_per_byte", generalize=Level.LANGUAGES))
        assert [subject for kind, subject in parts if kind == "level"] == list(Level)
        assert parts["level", "models"]["reason"] == "1 model, 3 are needed"
        assert parts["level", "models"]["estimate"] is None
        assert parts["language", "de"]["p"] == pytest.approx(stats.ttest_1samp(DE, 0).pvalue)
        assert parts["without", "de"]["reason"] == "2 languages, 3 are needed"

    def test_what_it_rests_on(self) -> None:
        parts = self.STUDY.parts(hypothesis("bits_per_byte"))
        assert parts["without", "de"]["estimate"] == pytest.approx((EN.mean() + SW.mean()) / 2 * BITS)

    def test_over_models(self) -> None:
        study, means = Study(), []
        for number in range(4):
            cells = DRAW.normal(number, 1, (2, 8))
            means.append(cells.mean())
            for language, differences in zip(("en", "de"), cells, strict=True):
                study.windows("left", differences, model=f"m{number}", language=language)
                study.windows("right", [0.0] * 8, model=f"m{number}", language=language)
        row = study.verdict(
            hypothesis("bits_per_byte", generalize=Level.MODELS, alternative=Alternative.WORSE)
        )
        assert row["p"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
        assert "few models: 4" in row["notes"]
        holding = [cells > 0 for cells in means]  # the first mean is near 0, the others are far from it
        assert (row["models"], row["models_holding"]) == (4, sum(holding[1:]))

    def test_more_windows_are_of_no_use_where_languages_differ_by_more(self) -> None:
        study = of_differences(
            **{name: EN / 100 + shift for name, shift in (("en", 1), ("de", 2), ("sw", 5))}
        )
        row = study.verdict(hypothesis("bits_per_byte", generalize=Level.LANGUAGES))
        assert "more windows would not change how sure this is" in row["notes"]
        assert row["verdict"] == "undecided"
        assert row["needed_windows"] is None
        assert row["needed_languages"] > 3

    def test_items_that_are_all_alike_do_not_tell_how_many_would_decide(self) -> None:
        study = Study()
        for side in ("left", "right"):
            study.items(side, [1, 0] * 15)
        row = study.verdict(hypothesis("accuracy", alternative=Alternative.NO_WORSE))
        assert (row["verdict"], row["needed_windows"]) == ("undecided", None)
        assert "both sides are alike in every item" in row["notes"]

    def test_what_is_decided_needs_nothing(self) -> None:
        row = of_differences(en=EN + 5).verdict(hypothesis("bits_per_byte"))
        assert (row["verdict"], row["needed_windows"]) == ("contradicted", None)


def pairs_study() -> Study:
    """Four variants: a1 needs 1 nat more than b1, a2 needs 3 less than b2, with noise."""
    study = Study()
    for variant, nll in (("a1", EN / 9 + 1), ("b1", EN * 0), ("a2", DE[:12] / 9), ("b2", EN / 9 + 3)):
        study.windows(variant, nll)
    return study


class TestPairs:
    PAIRS = (against("a1", "b1"), against("a2", "b2"))

    def test_the_mean_over_pairs_is_that_of_their_differences(self) -> None:
        row = pairs_study().verdict(hypothesis("bits_per_byte", *self.PAIRS))
        differences = ((EN / 9 + 1) + (DE[:12] / 9 - EN / 9 - 3)) / 2
        assert row["estimate"] == pytest.approx(differences.mean() * BITS)
        assert row["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)

    def test_each_pair_has_a_row(self) -> None:
        parts = pairs_study().parts(hypothesis("bits_per_byte", *self.PAIRS))
        assert parts["pair", "a1 against b1"]["p"] == pytest.approx(stats.ttest_1samp(EN / 9 + 1, 0).pvalue)

    def test_which_trials_were_compared_is_told(self) -> None:
        rows = pairs_study().find(hypothesis("bits_per_byte", *self.PAIRS))["hypothesis_pairs"]
        assert [(row["pair"], row["side"], row["variant"], row["compared"]) for row in rows] == [
            (0, "left", "a1", True), (0, "right", "b1", True), (1, "left", "a2", True), (1, "right", "b2", True),
        ]  # fmt: skip

    def test_a_model_without_variants_of_a_pair_is_compared_by_the_others(self) -> None:
        """Pairs keep their numbers: model n has the second one only."""
        study = pairs_study()
        study.windows("a2", DE[:12] / 9, model="n")
        study.windows("b2", EN / 9 + 3, model="n")
        found = study.find(hypothesis("bits_per_byte", *self.PAIRS, combine=Combine.EVERY))
        parts = {row["subject"]: row for row in found["hypothesis_rows"] if row["kind"] == "pair"}
        first, second = EN / 9 + 1, DE[:12] / 9 - EN / 9 - 3
        assert parts["a1 against b1"]["estimate"] == pytest.approx(first.mean() * BITS)
        assert parts["a2 against b2"]["estimate"] == pytest.approx(second.mean() * BITS)
        assert (parts["a1 against b1"]["units"], parts["a2 against b2"]["units"]) == (12, 24)
        assert "left out: n, a1 against b1 (it has no such variants)" in found["hypotheses"][0]["notes"]


class TestEvery:
    """The claim must hold for each pair."""

    @staticmethod
    def study(*shifts: float) -> Study:
        """Pairs ``a0`` against ``b0``, … that differ by these nats, each with other noise of about 0.3."""
        study = Study()
        for number, shift in enumerate(shifts):
            noise = np.random.default_rng(number).normal(0, 0.3, 12)
            study.windows(f"a{number}", noise - noise.mean() + shift)
            study.windows(f"b{number}", [0.0] * 12)
        return study

    def claim(self, count: int, **settings: object) -> PlannedHypothesis:
        pairs = [against(f"a{number}", f"b{number}") for number in range(count)]
        return hypothesis("bits_per_byte", *pairs, combine=Combine.EVERY, **{"margin": None, **settings})

    def test_its_p_is_the_largest_without_a_correction(self) -> None:
        study = self.study(-3, -1, -2)
        row = study.verdict(self.claim(3))
        least = study.parts(self.claim(3))["pair", "a1 against b1"]
        assert (row["verdict"], row["p"], row["estimate"]) == ("supported", least["p"], least["estimate"])
        assert row["p"] == max(
            part["p"] for (kind, _), part in study.parts(self.claim(3)).items() if kind == "pair"
        )
        assert row["models_holding"] == 1

    def test_one_pair_that_is_not_sure_leaves_it_undecided(self) -> None:
        row = self.study(-3, -0.1).verdict(self.claim(2))
        assert (row["verdict"], row["models_holding"]) == ("undecided", 0)

    def test_one_pair_on_the_other_side_contradicts_it(self) -> None:
        """Its p is corrected, as it was chosen among three."""
        study = self.study(-3, -0.05, 1)
        row = study.verdict(self.claim(3))
        pair = study.parts(self.claim(3))["pair", "a2 against b2"]
        assert (row["verdict"], row["p"]) == ("contradicted", pytest.approx(3 * pair["p"]))

    def test_one_pair_without_a_difference_that_matters_does_not_support_it(self) -> None:
        """It differs by 0.5 nats, 0.0018 bits per byte, which is sure: but the margin is 0.004."""
        study = self.study(-3, -0.5)
        assert study.verdict(self.claim(2))["verdict"] == "supported"
        row = study.verdict(self.claim(2, margin=0.004))
        assert row["verdict"] == "no difference beyond the margin"
        assert row["estimate"] == pytest.approx(-0.5 * BITS)

    def test_no_worse_of_every_pair(self) -> None:
        claim = self.claim(2, alternative=Alternative.NO_WORSE, margin=BITS)  # a nat
        assert self.study(-3, 0.2).verdict(claim)["verdict"] == "supported"
        assert self.study(-3, 0.95).verdict(claim)["verdict"] == "undecided"
        assert self.study(-3, 2).verdict(claim)["verdict"] == "contradicted"


class TestBy:
    def test_each_language_is_judged_as_one_family(self) -> None:
        cells = {"de": DE - DE.mean() - 0.1, "en": EN - 2, "sw": SW - 4}
        study = of_differences(**cells)
        claim = hypothesis("bits_per_byte", by=By.LANGUAGE, margin=None)
        parts = study.parts(claim)
        values = [stats.ttest_1samp(cell, 0).pvalue for cell in cells.values()]
        adjusted = multipletests(values, method="holm")[1]
        rows = [parts["language", name] for name in ("de", "en", "sw")]
        assert [row["p"] for row in rows] == pytest.approx(values)
        assert [row["p_adjusted"] for row in rows] == pytest.approx(adjusted)
        assert [row["verdict"] for row in rows] == ["undecided", "supported", "supported"]
        row = study.verdict(claim)
        assert row["verdict"] == "undecided"
        assert row["p"] is None
        assert row["p_adjusted"] == pytest.approx(max(adjusted))
        assert row["reason"] == "of 3 languages: 1 undecided, 2 supported"

    def test_it_holds_if_it_holds_for_each(self) -> None:
        study = of_differences(en=EN - 9, de=DE - 9)
        assert study.verdict(hypothesis("bits_per_byte", by=By.LANGUAGE))["verdict"] == "supported"

    def test_one_against_it_is_enough(self) -> None:
        study = of_differences(en=EN - 9, de=DE + 9)
        row = study.verdict(hypothesis("bits_per_byte", by=By.LANGUAGE))
        assert (row["verdict"], row["reason"]) == (
            "contradicted",
            "of 2 languages: 1 contradicted, 1 supported",
        )

    def test_a_language_that_cannot_be_tested_has_one_row_that_says_why(self) -> None:
        study = of_differences(en=EN - 9, de=DE[:3])
        parts = study.parts(hypothesis("bits_per_byte", by=By.LANGUAGE))
        row = parts["language", "de"]
        assert (row["verdict"], row["reason"]) == ("cannot be tested", "3 windows in a cell, 4 are needed")
        assert study.verdict(hypothesis("bits_per_byte", by=By.LANGUAGE))["verdict"] == "undecided"

    def test_models_by_the_means_of_their_languages(self) -> None:
        study = Study()
        for model, shift in (("m", -5), ("n", -3)):
            for language, cell in (("en", EN), ("de", DE)):
                study.windows("left", cell + shift, model=model, language=language)
                study.windows("right", cell * 0, model=model, language=language)
        row = study.verdict(hypothesis("bits_per_byte", by=By.MODEL))
        assert (row["verdict"], row["reason"]) == ("supported", "of 2 models: 2 supported")

    def test_tasks(self) -> None:
        study = Study()
        for task in ("arc", "boolq"):
            study.items("left", [1] * 30 + [0] * 10, task=task)
            study.items("right", [0] * 20 + [1] * 10 + [0] * 10, task=task)
        parts = study.parts(hypothesis("accuracy", by=By.TASK))
        z = 20 / math.sqrt(20)
        assert parts["task", "arc"]["p"] == pytest.approx(2 * stats.norm.sf(z))
        assert parts["task", "arc"]["p_adjusted"] == pytest.approx(4 * stats.norm.sf(z))

    def test_every_pair_of_each_language(self) -> None:
        study = Study()
        for language, shift in (("en", -9.0), ("de", 9.0)):
            for number, moved in enumerate((-9.0, shift)):
                study.windows(f"a{number}", EN + moved, language=language)
                study.windows(f"b{number}", EN * 0, language=language)
        pairs = [against("a0", "b0"), against("a1", "b1")]
        claim = hypothesis("bits_per_byte", *pairs, by=By.LANGUAGE, combine=Combine.EVERY)
        parts = study.parts(claim)
        assert parts["language", "en"]["verdict"] == "supported"
        assert parts["language", "de"]["verdict"] == "contradicted"


GROUPS = Interaction(By.LANGUAGE, (("en", "fr"), ("de", "sw", "hi")))
OF_GROUPS = {
    name: DRAW.normal(shift, 1, 12) for name, shift in {"en": -4, "fr": -3, "de": 1, "sw": 2, "hi": 0}.items()
}


class TestInteraction:
    def claim(self) -> PlannedHypothesis:
        return hypothesis("bits_per_byte", interaction=GROUPS, generalize=Level.LANGUAGES)

    def test_is_the_pooled_t_test_of_the_languages_means(self) -> None:
        row = of_differences(**OF_GROUPS).verdict(self.claim())
        first, second = ([OF_GROUPS[name].mean() for name in level] for level in GROUPS.levels)
        expected = stats.ttest_ind(first, second, equal_var=True)
        assert row["estimate"] == pytest.approx((np.mean(first) - np.mean(second)) * BITS)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["units"], row["reason"]) == (5, "en, fr against de, sw, hi")
        assert row["models_holding"] is None  # a model says nothing of other languages

    def test_without_a_language_it_is_the_difference_of_the_others(self) -> None:
        part = of_differences(**OF_GROUPS).parts(self.claim())["without", "hi"]
        first, second = ([OF_GROUPS[name].mean() for name in names] for names in (("en", "fr"), ("de", "sw")))
        assert part["p"] == pytest.approx(stats.ttest_ind(first, second).pvalue)

    def test_a_language_that_is_not_measured(self) -> None:
        cells = {name: cell for name, cell in OF_GROUPS.items() if name != "hi"}
        assert untestable(of_differences(**cells).verdict(self.claim())) == "not measured for both sides: hi"

    def test_one_task_in_each_group(self) -> None:
        study = Study()
        for task in ("arc", "boolq"):
            for side in ("left", "right"):
                study.items(side, [1, 0] * 10, task=task)
        groups = Interaction(By.TASK, (("arc",), ("boolq",)))
        row = study.verdict(hypothesis("accuracy", interaction=groups))
        assert untestable(row) == "one task in each group, at least two are needed in one"


class TestFamilies:
    def test_p_is_adjusted_within_a_family(self) -> None:
        study = of_differences(en=EN - 0.8)
        claims = [
            hypothesis("bits_per_byte", name="a", margin=None),
            hypothesis("ppl_ratio", name="b", margin=None),
            hypothesis("bits_per_byte", name="c", margin=None, family="other"),
        ]
        rows = study.find(*claims)["hypotheses"]
        p = stats.ttest_1samp(EN - 0.8, 0).pvalue
        assert [row["p_adjusted"] for row in rows] == pytest.approx([2 * p, 2 * p, p])

    def test_a_verdict_that_is_lost_by_the_correction_says_so(self) -> None:
        windows = np.array([-1.0, -2, -3, -1.5, 0.1])
        assert 0.025 < stats.ttest_1samp(windows, 0).pvalue < 0.05
        study = of_differences(en=windows)
        claims = [hypothesis("bits_per_byte", name=name, margin=None) for name in ("a", "b")]
        row = study.find(*claims)["hypotheses"][0]
        assert row["verdict"] == "undecided"
        assert row["high"] < 0
        assert "alone it would be supported; of 2 hypotheses tested together one is by chance" in row["notes"]

    def test_what_cannot_be_tested_and_rows_of_their_own_do_not_count(self) -> None:
        study = of_differences(en=EN - 0.8)
        claims = [
            hypothesis("bits_per_byte", name="a", margin=None),
            hypothesis("kl_ratio", name="b"),
            hypothesis("bits_per_byte", name="c", by=By.LANGUAGE),
        ]
        row = study.find(*claims)["hypotheses"][0]
        assert row["p_adjusted"] == row["p"]


class TestWhatIsMissing:
    def claim(self, **settings: object) -> PlannedHypothesis:
        return hypothesis("bits_per_byte", **settings)

    def test_the_largest_complete_grid_is_compared_and_the_rest_is_named(self) -> None:
        """Model n lacks sw: 2 models × 2 languages are more than 1 × 3."""
        study = of_differences(en=EN, de=DE, sw=SW)
        for language, cell in (("en", EN), ("de", DE)):
            study.windows("left", cell + 1, model="n", language=language)
            study.windows("right", cell * 0, model="n", language=language)
        study.windows("left", SW, model="n", language="sw")
        row = study.verdict(self.claim())
        assert (row["models"], row["languages"]) == (2, 2)
        assert row["estimate"] == pytest.approx((EN.mean() + DE.mean() + 1) / 2 * BITS)
        (note,) = [note for note in row["notes"] if note.startswith("left out")]
        assert "n, sw (not measured: n.right.None)" in note
        assert "m, sw (" in note

    def test_a_model_that_is_left_out_is_not_among_those_compared(self) -> None:
        study = of_differences(en=EN, de=DE, sw=SW)
        study.windows("left", EN, model="n", language="fr")
        study.windows("right", EN * 0, model="n", language="fr")
        rows = study.find(self.claim())["hypothesis_pairs"]
        assert {row["model"]: row["compared"] for row in rows} == {"m": True, "n": False}
        assert all(row["compared"] or row["reason"] for row in rows)

    @pytest.mark.parametrize(
        ("state", "why"),
        [("failed", "failed"), ("pending", "is not measured yet"), ("running", "is not measured yet")],
    )
    def test_a_model_with_a_trial_that_is_not_done_is_left_out(self, state: str, why: str) -> None:
        study = of_differences(en=EN)
        study.windows("left", EN, model="n")
        study.windows("right", EN * 0, model="n")
        study.trial("right", "n", state=state, seed=None)
        found = study.find(self.claim())
        row = found["hypotheses"][0]
        assert (row["models"], row["estimate"]) == (1, pytest.approx(EN.mean() * BITS))
        assert f"left out: n (right {why})" in row["notes"]
        reasons = {pair["trial_id"]: pair["reason"] for pair in found["hypothesis_pairs"]}
        assert reasons["n.left.None"] == f"right {why}"

    def test_the_only_model_with_a_trial_that_failed_has_no_figure(self) -> None:
        study = of_differences(en=EN)
        study.trial("left", state="failed", seed=None)
        assert untestable(study.verdict(self.claim())) == "m: left failed"

    def test_one_seed_that_is_not_measured_yet(self) -> None:
        study = of_differences(en=EN)
        study.trial("left", seed=1, state="pending")
        assert untestable(study.verdict(self.claim())) == "m: left is not measured yet"

    def test_no_model_has_both_sides(self) -> None:
        study = Study()
        study.windows("left", EN)
        study.windows("right", EN, model="n")
        found = study.find(self.claim())
        assert untestable(found["hypotheses"][0]) == "no model has variants of both sides"
        assert {row["reason"] for row in found["hypothesis_pairs"]} == {
            "its model has no variant of the other side"
        }

    def test_too_few_windows(self) -> None:
        row = of_differences(en=EN[:3]).verdict(self.claim())
        assert untestable(row) == "3 windows in a cell, 4 are needed"

    @pytest.mark.parametrize(
        ("level", "why"),
        [
            (Level.MODELS, "1 model, 3 are needed"),
            (Level.LANGUAGES, "2 languages, 3 are needed"),
            (Level.CROSSED, "1 model, 3 are needed"),
        ],
    )
    def test_too_few_of_a_level(self, level: Level, why: str) -> None:
        row = of_differences(en=EN, de=DE).verdict(self.claim(generalize=level))
        assert untestable(row) == why

    def test_what_cannot_be_tested_compares_no_trial(self) -> None:
        found = of_differences(en=EN).find(hypothesis("kl_ratio"))
        why = untestable(found["hypotheses"][0])
        assert {(row["compared"], row["reason"]) for row in found["hypothesis_pairs"]} == {(False, why)}

    def test_a_metric_that_was_not_measured(self) -> None:
        assert (
            untestable(of_differences(en=EN).verdict(hypothesis("kl_ratio")))
            == "m, en: no kl_ratio of the same windows"
        )
        assert untestable(of_differences(en=EN).verdict(hypothesis("accuracy"))) == "no task is measured"

    def test_a_side_that_is_dense_itself(self) -> None:
        study = Study()
        study.windows("left", kl=[0.0] * 5)
        study.windows("right", kl=[0.1] * 5)
        assert untestable(study.verdict(hypothesis("kl_ratio"))) == "m, en: a side does not differ from dense"

    def test_a_task_whose_main_metric_is_no_fraction(self) -> None:
        study = Study()
        for side in ("left", "right"):
            study.items(side, [12.5, 30, 8, 44], task="wikitext", averaged=False)
        assert untestable(study.verdict(hypothesis("accuracy"))) == "no task is measured"
        row = study.verdict(hypothesis("accuracy:wikitext"))
        assert untestable(row) == "the main metric of wikitext is no fraction of which more is better"

    def test_models_that_each_lack_another_language_take_no_time(self) -> None:
        """There are 2²⁴ sets of languages that some of them have in common."""
        study = Study()
        for model in range(24):
            for language in range(24):
                if language != model:
                    for side in ("left", "right"):
                        study.windows(side, [0.0, 1, 2, 3], model=f"m{model:02}", language=f"l{language:02}")
        row = study.verdict(self.claim())
        assert row["models"] * row["languages"] == 12 * 12

    def test_of_grids_that_are_as_large_the_first_is_taken(self) -> None:
        """So that it is the same in every process, though the hashes of texts and with them the order of sets differ."""
        languages = {"a": "wx", "b": "yz", "c": "vu", "d": "ts"}
        for models in permutations(languages):
            cells = dict.fromkeys((model, language) for model in models for language in languages[model])
            assert "".join(largest(cells).subjects) == languages[models[0]]


class TestSizes:
    @staticmethod
    def study(**sizes: float | None) -> Study:
        study = Study()
        for model in ("m", "n"):
            for variant, size in sizes.items():
                study.trial(variant, model, size_mib=size)
        return study

    @pytest.mark.parametrize(
        ("left", "alternative", "margin", "expected"),
        [
            (90, "better", None, "supported"),
            (110, "better", None, "contradicted"),
            (110, "worse", None, "supported"),
            (100, "better", None, "no difference beyond the margin"),
            (101, "different", None, "supported"),
            (101, "different", 2, "no difference beyond the margin"),
            (104, "no_worse", 5, "supported"),
            (106, "no_worse", 5, "contradicted"),
        ],
    )
    def test_are_compared_by_their_sign(
        self, left: float, alternative: str, margin: float | None, expected: str
    ) -> None:
        claim = hypothesis("size_mib", alternative=Alternative(alternative), margin=margin)
        row = self.study(left=left, right=100.0).verdict(claim)
        assert row["verdict"] == expected
        assert row["estimate"] == left - 100
        assert (row["p"], row["p_adjusted"], row["confirmatory"], row["calibration_draws"]) == (
            None,
            None,
            None,
            None,
        )
        assert row["reason"] == "sizes are compared, not tested"

    def test_every_pair(self) -> None:
        study = self.study(a=50, b=60, c=40)
        pairs = [against("a", "b"), against("a", "c")]
        assert study.verdict(hypothesis("size_mib", *pairs))["estimate"] == 0
        row = study.verdict(hypothesis("size_mib", *pairs, combine=Combine.EVERY))
        assert (row["verdict"], row["estimate"]) == ("contradicted", 10)

    def test_that_are_not_known(self) -> None:
        study = self.study(left=90, right=100)
        study.trial("left", "n", size_mib=None)
        row = study.verdict(hypothesis("size_mib"))
        assert (row["models"], row["verdict"]) == (1, "supported")
        assert "left out: n (size not known)" in row["notes"]
        assert (
            untestable(self.study(left=None, right=1).verdict(hypothesis("size_mib")))
            == "no size is known of both sides"
        )


class TestWhatAVerdictRestsOn:
    CLAIM = hypothesis("bits_per_byte")
    BEFORE, AFTER = MEASURED - timedelta(seconds=1), MEASURED + timedelta(seconds=1)

    @pytest.mark.parametrize(
        ("declared", "confirmatory"), [(BEFORE, True), (MEASURED, False), (AFTER, False), (None, False)]
    )
    def test_it_is_confirmatory_if_it_was_recorded_before_every_result(
        self, declared: datetime | None, confirmatory: bool
    ) -> None:
        study = of_differences(en=EN)
        row = study.find(self.CLAIM, declared={self.CLAIM.hash: declared} if declared else {})["hypotheses"][
            0
        ]
        assert (row["declared"], row["confirmatory"]) == (declared, confirmatory)

    def test_older_results_that_it_does_not_use_do_not_count(self) -> None:
        study = of_differences(en=EN)
        study.windows("other", EN)
        study.items("left", [1, 0, 1, 1])
        for step in study.rows["steps"]:
            if step["variant"] == "other" or step["kind"] == "task":
                step["measured_since"] = self.BEFORE - timedelta(days=1)
        assert study.verdict(self.CLAIM, declared=self.BEFORE)["confirmatory"]

    def test_of_one_task_only_its_own_results_count(self) -> None:
        study = Study()
        for side in ("left", "right"):
            study.items(side, [1, 0, 1, 1, 0], task="arc")
            study.items(side, [1, 0, 1, 1, 0], task="boolq")
        for step in study.rows["steps"]:
            if step["subject"] == "boolq":
                step["measured_since"] = self.BEFORE - timedelta(days=1)
        assert study.verdict(hypothesis("accuracy:arc"), declared=self.BEFORE)["confirmatory"]
        assert not study.verdict(hypothesis("accuracy"), declared=self.BEFORE)["confirmatory"]

    def test_calibration_draws(self) -> None:
        study = of_differences(en=EN)
        assert study.verdict(self.CLAIM)["calibration_draws"] is None
        study.windows("gptq", EN, seed=0)
        assert study.verdict(hypothesis("bits_per_byte", against("gptq", "right")))["calibration_draws"] == 1

    def test_different_kinds_of_devices_are_noted(self) -> None:
        study = of_differences(en=EN)
        study.windows("dense", EN)
        assert study.verdict(self.CLAIM)["notes"] == []
        study.trial("dense", device_kind="cuda", seed=None)
        assert (
            "computed on cpu and cuda: rounding alone makes some distance to dense"
            in study.verdict(self.CLAIM)["notes"]
        )

    def test_tasks_at_chance_are_noted(self) -> None:
        study = Study()
        for variant in ("dense", "left", "right"):
            study.items(variant, [1] * 55 + [0] * 45, task="boolq")
            study.items(variant, [1] * 90 + [0] * 10, task="arc", choices=[[0.0] * 4] * 100)
        for row in study.rows["items"]:
            row["gold"] = row["item"] % 2  # else the first choice is always right
        note = "at chance, so they say nothing: boolq"
        assert note in study.verdict(hypothesis("accuracy"))["notes"]
        assert note not in study.verdict(hypothesis("accuracy:arc"))["notes"]


class TestOrders:
    """Do two metrics put the variants in the same order?"""

    @staticmethod
    def study(kl: dict[str, float], accuracy: dict[str, int]) -> Study:
        """Variants with this KL (20 windows, noise of 2 %), and so many of 100 items right."""
        study = Study()
        noise = np.random.default_rng(0).normal(1, 0.02, 20)
        for number, (variant, mean) in enumerate(kl.items()):
            study.windows(variant, kl=mean * np.roll(noise, number))
            study.items(variant, [1] * accuracy[variant] + [0] * (100 - accuracy[variant]))
        return study

    def test_pairs_are_counted_and_tau_is_bounded(self) -> None:
        """By hand: accuracy a > b > c = d; KL c < a < b < d. Of six pairs a-b, a-d and b-d surely agree, a-c and b-c surely
        do not, and c-d is unsure, as its accuracies are alike."""
        study = self.study({"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0}, {"a": 90, "b": 60, "c": 30, "d": 30})
        claim = hypothesis("kl_ratio, accuracy")
        found = study.find(claim)
        row = found["hypotheses"][0]
        assert (row["verdict"], row["units"]) == ("disagree", 6)
        assert row["reason"] == "of 6 pairs of variants 3 surely agree, 2 surely do not, 1 are unsure"
        assert (row["estimate"], row["low"], row["high"]) == (pytest.approx(1 / 6), 0, pytest.approx(2 / 6))
        pairs = [(pair["variant"], pair["other_variant"]) for pair in found["reversals"]]
        assert pairs == [("c", "a"), ("c", "b")]  # the first is better by KL

    def test_a_reversal_has_the_differences_and_p_of_both(self) -> None:
        study = self.study({"a": 1.0, "c": 0.5}, {"a": 90, "c": 30})
        (pair,) = study.find(hypothesis("kl_ratio, accuracy"))["reversals"]
        noise = np.random.default_rng(0).normal(1, 0.02, 20)
        a, c = noise, 0.5 * np.roll(noise, 1)
        error = stats.sem(c / c.mean() - a / a.mean())
        assert (pair["variant"], pair["other_variant"]) == ("c", "a")
        assert pair["difference"] == pytest.approx(math.log(0.5))
        assert pair["p"] == pytest.approx(2 * stats.t.sf(math.log(2) / error, 19))
        assert pair["other_difference"] == pytest.approx(-0.6)
        assert pair["other_p"] == pytest.approx(2 * stats.norm.sf(60 / math.sqrt(60)))
        assert pair["p_adjusted"] == max(pair["p"], pair["other_p"])

    def test_all_pairs_that_are_sure_agree(self) -> None:
        study = self.study({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 90, "b": 60, "c": 30})
        row = study.verdict(hypothesis("kl_ratio, accuracy"))
        assert (row["verdict"], row["estimate"], row["low"], row["high"]) == ("agree", 1, 1, 1)

    def test_p_is_adjusted_over_the_pairs(self) -> None:
        """By hand: of three pairs z = 10/√10, 8/√8 and 18/√18; the least sure one has p = 0.0047, the next 0.0016 · 2."""
        study = self.study({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 50, "b": 40, "c": 32})
        row = study.verdict(hypothesis("kl_ratio, accuracy"))
        assert 2 * stats.norm.sf(8 / math.sqrt(8)) == pytest.approx(0.0047, abs=1e-4)
        assert row["verdict"] == "agree"
        study = self.study({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 50, "b": 45, "c": 41})
        row = study.verdict(hypothesis("kl_ratio, accuracy"))  # 5/√5: 0.0253 · 2 is over 5 %
        assert row["verdict"] == "undecided"
        assert row["reason"] == "of 3 pairs of variants 1 surely agree, 0 surely do not, 2 are unsure"

    def test_variants_that_not_all_models_have_measured_are_left_out(self) -> None:
        study = self.study({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 90, "b": 60, "c": 30})
        study.trial("c", seed=1, state="pending")
        study.trial("a", "n", state="failed")
        row = study.verdict(hypothesis("kl_ratio, accuracy"))
        assert (row["units"], row["models"]) == (1, 1)
        assert row["notes"] == [
            "left out: n (nothing is measured)",
            "left out: c (not measured for all models)",
        ]

    def test_fewer_than_two_variants(self) -> None:
        study = self.study({"a": 1.0}, {"a": 90})
        assert untestable(study.verdict(hypothesis("kl_ratio, accuracy"))).startswith(
            "1 variants are measured"
        )
        assert untestable(Study().verdict(hypothesis("kl_ratio, accuracy"))).startswith("0 variants")

    @pytest.mark.parametrize("level", list(Level))
    def test_its_pairs_are_tested_as_hypotheses_are(self, level: Level) -> None:
        """A pair of variants by one metric has the p of the hypothesis that compares them, at every level."""
        study = Study()
        for model in ("m", "n", "o"):
            for language in ("en", "de", "sw"):
                for variant, shift in (("left", 0.0), ("right", 2.0)):
                    nll = DRAW.normal(shift, 1, 8)
                    study.windows(variant, nll, kl=np.exp(-nll), model=model, language=language)
        (pair,) = study.find(hypothesis("bits_per_byte, kl_ratio", generalize=level))["reversals"]
        for name, metric in (("p", "bits_per_byte"), ("other_p", "kl_ratio")):
            row = study.verdict(hypothesis(metric, generalize=level))
            assert pair[name] == pytest.approx(row["p"])

    @pytest.mark.parametrize("tasks", [1, 2])
    @pytest.mark.parametrize("shared", [False, True])
    def test_so_are_items(self, tasks: int, shared: bool) -> None:
        study = Study()
        passages = [f"text {item // 4}" for item in range(80)] if shared else None
        for task in range(tasks):
            study.items(
                "left", (DRAW.uniform(size=80) < 0.9).astype(float), task=f"t{task}", passages=passages
            )
            study.items(
                "right", (DRAW.uniform(size=80) < 0.3).astype(float), task=f"t{task}", passages=passages
            )
        for variant, kl in (("left", 2.0), ("right", 1.0)):
            study.windows(variant, kl=kl * DRAW.normal(1, 0.01, 8))
        (pair,) = study.find(hypothesis("accuracy, kl_ratio"))["reversals"]
        assert pair["p"] == pytest.approx(study.verdict(hypothesis("accuracy"))["p"])


# -- properties

RATIOS = (Measure.KL_RATIO, Measure.PPL_RATIO)
COMPARED = [str(measure) for measure in Measure if measure is not Measure.SIZE_MIB]
CELLS = st.lists(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8), min_size=1, max_size=3)


def drawn(cells: list[list[float]], seed: int) -> Study:
    """Return a study of two models with all figures, from a few numbers; some are alike, some cells are small."""
    study, draw = Study(), np.random.default_rng(seed)
    for model in ("m", "n"):
        for number, values in enumerate(cells):
            for side in ("left", "right"):
                noise = np.asarray(values) * draw.choice([0, 1, 1], len(values))
                study.windows(
                    side, noise, model=model, language=f"l{number}", kl=np.exp(noise).tolist(),
                    top1=np.clip(90 + noise, 0, 100).astype(int).tolist(), noise=np.exp(-noise).tolist(),
                )  # fmt: skip
                scores = (noise > 0).astype(float)
                study.items(
                    side,
                    scores,
                    model=model,
                    task=f"t{number}",
                    choices=np.stack([noise, -noise], axis=1).tolist(),
                )
    return study


CLAIMS = [
    *(hypothesis(metric, name=metric) for metric in COMPARED),
    hypothesis("kl_ratio", name="of models", generalize=Level.MODELS),
    hypothesis("top1", name="of languages", generalize=Level.LANGUAGES),
    hypothesis("bits_per_byte", name="by", by=By.LANGUAGE),
    hypothesis("kl_ratio, accuracy", name="orders"),
]


@settings(max_examples=8)
@given(CELLS, st.integers(0, 99))
def test_a_figure_is_finite_or_there_is_a_reason(cells: list[list[float]], seed: int) -> None:
    found = drawn(cells, seed).find(*CLAIMS)
    for row in (*found["hypotheses"], *found["hypothesis_rows"]):
        figures = [row[name] for name in ("estimate", "low", "high")]
        if row["estimate"] is None:
            assert row["reason"]
        else:
            assert all(map(math.isfinite, figures))
            assert row["low"] <= row["estimate"] <= row["high"]
        assert row["p"] is None or 0 <= row["p"] <= 1


@settings(max_examples=8)
@given(CELLS, st.integers(0, 99), st.sampled_from(COMPARED))
def test_to_exchange_left_and_right_mirrors_the_estimate(
    cells: list[list[float]], seed: int, metric: str
) -> None:
    study = drawn(cells, seed)
    there, back = (
        study.verdict(hypothesis(metric, against(*sides))) for sides in (("left", "right"), ("right", "left"))
    )
    if there["estimate"] is None:
        assert (there["reason"], back["estimate"]) == (back["reason"], None)
        return
    mirrored = [1 / back[name] if metric in RATIOS else -back[name] for name in ("high", "estimate", "low")]
    assert [there[name] for name in ("low", "estimate", "high")] == pytest.approx(
        mirrored, rel=1e-9, abs=1e-12
    )
    assert there["p"] == pytest.approx(back["p"])
    opposite = {"supported": "contradicted", "contradicted": "supported"}
    assert back["verdict"] == opposite.get(there["verdict"], there["verdict"])


@settings(max_examples=4)
@given(CELLS, st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(cells: list[list[float]], seed: int) -> None:
    study = drawn(cells, seed)
    expected = study.find(*CLAIMS)
    with study.database(np.random.default_rng(seed)) as connection:
        assert tables(connection, CLAIMS, {}) == expected


def test_nor_does_what_trials_of_an_earlier_version_lack() -> None:
    """They have no bytes, documents and passages: these are the same for every trial of a model."""
    study = Study()
    passages = [f"text {item // 2}" for item in range(12)]
    for variant in ("left", "right"):
        study.windows(variant, EN)
        study.items(variant, (EN > 0).astype(float), passages=passages)
    study.windows("old", DE[:12], bytes=[None] * 12, document=[None] * 12)
    study.items("old", (DE[:12] > 0).astype(float))
    claims = [
        hypothesis(metric, against("left", ("right", "old")), name=metric)
        for metric in ("bits_per_byte", "accuracy")
    ]
    expected = study.find(*claims)
    assert [row["units"] for row in expected["hypotheses"]] == [12, 6]
    for seed in range(4):
        with study.database(np.random.default_rng(seed)) as connection:
            assert tables(connection, claims, {}) == expected
