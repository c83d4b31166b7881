"""Verdicts in a published study, and beside the other tables that say the same."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studyctl.contract.plan import write_plan
from studyctl.journal.hypotheses import declare
from studyctl.journal.index import Index
from studyctl.store import results
from studyctl.store.intervals import intervals
from studyctl.store.planned import read_planned
from studyctl.store.publish import publish
from studyctl.store.results import HypothesisResult
from studyctl.store.task_items import task_pairs
from tests.findings.studies import Study, against, hypothesis
from tests.store.builder import RATIOS, TOKENS, WORSE, FakeStudy

RTN, WANDA = "rtn-4bit-g64", "wanda-0.5"
CLAIMS = [
    hypothesis("bits_per_byte", against(RTN, WANDA), name="less"),
    hypothesis("kl_ratio", against(RTN, WANDA), name="closer"),
    hypothesis("accuracy:arc_easy", against(RTN, WANDA), name="right"),
    hypothesis("size_mib", against(RTN, WANDA), name="smaller"),
    hypothesis("kl_ratio, accuracy", name="orders"),
]


Found = dict[str, HypothesisResult]


def published(folder: Path, *, declared_first: bool) -> Found:
    study = FakeStudy(folder / "small")
    study.root.mkdir(parents=True)
    if declared_first:
        declare(study.paths, CLAIMS)
    study.write_all()
    declare(study.paths, CLAIMS)
    planned = read_planned(study.paths, Index(study.paths).refresh())
    write_plan(replace(planned, hypotheses=tuple(CLAIMS)), study.paths)
    publish(study.paths)
    with results.open(study.paths) as opened:
        return {row.name: row for row in opened.hypotheses()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Verdicts of a study that ran before it had hypotheses."""
    return published(tmp_path_factory.mktemp("later"), declared_first=False)


class TestPublished:
    def test_verdicts_are_those_of_the_figures(self, found: Found) -> None:
        """By hand from the builder's formulas: each window of 100 tokens and 500 bytes loses the logarithm of the ratios a token."""
        nats = [math.log(RATIOS[RTN] / RATIOS[WANDA]) for _ in WORSE]
        assert found["less"].verdict == "supported"
        assert found["less"].estimate == pytest.approx(np.mean(nats) * TOKENS / 500 / math.log(2))
        assert (found["less"].models, found["less"].languages, found["less"].units) == (2, 3, 24)
        assert (found["closer"].verdict, found["closer"].estimate) == (
            "no difference beyond the margin",
            pytest.approx(1),
        )
        assert (found["smaller"].verdict, found["smaller"].reason) == (
            "cannot be tested",
            "no size is known of both sides",
        )
        assert found["orders"].verdict == "undecided"

    def test_items_of_a_passage_are_one_unit(self, found: Found) -> None:
        """Wanda loses items 0 to 5 and wins 12, rtn loses 0 and wins 13; two items each are about one text."""
        row = found["right"]
        changes = np.zeros(20)
        changes[[1, 2, 3, 4, 5, 13]], changes[12] = 1, -1
        sums = (changes - changes.mean()).reshape(10, 2).sum(axis=1)
        error = math.sqrt(2 * 10 / 9 * (sums**2).sum()) / 20 / 2  # of the mean of two models that are alike
        assert row.estimate == pytest.approx(0.25)
        assert row.p == pytest.approx(2 * stats.norm.sf(0.25 / error))

    def test_it_is_confirmatory_if_the_journal_has_it_first(self, found: Found, tmp_path: Path) -> None:
        tested = ("less", "closer", "right", "orders")
        assert {found[name].confirmatory for name in tested} == {False}
        first = published(tmp_path, declared_first=True)
        assert {first[name].confirmatory for name in tested} == {True}
        assert found["less"].declared is not None


def made() -> Study:
    """A study of dense and two variants with noise: windows of other lengths, documents, items."""
    draw, study = np.random.default_rng(8), Study()
    for variant in ("dense", "left", "right"):
        for language in ("en", "de"):
            tokens = np.random.default_rng(len(language)).integers(60, 100, 12)
            study.windows(
                variant, draw.normal(0, 3, 12), language=language, tokens=tokens.tolist(), bytes=(4 * tokens + 3).tolist(),
                kl=None if variant == "dense" else draw.lognormal(0, 0.4, 12),
            )  # fmt: skip
        for task in ("arc", "boolq"):
            study.items(variant, (draw.uniform(size=40) < 0.6).astype(float), task=task)
    return study


def test_against_dense_they_are_the_intervals() -> None:
    """Two programs with the same closed forms: one in SQL for every variant against dense, one for any two sides."""
    study = made()
    with study.database() as connection:
        rows = intervals(connection, task_pairs(connection), frozenset())
        expected = {
            (row["variant"], row["measure"], row["subject"]): (row["low"], row["high"]) for row in rows
        }
    sides = against("left", "dense")
    row = study.verdict(hypothesis("bits_per_byte", sides))
    assert (row["low"], row["high"]) == pytest.approx(expected["left", "bits_per_byte_change", None])
    row = study.verdict(hypothesis("accuracy", sides))
    assert (row["low"], row["high"]) == pytest.approx(expected["left", "main", None])
    parts = study.parts(hypothesis("ppl_ratio", sides))
    for language in ("en", "de"):
        part = parts["language", language]
        assert (part["low"], part["high"]) == pytest.approx(expected["left", "ppl_ratio", language])
    for task in ("arc", "boolq"):
        row = study.verdict(hypothesis(f"accuracy:{task}", sides))
        assert (row["low"], row["high"]) == pytest.approx(expected["left", "acc", task])


@pytest.mark.parametrize("metric", ["bits_per_byte", "kl_ratio"])
def test_of_two_trials_they_are_the_view_contrasts(metric: str) -> None:
    """Whose Student's t is an expansion, within 0.2 %."""
    study = made()
    name = "kl_ratio" if metric == "kl_ratio" else "bits_per_byte_change"
    with study.database() as connection:
        rows = connection.execute(
            f"SELECT language, {name}_low, {name}, {name}_high FROM contrasts WHERE variant = 'left' AND other_variant = 'right'"
        ).fetchall()
    parts = study.parts(hypothesis(metric))
    assert len(rows) == 2
    for language, *figures in rows:
        part = parts["language", language]
        assert [part["low"], part["estimate"], part["high"]] == pytest.approx(figures, rel=0.002)


def test_the_rows_say_the_same_to_pandas() -> None:
    """A reader's own way from the table ``windows`` to the estimate of each language, its p by a jackknife over windows."""
    study = made()
    with study.database() as connection:
        windows = pd.DataFrame(connection.table("windows").fetchnumpy())
    parts = study.parts(hypothesis("bits_per_byte"))
    for language, of_language in windows.groupby("language"):
        nll = of_language.pivot_table(index="window", columns="variant", values="nll_nats")
        sizes = of_language[of_language.variant == "left"].set_index("window")["bytes"]
        bits = (nll["left"] - nll["right"]) / math.log(2)
        without = (bits.sum() - bits) / (sizes.sum() - sizes)
        error = math.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum())
        part = parts["language", str(language)]
        assert part["estimate"] == pytest.approx(bits.sum() / sizes.sum())
        assert part["p"] == pytest.approx(2 * stats.t.sf(abs(bits.sum() / sizes.sum()) / error, 11), rel=0.02)
