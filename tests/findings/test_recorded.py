"""Two real studies, recorded: SmolLM2-135M in seven languages, and the embedded study with the paper's claims.

Every estimate, interval and p is computed again from the rows of the database, by scipy and statsmodels.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from studyctl.contract.hypotheses import By, PlannedHypothesis, Sides, Verdict
from studyctl.contract.plan import VERSION, read_plan, write_plan
from studyctl.files import StudyPaths
from studyctl.run.trust import remember
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.query import open_reader
from studyctl.store.results import HypothesisResult, HypothesisRow, Results
from tests.findings.studies import hypothesis
from tests.tui.studies import RECORDED as SEVEN_LANGUAGES

POCKET = Path(__file__).parent / "recorded" / "pocket"
PRUNED, QUANTIZED = ("sparsegpt-0.5", "wanda-0.5"), ("gptq-4bit-g64", "awq-4bit-g64")


def publication(folder: Path, recorded: Path, *hypotheses: PlannedHypothesis) -> StudyPaths:
    """Publish a recording, with other hypotheses than its own if these are named."""
    paths = StudyPaths(shutil.copytree(recorded, folder / "pocket"))
    remember([paths])
    if hypotheses:
        planned = read_plan(paths)
        assert planned is not None
        write_plan(replace(planned, hypotheses=hypotheses, version=VERSION), paths)
    publish(paths)
    return paths


def windows(paths: StudyPaths, column: str) -> dict[tuple[str, str], np.ndarray]:
    """Return a column by variant and language, in the order of the windows."""
    with open_reader(paths) as connection:
        rows = connection.execute(
            f'SELECT variant, language, list({column} ORDER BY "window") FROM windows GROUP BY ALL'
        ).fetchall()
    return {(variant, language): np.array(values, float) for variant, language, values in rows}


def scores(paths: StudyPaths, task: str) -> dict[str, np.ndarray]:
    """Return whether each item is right, by variant."""
    with open_reader(paths) as connection:
        rows = connection.execute(
            "SELECT variant, list(correct ORDER BY item) FROM items WHERE task = ? GROUP BY ALL", [task]
        ).fetchall()
    return {variant: np.array(values, float) for variant, values in rows}


class TestSevenLanguages:
    """A hypothesis by language: each is a paired t test, and Holm is over them."""

    @pytest.fixture(scope="class")
    def paths(self, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
        sides = Sides(("gptq-4bit-g64",), ("sparsegpt-0.5",))
        return publication(
            tmp_path_factory.mktemp("seven"),
            SEVEN_LANGUAGES,
            replace(hypothesis("ppl_ratio", sides, name="each"), by=By.LANGUAGE),
        )

    @pytest.fixture
    def opened(self, paths: StudyPaths) -> Iterator[Results]:
        with results.open(paths) as opened:
            yield opened

    def test_each_language_is_the_paired_test_of_statsmodels(
        self, paths: StudyPaths, opened: Results
    ) -> None:
        nll, tokens = windows(paths, "nll_nats"), windows(paths, "tokens")
        rows = {row.subject: row for row in opened.hypothesis_rows("each") if row.kind == By.LANGUAGE}
        assert len(rows) == 7
        p = []
        for language, row in rows.items():
            size = tokens["dense", language]
            assert len(set(size)) == 1  # windows of one length: the ratio of sums is the mean
            change = (nll["gptq-4bit-g64", language] - nll["sparsegpt-0.5", language]) / size[0]
            described = DescrStatsW(change)
            assert row.estimate == pytest.approx(math.exp(described.mean))
            assert (row.low, row.high) == pytest.approx(tuple(map(math.exp, described.tconfint_mean())))
            p.append(described.ttest_mean()[1])
            assert row.p == pytest.approx(p[-1])
        adjusted = multipletests(p, method="holm")[1]
        assert [row.p_adjusted for row in rows.values()] == pytest.approx(list(adjusted))


class TestPocket:
    """The claims that ship with the embedded study."""

    @pytest.fixture(scope="class")
    def paths(self, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
        return publication(tmp_path_factory.mktemp("embedded"), POCKET)

    @pytest.fixture
    def opened(self, paths: StudyPaths) -> Iterator[Results]:
        with results.open(paths) as opened:
            yield opened

    @staticmethod
    def of(opened: Results, name: str) -> tuple[HypothesisResult, list[HypothesisRow]]:
        row = next(row for row in opened.hypotheses() if row.name == name)
        return row, opened.hypothesis_rows(name)

    def test_bits_per_byte_of_a_language_by_the_delta_method(
        self, paths: StudyPaths, opened: Results
    ) -> None:
        nll, size = windows(paths, "nll_nats"), windows(paths, "bytes")
        result, rows = self.of(opened, "quantization-each-language")
        assert result.verdict == Verdict.SUPPORTED
        for row in (row for row in rows if row.kind == By.LANGUAGE):
            language = row.subject
            left, right = (
                np.mean([nll[variant, language] for variant in side], axis=0) for side in (QUANTIZED, PRUNED)
            )
            bits, byte_counts = (left - right) / math.log(2), size["dense", language]
            estimate = bits.sum() / byte_counts.sum()
            # A ratio of means has the variance of its linear part (Cochran 1977): a t test of d - r·s against 0.
            linear = stats.ttest_1samp(bits - estimate * byte_counts, 0).confidence_interval(0.95)
            half = (linear.high - linear.low) / 2 / byte_counts.mean()
            assert row.estimate == pytest.approx(estimate)
            assert (row.low, row.high) == pytest.approx((estimate - half, estimate + half))

    def test_distance_to_dense_over_windows_has_satterthwaites_interval(
        self, paths: StudyPaths, opened: Results
    ) -> None:
        kl, tokens = windows(paths, "kl_nats"), windows(paths, "tokens")
        result, _ = self.of(opened, "wanda-behind")
        logs, variances = [], []
        for language in ("ar", "de", "en", "zh"):
            wanda, sparsegpt = (kl[variant, language] for variant in ("wanda-0.5", "sparsegpt-0.5"))
            assert len(set(tokens["dense", language])) == 1
            logs.append(math.log(wanda.mean() / sparsegpt.mean()))
            influence = wanda / wanda.mean() - sparsegpt / sparsegpt.mean()
            variances.append(stats.sem(influence) ** 2)
        freedom = sum(variances) ** 2 / sum(variance**2 / 9 for variance in variances)
        t = stats.t(freedom, np.mean(logs), math.sqrt(sum(variances)) / 4)
        assert result.estimate == pytest.approx(math.exp(np.mean(logs)))
        assert (result.low, result.high) == pytest.approx(tuple(map(math.exp, t.interval(0.95))))
        assert result.p == pytest.approx(2 * t.cdf(0), rel=1e-6)

    def test_languages_are_a_one_sample_t_test_of_their_means(self, opened: Results) -> None:
        _, rows = self.of(opened, "wanda-behind")
        of_languages = [math.log(row.estimate) for row in rows if row.kind == By.LANGUAGE and row.estimate]
        level = next(row for row in rows if (row.kind, row.subject) == ("level", "languages"))
        test = stats.ttest_1samp(of_languages, 0)
        assert level.p == pytest.approx(test.pvalue)
        assert (level.low, level.high) == pytest.approx(tuple(map(math.exp, test.confidence_interval(0.95))))

    def test_the_accuracy_of_one_task_has_mcnemars_p(self, tmp_path: Path) -> None:
        sides = Sides(("awq-4bit-g64",), ("sparsegpt-0.5",))
        paths = publication(
            tmp_path, POCKET, hypothesis("accuracy:pocket_science_easy", sides, name="one-task")
        )
        right = scores(paths, "pocket_science_easy")
        left, other = right["awq-4bit-g64"], right["sparsegpt-0.5"]
        table = [[int(((left == a) & (other == b)).sum()) for b in (1, 0)] for a in (1, 0)]
        expected = mcnemar(table, exact=False, correction=False).pvalue
        with results.open(paths) as opened:
            (result,) = opened.hypotheses()
        assert result.p == pytest.approx(expected)
        assert result.estimate == pytest.approx(left.mean() - other.mean())

    def test_the_family_is_adjusted_by_holm(self, opened: Results) -> None:
        family = [row for row in opened.hypotheses() if row.p is not None]
        adjusted = multipletests([row.p for row in family], method="holm")[1]
        assert [row.p_adjusted for row in family] == pytest.approx(list(adjusted))

    def test_it_was_declared_before_its_results(self, opened: Results) -> None:
        assert {row.confirmatory for row in opened.hypotheses() if row.estimate is not None} == {True}
