"""The Findings screen: hypotheses with their verdicts, and everything that one of them rests on."""

import math
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from textual.pilot import Pilot

from studyctl.contract.hypotheses import (
    Alternative,
    By,
    Level,
    Measure,
    Metric,
    PlannedHypothesis,
    Sides,
    Verdict,
)
from studyctl.files import StudyPaths
from studyctl.journal.hypotheses import declare
from studyctl.spec.models import Hypothesis
from studyctl.store.live import Snapshot
from studyctl.store.publish import publish
from studyctl.store.results import HypothesisResult, HypothesisRow, HypothesisTrial, Reversal
from studyctl_tui.app import StudyApp
from studyctl_tui.findings.data import Finding, Findings
from studyctl_tui.findings.detail import detail
from studyctl_tui.findings.forest import Interval, Scale
from studyctl_tui.findings.screen import FindingsScreen
from studyctl_tui.findings.words import columns_for, line, missing
from studyctl_tui.shared.lines import LinesView
from studyctl_tui.shared.view import View
from tests.store.builder import FakeStudy
from tests.tui.app import settle, until
from tests.tui.test_compare import text_of

SIZES = [(60, 20), (80, 24), (120, 40)]
SIDES = (Sides(("rtn-4bit-g64",), ("wanda-0.5",)),)


def planned(name: str, measure: Measure, **changes: object) -> PlannedHypothesis:
    values = {"claim": f"The claim of {name}.", "pairs": SIDES, "margin": measure.margin, **changes}
    return PlannedHypothesis(name=name, hash=f"hash-of-{name}", metrics=(Metric(measure),), **values)  # type: ignore[arg-type]


HYPOTHESES = (
    planned("fewer-bits", Measure.BITS_PER_BYTE, by=By.LANGUAGE),
    planned("worse-accuracy", Measure.ACCURACY, alternative=Alternative.WORSE),
    planned("everywhere", Measure.BITS_PER_BYTE, generalize=Level.MODELS),
)


def study_with(root: Path, hypotheses: tuple[PlannedHypothesis, ...] = HYPOTHESES) -> FakeStudy:
    """A study of one model whose hypotheses are recorded before its results; not published."""
    study = FakeStudy(root, models=("org/alpha",), hypotheses=hypotheses)
    study.root.mkdir()
    declare(study.paths, hypotheses)
    return study.write_all()


async def shown(pilot: Pilot[str]) -> FindingsScreen:
    """Wait for the list."""
    app = await settle(pilot)
    screen = app.screen
    assert isinstance(screen, FindingsScreen)
    await until(pilot, lambda: screen._list.chosen is not None and "compared" in page(screen))
    await pilot.pause()
    return screen


def page(screen: FindingsScreen) -> str:
    return "\n".join(one.plain for one in screen.query_one(LinesView).lines)


def listed(screen: FindingsScreen) -> list[str]:
    lines = text_of(screen.study_app).splitlines()[2 : 2 + len(HYPOTHESES)]
    return [" ".join(one.split()) for one in lines]


@pytest.mark.parametrize("size", SIZES)
async def test_every_hypothesis_has_a_line_and_the_first_its_details(
    runs: Path, size: tuple[int, int]
) -> None:
    study = study_with(runs / "small")
    publish(study.paths)
    async with StudyApp("findings", study=study.paths).run_test(size=size) as pilot:
        screen = await shown(pilot)
        first, second, third = listed(screen)
        assert first.startswith("› ✓ supported fewer-bits")
        assert "−0.089" in first
        assert second.startswith("✗ contradicted worse-accuracy")
        assert third.startswith("– untestable everywhere")
        assert "1 model, 3 are needed" in third
        assert text_of(screen.study_app).splitlines()[1].strip() == (
            "3 hypotheses: 1 supported, 1 contradicted, 1 untestable"
        )
        if size[0] == 120:
            assert first == ("› ✓ supported fewer-bits bits_per_byte −0.089 ±0.000 p < 0.0001 confirmatory")
        words = " ".join(page(screen).split())
        assert words.startswith(
            "✓ supported fewer-bits confirmatory The claim of fewer-bits. −0.089 bits per byte"
        )
        assert "claim: left is better" in words
        assert "before the results" in words
        assert "compared rtn-4bit-g64 against wanda-0.5" in words


async def test_the_details_follow_the_cursor_from_their_top(runs: Path) -> None:
    study = study_with(runs / "small")
    publish(study.paths)
    async with StudyApp("findings", study=study.paths).run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        await pilot.press("enter", "G")
        assert screen._lines.scroll_offset.y > 0
        await pilot.press("escape", "down")
        await until(pilot, lambda: "The claim of worse-accuracy." in page(screen))
        assert screen._lines.scroll_offset.y == 0
        assert listed(screen)[1].startswith("› ✗ contradicted")
        await pilot.press("y")
        assert screen.study_app.clipboard.startswith(
            "worse-accuracy: contradicted; +0.250 accuracy, 95 % interval"
        )


async def test_a_new_publication_is_shown_and_the_cursor_stays(runs: Path) -> None:
    study = study_with(runs / "small")
    publish(study.paths)
    async with StudyApp("findings", study=study.paths).run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        await pilot.press("down")
        study.hypotheses = (
            planned("new", Measure.TOP1), HYPOTHESES[0], planned("worse-accuracy", Measure.ACCURACY)
        )  # fmt: skip
        study.write_plan()
        publish(study.paths)
        screen.study_app.look()
        await until(pilot, lambda: "✓ supported worse-accuracy" in listed(screen)[2])
        assert listed(screen)[2].startswith("›")


async def test_findings_appear_when_the_first_results_are_published(runs: Path) -> None:
    study = study_with(runs / "small")
    async with StudyApp("findings", study=study.paths).run_test(size=(80, 24)) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "hint: " in text_of(app))
        publish(study.paths)
        app.look()
        await until(pilot, lambda: "✓ supported" in text_of(app))


async def test_a_study_without_hypotheses_says_how_to_write_one(runs: Path) -> None:
    study = study_with(runs / "small", hypotheses=())
    publish(study.paths)
    async with StudyApp("findings", study=study.paths).run_test(size=(60, 20)) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "[[hypotheses]]" in text_of(app))
        assert "This study has no hypotheses." in text_of(app)
        lines = [text.strip() for text in text_of(app).splitlines()]
        example = lines[lines.index("[[hypotheses]]") :][:5]
        assert example[3:] == ['left = { methods = "rtn" }', 'right = { methods = "wanda" }']
        (table,) = tomllib.loads("\n".join(example))["hypotheses"]
        assert Hypothesis.model_validate(table).name == "rtn-closer"


def test_the_example_of_a_study_with_one_method_names_two() -> None:
    view = View(StudyPaths(Path("runs/x")), Snapshot("x", "", ()))
    text = "\n".join(missing(Findings(methods=("rtn",)), None, view))
    assert 'left = { methods = "gptq" }' in text


# -- lines

RESULT = HypothesisResult(
    name="quantization-closer", claim="It is closer.", metric="kl_ratio", family="main", alternative="better",
    generalize=Level.WINDOWS, margin=0.05, declared=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), confirmatory=True, estimate=0.293, low=0.275,
    high=0.311, p=1e-6, p_adjusted=0.032, verdict=Verdict.SUPPORTED, reason=None, units=40, languages=4, models=1,
    models_holding=1, needed_windows=None, needed_languages=None, needed_models=None, calibration_draws=None,
    notes=["zh was left out"],
)  # fmt: skip


def row(kind: str, subject: str, *figures: float | None, **values: object) -> HypothesisRow:
    estimate, low, high = figures or (None, None, None)
    fields = dict.fromkeys(HypothesisRow._fields) | {
        "hypothesis": RESULT.name,
        "kind": kind,
        "subject": subject,
    }
    return HypothesisRow(**(fields | {"estimate": estimate, "low": low, "high": high} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (100, "✓ supported  quantization-closer  kl_ratio  0.293 ±0.018  p = 0.032  confirmatory"),
        (75, "✓ supported  quantization-closer  0.293 ±0.018  p = 0.032  confirmatory"),
        (70, "✓ supported  quantization-closer  0.29±0.02  p = 0.032  confirmatory"),
        (56, "✓ supported  quantization-closer  0.29±0.02  p = 0.032"),
        (42, "✓ supported  quantization-clos…  0.29±0.02"),
        (32, "✓ supported  quantizatio…  0.293"),
    ],
)
def test_a_line_loses_what_matters_least_first(width: int, text: str) -> None:
    findings = (Finding(RESULT),)
    assert line(findings[0], columns_for(findings, width), width).plain == text


@pytest.mark.parametrize(
    ("changes", "estimate"),
    [
        ({"metric": "bits_per_byte", "estimate": -0.3, "low": -0.35, "high": -0.25}, "−0.300 ±0.050"),
        ({"metric": "kl_ratio, accuracy", "estimate": 1 / 3, "low": 1 / 3, "high": 1.0}, "0.33 [0.33, 1.00]"),
        ({"metric": "size_mib", "estimate": -148.3, "low": None, "high": None}, "−148 MiB"),
    ],
)
def test_estimates_have_their_unit_or_interval(changes: dict[str, object], estimate: str) -> None:
    findings = (Finding(RESULT._replace(**changes)),)  # type: ignore[arg-type]
    assert f"  {estimate}  p" in line(findings[0], columns_for(findings, 120), 120).plain


FINDING = Finding(
    RESULT,
    (
        row("without", "en", 0.32, 0.30, 0.34),
        row("level", "windows", 0.293, 0.275, 0.312),
        row("level", "models", reason="1 model, 3 are needed"),
        row("language", "en", 0.22, 0.18, 0.27, verdict=Verdict.SUPPORTED, p_adjusted=0.004),
        row("language", "zh", 0.95, 0.85, 1.06, verdict=Verdict.UNDECIDED, p_adjusted=0.3),
        row("pair", "awq against wanda", 0.2, 0.18, 0.22),
        row("pair", "awq against rtn", 0.5, 0.45, 0.55),
    ),
    (
        HypothesisTrial(RESULT.name, 0, "left", "m.awq", "m", "awq", "awq-4bit", True, None),
        HypothesisTrial(RESULT.name, 0, "right", "m.wanda", "m", "wanda", "wanda-0.5", True, None),
        HypothesisTrial(RESULT.name, 0, "right", "m.rtn", "m", "rtn", "rtn-4bit", False, "it failed"),
    ),
    (Reversal(RESULT.name, "a", "b", "kl_ratio", -0.3, 0.001, "accuracy", -0.1, 0.004, 0.012),),
)


def test_the_details_have_every_part_in_its_place() -> None:
    lines = [one.plain.rstrip() for one in detail(FINDING, 100)]
    assert lines[0] == "✓ supported  quantization-closer  confirmatory"
    assert "after Holm; zh was left out" in " ".join(lines)
    headings = [one for one in lines if one and not one.startswith((" ", "›"))]
    assert headings[-6:] == [
        "for another sample of", "of each pair", "in each language", "without one of them", "compared",
        "surely in opposite orders",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert "awq better ◂│" in text
    assert any(one.startswith("› windows") and one.endswith("0.293 [0.275, 0.312]") for one in lines)
    assert any(one.split() == ["models", "1", "model,", "3", "are", "needed"] for one in lines)
    assert "  against wanda " in text
    assert "✓ supported, p = 0.004" in text
    assert "≈0.950 [0.850, 1.060]  ? undecided, p = 0.30" in text
    assert "awq-4bit against wanda-0.5 + rtn-4bit" in text
    assert "not m.rtn: it failed" in text
    assert "a is better than b by kl_ratio, and worse by accuracy; p = 0.012 after Holm" in text


@pytest.mark.parametrize("width", [40, 58, 78, 118])
def test_no_line_of_the_details_is_too_wide(width: int) -> None:
    assert [one.plain for one in detail(FINDING, width) if one.cell_length > width] == []


def test_the_bounds_of_tau_are_drawn_between_opposite_and_same_order() -> None:
    result = RESULT._replace(metric="kl_ratio, accuracy", estimate=0.0, low=-0.5, high=0.5)
    (bar,) = [one.plain for one in detail(Finding(result), 80) if "opposite" in one.plain]
    cells = bar.removeprefix(" opposite ").removesuffix(" same order")
    assert (cells.index("├"), cells.index("●"), cells.index("┤")) == (13, 26, 38)


# -- the plot


def test_bars_stand_on_one_scale_with_a_line_at_no_difference() -> None:
    below, across = Interval(-4.0, -3.0, -2.0), Interval(-1.0, 0.5, 1.0)
    scale = Scale.of([below, across], 11)
    assert (scale.low, scale.high) == (-4.0, 1.0)
    assert "".join(scale.bar(below)) == "├─●─┤   │  "
    assert "".join(scale.bar(across)) == "      ├─┼●┤"


def test_an_interval_far_wider_than_the_estimates_differ_is_cut() -> None:
    scale = Scale.of([Interval(-0.2, -0.1, 0.0), Interval(-9.0, -0.2, 9.0)], 31)
    assert (scale.low, scale.high) == pytest.approx((-0.4, 0.2))
    bar = "".join(scale.bar(Interval(-9.0, -0.2, 9.0)))
    assert (bar[0], bar[-1]) == ("◂", "▸")


def test_ratios_are_placed_by_their_logarithms() -> None:
    assert Interval.of_ratios(0.5, 1.0, 2.0) == pytest.approx((-math.log(2), 0.0, math.log(2)))
    assert Interval.of_ratios(0.0, 1.0, 2.0).low == -math.inf


def test_a_scale_of_nothing_is_drawn() -> None:
    assert Scale.of([], 5).empty() == [" ", " ", "│", " ", " "]
    assert "".join(Scale.of([Interval(0.0, 0.0, 0.0)], 5).bar(Interval(0.0, 0.0, 0.0))) == "  ●  "
