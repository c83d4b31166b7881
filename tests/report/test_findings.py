"""What `studyctl findings` and `studyctl contrast` print: verdicts, their figures, and for which population they stand."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.cli import app
from studyctl.contract.hypotheses import (
    Alternative,
    Level,
    Measure,
    Metric,
    PlannedHypothesis,
    Sides,
    Verdict,
)
from studyctl.errors import StudyError
from studyctl.journal.hypotheses import declare, declared
from studyctl.report import findings as report
from studyctl.store import results
from studyctl.store.publish import publish
from studyctl.store.results import HypothesisResult, Results
from tests.store.builder import FakeStudy

SIDES = (Sides(("rtn-4bit-g64",), ("wanda-0.5",)),)


def hypothesis(name: str, measure: Measure, **changes: object) -> PlannedHypothesis:
    values = {"claim": f"The claim of {name}.", "pairs": SIDES, "margin": measure.margin, **changes}
    return PlannedHypothesis(name=name, hash=f"hash-of-{name}", metrics=(Metric(measure),), **values)  # type: ignore[arg-type]


HYPOTHESES = (
    hypothesis("fewer-bits", Measure.BITS_PER_BYTE),
    hypothesis("worse-accuracy", Measure.ACCURACY, alternative=Alternative.WORSE),
    hypothesis("everywhere", Measure.BITS_PER_BYTE, generalize=Level.MODELS),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FakeStudy:
    study = FakeStudy(
        tmp_path_factory.mktemp("findings") / "small", models=("org/alpha",), hypotheses=HYPOTHESES
    )
    study.write_plan()
    declare(study.paths, (HYPOTHESES[0], HYPOTHESES[2]))
    study.write_all()
    declare(study.paths, HYPOTHESES)
    publish(study.paths)
    return study


@pytest.fixture
def opened(study: FakeStudy) -> Iterator[Results]:
    with results.open(study.paths) as opened:
        yield opened


def printed(opened: Results, width: int = 200, **options: bool) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    report.show_findings(opened, console, **options)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_each_hypothesis_has_its_verdict_its_claim_and_its_figures(opened: Results) -> None:
    blocks = printed(opened).split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "✓ supported  fewer-bits  confirmatory",
        "✗ contradicted  worse-accuracy  exploratory",
        "– cannot be tested  everywhere  confirmatory",
    ]
    assert blocks[0].splitlines()[1] == "  The claim of fewer-bits."
    assert re.match(
        r"  −0\.089 bits per byte, 95 % interval −0\.089 to −0\.089 over 12 windows of 3 languages; p < 0\.0001",
        blocks[0].splitlines()[2],
    )
    assert blocks[2].splitlines()[2] == "  cannot be tested: 1 model, 3 are needed"


def test_rows_show_every_level_and_language(opened: Results) -> None:
    text = printed(opened, rows=True)
    assert re.search(r"language:\n    en  −0\.0\d+  \[.*\]\n    sw", text)
    assert re.search(r"left out:\n    en  −0\.", text)


def test_narrow_terminals_lose_nothing(opened: Results) -> None:
    words = " ".join(printed(opened, 40).split())
    assert "cannot be tested: 1 model, 3 are needed" in words


def test_json_has_every_table(opened: Results) -> None:
    first, *_ = report.as_json(opened)["hypotheses"]  # type: ignore[misc]
    json.dumps(first)
    assert first["verdict"] == "supported"
    assert {row["kind"] for row in first["rows"]} >= {"level", "language", "without"}
    assert [trial["variant"] for trial in first["trials"]] == ["rtn-4bit-g64", "wanda-0.5"]
    assert first["reversals"] == []


def test_strict_counts_all_but_exploratory_ones(opened: Results) -> None:
    assert report.not_supported(opened.hypotheses()) == ["everywhere"]


def test_the_command_exits_with_1_in_strict(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert app(["findings", str(study.root)], standalone_mode=False) in (None, 0)
    assert app(["findings", str(study.root), "--strict"], standalone_mode=False) == 1
    assert "not supported: everywhere" in capsys.readouterr().err


def test_a_hypothesis_is_recorded_once_with_its_first_time(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "study")
    study.root.mkdir()
    declare(study.paths, HYPOTHESES[:1])
    first = declared(study.paths)
    declare(study.paths, HYPOTHESES)
    declare(study.paths, HYPOTHESES)
    assert declared(study.paths)["hash-of-fewer-bits"] == first["hash-of-fewer-bits"]
    assert len(study.paths.hypotheses.read_text().splitlines()) == 3


def test_a_torn_last_record_is_written_again(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "study")
    study.root.mkdir()
    declare(study.paths, HYPOTHESES)
    whole = study.paths.hypotheses.read_bytes()
    study.paths.hypotheses.write_bytes(whole[:-10])
    declare(study.paths, HYPOTHESES)
    assert set(declared(study.paths)) == {f"hash-of-{row.name}" for row in HYPOTHESES}


# -- sentences

PLAIN = HypothesisResult(
    name="n", claim="c", metric="kl_ratio", family="main", alternative="better", generalize="windows", margin=0.05,
    declared=None, confirmatory=True, estimate=0.293, low=0.275, high=0.312, p=1e-6, p_adjusted=2e-6, verdict=Verdict.SUPPORTED,
    reason=None, units=40, languages=4, models=1, models_holding=1, needed_windows=None, needed_languages=None,
    needed_models=None, calibration_draws=None, notes=[],
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "0.293 times the KL, 95 % interval 0.275 to 0.312 over 40 windows of 4 languages; p < 0.0001 after Holm"),
        (
            {"metric": "accuracy", "estimate": -0.031, "low": -0.092, "high": 0.029, "p": 0.31, "p_adjusted": 0.31,
             "units": 96, "languages": 2, "needed_windows": 302, "verdict": Verdict.UNDECIDED},
            "−0.031 accuracy, 95 % interval −0.092 to +0.029 over 96 items of 2 tasks; p = 0.31; "
            "about 302 items a task would decide it",
        ),
        (
            {"generalize": "models", "models": 5, "models_holding": 4, "calibration_draws": 1, "p_adjusted": 1e-6},
            "0.293 times the KL, 95 % interval 0.275 to 0.312 for other models (4 languages and 5 models); p < 0.0001; "
            "holds in 4 of 5 models; one calibration draw",
        ),
        (
            {"metric": "kl_ratio, accuracy", "estimate": 1 / 3, "low": 1 / 3, "high": 1.0, "p_adjusted": None,
             "reason": "of 6 pairs of variants 4 surely agree", "verdict": Verdict.UNDECIDED},
            "Kendall's tau 0.33, between 0.33 and 1.00; of 6 pairs of variants 4 surely agree",
        ),
        ({"verdict": Verdict.UNTESTABLE, "reason": "2 models, 3 are needed"}, "cannot be tested: 2 models, 3 are needed"),
        ({"metric": "size_mib", "estimate": -148.3, "p_adjusted": None}, "−148 MiB"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_interval_is_about(changes: dict[str, object], sentence: str) -> None:
    assert report.sentence(PLAIN._replace(**changes)) == sentence  # type: ignore[arg-type]


# -- contrast


def contrasted(opened: Results, left: str, right: str, **options: str) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    report.contrast(opened, left, right, console, **options)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def test_two_methods_by_every_metric(opened: Results) -> None:
    text = contrasted(opened, "rtn", "wanda")
    assert text.startswith("rtn-4bit-g64  against  wanda-0.5\n")
    assert [line.split()[0] for line in text.splitlines() if line and line[0] != " "][1:] == [
        "bits_per_byte", "kl_ratio", "top1", "snr", "accuracy", "gold_nats", "size_mib"
    ]  # fmt: skip
    assert "gold_nats  cannot be tested: " in text


def test_one_language(opened: Results) -> None:
    text = contrasted(opened, "rtn*", "wanda*", language="sw")
    assert "over 4 windows of sw" in text
    assert "accuracy" not in text
    with pytest.raises(StudyError, match="`swa` is not measured"):
        contrasted(opened, "rtn", "wanda", language="swa")


def test_what_is_not_there_is_named(opened: Results) -> None:
    with pytest.raises(StudyError, match="no method or variant is called `wand`") as error:
        contrasted(opened, "rtn", "wand")
    assert "wanda" in error.value.problems[0].hint
    with pytest.raises(StudyError, match="on both sides"):
        contrasted(opened, "rtn", "*")
