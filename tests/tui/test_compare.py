"""The Compare screen: what a user sees of variants against each other, and what the keys do."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from studyctl.store.comparison import Rank
from studyctl.store.publish import publish
from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl_tui.app import StudyApp
from studyctl_tui.compare.data import MAIN, Comparison, Line
from studyctl_tui.compare.figures import LANGUAGE_MEASURES, LanguageSheet, TaskSheet, task_measures
from studyctl_tui.compare.grid import CompareGrid, _on_two_lines
from studyctl_tui.compare.ranks import place
from studyctl_tui.compare.screen import CompareScreen
from studyctl_tui.compare.sheets import Scale
from studyctl_tui.compare.size import SIZE_MEASURES, RatioTicks, SizeSheet, _free
from studyctl_tui.monitor.screen import MonitorScreen
from studyctl_tui.shared.help import HelpScreen
from studyctl_tui.shared.variant_names import shortened
from studyctl_tui.themes import SIXTEEN
from tests.store import builder
from tests.store.builder import FakeStudy
from tests.store.timed import FILES, time_files
from tests.tui import studies
from tests.tui.app import settle, until

SMALL, LARGE = (80, 24), (160, 50)


def screen_of(app: StudyApp) -> CompareScreen:
    assert isinstance(app.screen, CompareScreen)
    return app.screen


def grid_of(app: StudyApp) -> CompareGrid:
    return screen_of(app)._part.grid


def text_of(app: StudyApp) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def line_with(app: StudyApp, start: str) -> str:
    lines = [line for line in text_of(app).splitlines() if line.lstrip().startswith(start)]
    assert lines, text_of(app)
    return " ".join(lines[0].split())


def labels(app: StudyApp) -> list[str]:
    sheet = grid_of(app).sheet
    return [line.label for line in sheet.lines] if sheet else []


async def shown(pilot: Pilot[str]) -> StudyApp:
    """Wait for the results."""
    app = await settle(pilot)
    await until(pilot, lambda: screen_of(app)._comparison is not None and grid_of(app).has_focus)
    await pilot.pause()
    return app


async def agreement(pilot: Pilot[str]) -> StudyApp:
    """Go to the part of backends, and wait for its lines."""
    app = await shown(pilot)
    await pilot.press("left_square_bracket")
    await until(pilot, lambda: len(labels(app)) > 1 and screen_of(app)._part.NAME == "Agreement")
    return app


@pytest.fixture
def finished(runs: Path) -> FakeStudy:
    return studies.finished(runs / "small")


def compare(study: FakeStudy) -> StudyApp:
    return StudyApp("compare", study=study.paths)


# -- the parts


async def test_languages_show_changes_with_steps_the_mean_and_the_worst_language(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert (
            line_with(app, "wanda-0.5")
            == "wanda-0.5 +0.117 ±0.000▃ +0.170 ±0.000▃! +0.144 ±0.000▃ +0.144 ±0.000▃"
        )
        assert line_with(app, "rtn-4bit-g64").startswith("rtn-4bit-g64 +0.028 ±0.000▂ +0.080 ±0.000▂! +0.055")
        assert "! worst per byte ≈ unsure (95 %) ▁ ≤+0.02" in line_with(app, "Languages: bits/byte change")
        await pilot.press("p", "p")
        assert line_with(app, "wanda-0.5").startswith(
            "wanda-0.5 1.500 ±0.000▅ 1.800 ±0.000▅! 1.650 ±0.000▅ 1.645"
        )
        await pilot.resize_terminal(60, 24)
        await until(pilot, lambda: line_with(app, "wanda-0.5") == "wanda-0.5 1.500▅ 1.800▅! 1.650▅ 1.645▅")
        assert labels(app) == ["wanda-0.5", "rtn-4bit-g64"]  # dense is what they are compared with


async def test_tasks_show_the_change_of_accuracy_and_its_mean(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("tab")
        assert "* p < 0.05 ~ at chance ≈ unsure" in line_with(app, "Tasks: accuracy change")
        # Of 20 items 6 are lost and 1 is won: that may be chance in one task, and is not in the mean of two.
        assert "wanda-0.5 −0.250 ±0.386≈~ −0.250 ±0.386≈~ −0.250 ±0.237▇" in " ".join(text_of(app).split())
        await pilot.press("right")
        assert "6 turned wrong and 1 right of 20, p = 0.12" in " ".join(text_of(app).split())


def test_a_figure_without_an_interval_says_why_under_the_cursor() -> None:
    values = dict.fromkeys(LanguageResult._fields) | {"trial_id": "m.a", "variant": "a", "language": "en"}
    row = LanguageResult(**(values | {"perplexity": 22.0, "ppl_ratio": 1.1}))
    comparison = Comparison(languages=("en",), perplexity={("m.a", "en"): row}, trials=(trial("a"),))
    line = Line("m.a", "a", trial("a"))
    sheet = LanguageSheet(comparison, [line], LANGUAGE_MEASURES[2])
    assert sheet.says(line, "en").endswith(
        "no interval: fewer than 4 windows or items, or measured by an earlier version"
    )
    assert sheet.cell(line, "en").spread == ""


def test_a_change_that_is_hardly_chance_has_a_star() -> None:
    def result(p: float) -> TaskResult:
        return TaskResult(
            "m.a",
            "m",
            "a",
            "a",
            "boolq",
            "acc",
            True,
            True,
            0.4,
            0.1,
            0.6,
            -0.2,
            -0.3,
            -0.1,
            100,
            22,
            2,
            p,
            0.5,
            True,
            "sw",
        )

    for p, star in ((0.049, "*"), (0.05, " ")):
        comparison = Comparison(
            tasks=("boolq",), scores={("m.a", "boolq", MAIN): result(p)}, trials=(trial("a"),)
        )
        line = Line("m.a", "a", trial("a"))
        sheet = TaskSheet(comparison, [line], task_measures(comparison)[0])
        assert sheet.cell(line, "boolq").mark == star
        assert sheet.headers == {"boolq": "boolq (sw)"}


def trial(variant: str, **figures: Any) -> Standing:
    values = dict.fromkeys(Standing._fields) | {
        "trial_id": f"m.{variant}",
        "model": "m",
        "variant": variant,
    }
    return Standing(**(values | figures))


async def test_disagreement_shows_tau_and_who_is_placed_differently(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = several(runs / "several", monkeypatch)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("tab", "tab")
        text = " ".join(text_of(app).split())
        assert "Disagreement: Kendall's tau-b" in text
        assert "a-1 is 1st by bits/byte and 4th by mean accuracy (of 4)" in text
        await pilot.press("down", "down", "ctrl+right")
        assert "bits/byte and boolq: tau-b −1.000 over 4 variants" in " ".join(text_of(app).split())
        assert "a-1 is 1st by bits/byte and 4th by boolq (of 4)" in text_of(app)
        await pilot.press("p")
        assert line_with(app, "a-1").startswith("a-1 1▁= 1▁ 1▁ 4▇ 4▇ 4▇")


async def test_size_shows_letters_and_the_pareto_line(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press(*["left_square_bracket"] * 3)
        await pilot.pause()
        text = text_of(app)
        assert "Size: ppl ratio by bits a weight" in text
        assert line_with(app, "Size").endswith("◆ Pareto")
        legend = [" ".join(line[41:].split()) for line in text.splitlines()]
        assert "a dense 16.00 1.000 ◆" in legend
        assert "c rtn-4bit-g64 4.31 1.207 ±0.000 ◆" in legend
        assert "b wanda-0.5 9.00 1.645 ±0.000" in legend
        assert all(any(f" {letter}" in line[:41] for line in text.splitlines()) for letter in "abc")
        assert "×1.5" in text
        await pilot.press("p", "p")
        await pilot.pause()
        assert "Size: accuracy by bits a weight" in text_of(app)


def test_size_is_that_of_the_file_where_every_measured_trial_has_one() -> None:
    dense = trial("dense", acc=0.7, size_mib=300.0, file_mib=310.0)
    rtn = trial("rtn", acc=0.6, size_mib=99.0, file_mib=104.0, bits_per_weight=4.25)
    ordered = trial(
        "ordered", acc=0.65, size_mib=98.0, why_no_file="its groups follow the order of activations"
    )
    waiting = trial("waiting", size_mib=97.0)

    def sheet(*trials: Standing) -> SizeSheet:
        lines = [Line(one.trial_id, one.variant, one) for one in trials]
        return SizeSheet(Comparison(trials=trials), lines, SIZE_MEASURES[-1])

    shown = sheet(dense, rtn, waiting)
    assert shown.title == "accuracy by MiB of the GGUF file"
    assert [point.x for point in shown.points()] == [310.0, 104.0]
    assert "GGUF file 104 MiB, 4.25 bits a weight" in shown.says(shown.lines[1], None)
    shown = sheet(dense, rtn, ordered)
    assert shown.title == "accuracy by MiB as stored"
    assert [point.x for point in shown.points()] == [300.0, 99.0, 98.0]
    assert "no GGUF file, 98.0 MiB as stored" in shown.says(shown.lines[2], None)


async def test_agreement_shows_each_backend_below_its_setting(runs: Path) -> None:
    study = studies.two_backends(runs / "two")
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await agreement(pilot)
        assert labels(app) == [
            "wanda-0.5", "studyctl 0.1.0", "✗ llm-compressor 0.8.1",
            "rtn-4bit-g64", "studyctl 0.1.0", "gptqmodel 4.0.0", "llm-compressor 0.8.1",
        ]  # fmt: skip
        assert line_with(app, "gptqmodel") == "gptqmodel 4.0.0 0.125 0.80▁ 1.207 4.31 6.0 3.00▁ 0.000 0.50▁"
        assert line_with(app, "✗ llm-compressor") == "✗ llm-compressor 0.8.1 – – – 9.00 – – – –"
        assert line_with(app, "llm-compressor").split()[3] == "1.25▃"  # ours is farther from dense
        assert "›" not in text_of(app).split("Agreement: ")[1]  # all columns are visible
        assert "wanda-0.5 by studyctl 0.1.0: KL 0.1000 nats" in text_of(app)
        await pilot.press("down", "down", "down", "right", "right")
        assert (
            "rtn-4bit-g64@gptqmodel · KL ratio 0.80: studyctl's KL / this one's: below 1 studyctl's is nearer to dense"
            in " ".join(text_of(app).split())
        )


async def test_agreement_has_more_columns_where_there_is_room(runs: Path) -> None:
    study = studies.two_backends(runs / "two")
    async with compare(study).run_test(size=LARGE) as pilot:
        app = await agreement(pilot)
        await until(pilot, lambda: "sparsity" in text_of(app))
        assert line_with(app, "gptqmodel").endswith("0.50▁ 0.000 0.00 done")
        assert line_with(app, "✗ llm-compressor").endswith("– 0.50 failed")
        await pilot.resize_terminal(*SMALL)
        await until(pilot, lambda: "sparsity" not in text_of(app))


async def test_agreement_follows_the_filter_and_the_order_of_variants(runs: Path) -> None:
    study = studies.two_backends(runs / "two")
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await agreement(pilot)
        await pilot.press("s")  # by size
        assert [label for label in labels(app) if "-" in label and "." not in label] == ["rtn-4bit-g64"]
        assert labels(app)[0] == "rtn-4bit-g64"
        await pilot.press("slash", *"@gptq", "enter")
        await pilot.pause()
        assert labels(app) == ["rtn-4bit-g64", "gptqmodel 4.0.0"]
        await pilot.press("y")
        assert app.clipboard.split("\t")[:4] == ["rtn-4bit-g64@gptqmodel", "gptqmodel 4.0.0", "0.125", "0.80"]


async def test_agreement_tells_seeds_apart_where_there_are_several(runs: Path) -> None:
    class Seeds(FakeStudy):
        def trials(self) -> list[dict[str, Any]]:
            return [
                one | {"trial": f"{one['trial']}.{seed}", "seed": seed, "weights_key": f"{one['weights_key']}.{seed}"}
                for one in super().trials()
                for seed in (0, 1)
            ]  # fmt: skip

    variants = ("wanda-0.5", "wanda-0.5@llm-compressor")
    study = Seeds(runs / "seeds", models=("org/alpha",), variants=variants).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await agreement(pilot)
        assert labels(app) == [
            "wanda-0.5 seed 0", "studyctl 0.1.0", "llm-compressor 0.8.1",
            "wanda-0.5 seed 1", "studyctl 0.1.0", "llm-compressor 0.8.1",
        ]  # fmt: skip


async def test_a_study_of_one_backend_says_how_another_is_asked_for(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("left_square_bracket")
        await pilot.pause()
        assert 'no second backend here: backend = ["studyctl", "autoawq"] asks for one' in text_of(app)
        await pilot.press("p", "s", "g", "y", "enter", "down", "right")  # no key breaks it
        assert screen_of(app)._part.NAME == "Agreement"


async def test_backends_that_are_not_measured_yet_are_told_from_a_study_without(runs: Path) -> None:
    variants = ("dense", "wanda-0.5", "rtn-4bit-g64", "rtn-4bit-g64@gptqmodel")
    study = FakeStudy(runs / "begun", models=("org/alpha",), variants=variants)
    study.write_plan()
    for variant in variants[:2]:
        study.attempt(f"alpha.{variant}").run_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("left_square_bracket")
        await pilot.pause()
        assert "none of these settings is measured with two backends yet" in text_of(app)


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("rtn-4bit-g64@gptqmodel", 22, "rtn-4bit-g64@gptqmodel"),
        ("gptq-4bit-g128-act_order@auto-gptq", 18, "gptq-4bit-…@auto-…"),
        ("gptq-4bit-g128-act_order@autoawq", 18, "gptq-4bit-…@autoa…"),
        ("rtn-4bit-g64@llm-compressor", 21, "rtn-4bit-g64@llm-com…"),
        ("rtn-4bit-g64@gptqmodel", 12, "rtn-…@gptqm…"),
        ("rtn-4bit-g64@gptqmodel", 8, "rtn-4bi…"),
        ("sparsegpt-0.5", 8, "sparseg…"),
    ],
)
def test_a_short_name_keeps_parts_of_setting_and_backend(name: str, width: int, short: str) -> None:
    assert shortened(name, width) == short
    assert len(short) <= width


async def test_tab_and_brackets_go_through_the_parts_and_around(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        seen = []
        for key in ("tab", "right_square_bracket", "tab", "tab", "tab", "left_square_bracket", "shift+tab"):
            await pilot.press(key)
            await pilot.pause()
            seen.append(screen_of(app)._part.NAME)
            assert f"[{seen[-1]}]" in text_of(app)
            assert grid_of(app).has_focus
        assert seen == ["Tasks", "Disagreement", "Size", "Deployment", "Agreement", "Deployment", "Size"]
        await pilot.press("tab", "tab", "tab")
        assert screen_of(app)._part.NAME == "Languages"


async def test_p_goes_through_the_figures_of_a_part(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        seen = []
        for _ in range(7):
            await pilot.press("p")
            seen.append(line_with(app, "Languages:").split(" ")[1])
        assert seen == ["bits/char", "ppl", "perplexity", "KL", "KL/byte", "top-1", "bits/byte"]
        await pilot.press("p", "p", "p")
        assert (
            line_with(app, "dense") == "dense 20.00 30.00 40.00"
        )  # perplexity is one of the dense model too
        await pilot.press("tab")
        seen = []
        for _ in range(4):
            await pilot.press("p")
            seen.append(line_with(app, "Tasks:"))
        assert [text.split(" *")[0] for text in seen] == [
            "Tasks: accuracy",
            "Tasks: flips",
            "Tasks: acc_norm change",
            "Tasks: accuracy change",
        ]


# -- variants


async def test_s_sorts_by_size_and_by_quality(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        orders = [labels(app)]
        for _ in range(4):
            await pilot.press("s")
            orders.append(labels(app))
        assert orders[0] == ["wanda-0.5", "rtn-4bit-g64"]
        assert orders[1] == orders[2] == orders[3] == orders[4] == ["rtn-4bit-g64", "wanda-0.5"]
        assert "s accuracy" in text_of(app)
        await pilot.press("s")
        assert "s plan order" in text_of(app)


async def test_g_puts_the_variants_of_a_method_together(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = several(runs / "several", monkeypatch)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert labels(app) == ["a-1", "b-1", "a-2", "b-2"]
        await pilot.press("g")
        assert labels(app) == ["a", "a-1", "a-2", "b", "b-1", "b-2"]
        await pilot.press("down", "down")
        assert grid_of(app).line is not None
        assert grid_of(app).line.label == "b-1"  # headings are skipped
        await pilot.press("up", "up", "up", "up")
        assert grid_of(app).line.label == "a-1"
        await pilot.press("g")
        assert labels(app) == ["a-1", "b-1", "a-2", "b-2"]


async def test_a_filter_hides_variants_as_one_types_and_escape_brings_them_back(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("slash", *"4bit", "space", "r", "asterisk", "n")
        await pilot.pause()
        assert labels(app) == ["rtn-4bit-g64"]
        await pilot.press("enter")
        await pilot.pause()
        assert grid_of(app).has_focus
        assert "/ 4bit r*n" in text_of(app)
        await pilot.press("slash", "z")
        await pilot.pause()
        assert "no variant matches z: escape clears the filter" in text_of(app)
        await pilot.press("enter", "escape")
        await pilot.pause()
        assert labels(app) == ["wanda-0.5", "rtn-4bit-g64"]


async def test_m_shows_the_next_model(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert "m alpha 1/2" in text_of(app)
        await pilot.press("m")
        await until(pilot, lambda: "m beta 2/2" in text_of(app))
        assert line_with(app, "wanda-0.5").startswith("wanda-0.5 +0.117 ±0.000▃")
        await pilot.press("m")
        await until(pilot, lambda: "m alpha 1/2" in text_of(app))


async def test_m_says_when_there_is_no_other_model(runs: Path) -> None:
    study = FakeStudy(runs / "one", models=("org/alpha",)).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL, notifications=True) as pilot:
        app = await shown(pilot)
        await pilot.press("m")
        assert [one.message for one in app._notifications] == ["the study has one model"]


async def test_marked_trials_are_shown_alone_until_u(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        screen_of(app).mark(["alpha.rtn-4bit-g64"])
        await pilot.pause()
        assert labels(app) == ["rtn-4bit-g64"]
        assert "u 1 marked" in text_of(app)
        await pilot.press("u")
        assert labels(app) == ["wanda-0.5", "rtn-4bit-g64"]


async def test_marked_trials_of_another_model_bring_that_model(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        screen_of(app).mark(["beta.wanda-0.5"])
        await until(pilot, lambda: "m beta 2/2" in text_of(app))
        assert labels(app) == ["wanda-0.5"]
        await pilot.press("m")
        await until(pilot, lambda: "none of the marked trials is of this model" in text_of(app))


async def test_trials_that_are_marked_in_the_monitor_are_compared_on_the_first_visit(
    finished: FakeStudy,
) -> None:
    async with StudyApp("monitor", study=finished.paths).run_test(size=SMALL) as pilot:
        app = await settle(pilot)
        await app.switch_mode("compare")
        screen_of(app).mark(["beta.wanda-0.5"])
        await shown(pilot)
        await until(pilot, lambda: labels(app) == ["wanda-0.5"] and "m beta 2/2" in text_of(app))


async def test_several_seeds_of_a_variant_have_a_line_each(runs: Path) -> None:
    class Seeds(FakeStudy):
        def trials(self) -> list[dict[str, Any]]:
            trials = super().trials()
            more = [
                trial
                | {"trial": f"{trial['trial']}.1", "seed": 1, "weights_key": f"{trial['weights_key']}.1"}
                for trial in trials
                if trial["variant"] == "wanda-0.5"
            ]
            return trials + more

    study = Seeds(runs / "seeds", models=("org/alpha",)).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert labels(app) == ["wanda-0.5 seed 0", "rtn-4bit-g64", "wanda-0.5 seed 1"]


# -- elsewhere


async def test_y_copies_the_cell_or_on_a_name_the_line(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("y")
        assert app.clipboard == "wanda-0.5\t+0.117\t+0.170\t+0.144\t+0.144"
        await pilot.press("right", "right", "y")
        assert app.clipboard == "+0.170"


async def test_enter_goes_to_the_monitor_of_that_trial(
    finished: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(MonitorScreen, "go_to", lambda _, name: asked.append(name), raising=False)
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.current_mode == "monitor" and bool(asked))
        assert asked == ["alpha.rtn-4bit-g64"]


async def test_help_names_the_keys(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=LARGE) as pilot:
        app = await shown(pilot)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        keys = {description for _, description in app.screen._keys}
        assert {"Next part", "Group by method", "Show all, not only marked ones", "Last column"} <= keys


# -- moving


async def test_many_variants_and_languages_scroll_while_names_and_header_stay(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    languages = tuple(f"l{number:02}" for number in range(20))
    variants = ("dense", *(f"wanda-{number}" for number in range(60)))
    study = study_with(
        runs / "many", monkeypatch, dict.fromkeys(variants, 1.2) | {"dense": 1.0}, languages=languages
    )
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert "wanda-0 " in text_of(app)
        assert "›" in line_with(app, "wanda-0 ")  # there is more to the right
        await pilot.press("end", "ctrl+right")
        text = text_of(app)
        assert "wanda-59" in text
        assert "wanda-0 " not in text
        header = next(line for line in text.splitlines() if "l19" in line)
        assert header.split()[-1] == "mean"
        assert "l00" not in header
        await pilot.press("pageup")
        assert grid_of(app).line is not None
        assert grid_of(app).line.label == "wanda-45"
        await pilot.press("home", "ctrl+left", "pagedown", "pageup", "k", "l", "h", "j")
        assert grid_of(app).line.label == "wanda-1"
        assert "wanda-0 " in text_of(app)


async def test_a_click_puts_the_cursor_on_a_cell(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        grid = grid_of(app)
        await pilot.click(CompareGrid, offset=(16, grid._top + 1))
        assert (grid.line.label if grid.line else "", grid.column) == ("rtn-4bit-g64", "en")
        await pilot.click(CompareGrid, offset=(2, grid._top))
        assert (grid.line.label if grid.line else "", grid.column) == ("wanda-0.5", None)


async def test_two_parts_are_shown_where_both_are_visible_as_a_whole(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=(80, 20)) as pilot:
        app = await shown(pilot)
        parts = screen_of(app)._parts
        assert [part.display for part in parts] == [
            True,
            True,
            False,
            False,
            False,
            False,
        ]  # few variants: one below the other
        await pilot.press("tab", "tab")
        await pilot.pause()
        assert [part.display for part in parts] == [False, False, True, False, False, False]
        await pilot.resize_terminal(*LARGE)
        await pilot.pause()
        await until(
            pilot, lambda: [part.display for part in parts] == [False, False, True, True, False, False]
        )
        assert parts[2].region.y == parts[3].region.y  # side by side


# -- what is missing or broken


async def test_nothing_published_says_what_to_do(runs: Path) -> None:
    study = studies.empty(runs / "small")
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "nothing of small is published yet" in text_of(app))
        assert "hint: `studyctl run" in text_of(app)
        await pilot.press("tab", "p", "s", "g", "m", "y", "u", "enter")  # no key breaks it
        assert "nothing of small is published yet" in text_of(app)


async def test_only_dense_says_so_and_that_results_will_come(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "No compressed variant of org/alpha is measured yet" in text_of(app))
        assert "The study runs: results appear here by themselves." in text_of(app)


async def test_results_of_another_schema_say_how_to_publish_them_again(
    finished: FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studyctl.store.query.VERSION", 5)
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "`studyctl db rebuild small`" in text_of(app))
        assert "with other tables than this version's" in " ".join(text_of(app).split())


async def test_results_that_are_published_meanwhile_appear(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await settle(pilot)
        await until(pilot, lambda: "No compressed variant" in text_of(app))
        study.attempt("alpha.rtn-4bit-g64").run_all()
        publish(study.paths)
        app.look()
        await until(pilot, lambda: labels(app) == ["rtn-4bit-g64"])
        assert "No compressed variant" not in text_of(app)


async def test_another_study_starts_again(runs: Path, finished: FakeStudy) -> None:
    other = FakeStudy(runs / "other", models=("org/gamma",), variants=("dense", "rtn-4bit-g64")).write_all()
    publish(other.paths)
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        screen_of(app).mark(["alpha.wanda-0.5"])
        app.open_study(other.paths, "compare")
        await until(pilot, lambda: "m gamma 1/1" in text_of(app))
        assert labels(app) == ["rtn-4bit-g64"]
        assert "marked" not in text_of(app)


async def test_what_diverged_is_named_and_stays_out_of_the_picture(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = {"dense": 1.0, "a-1": 1.1, "b-1": 5e4, "c-1": math.nan}
    study = study_with(runs / "diverged", monkeypatch, ratios)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        assert line_with(app, "b-1").startswith("b-1 +3.122 ±0.000▇")  # log2(50,000) bits a token of 5 bytes
        assert line_with(app, "c-1").startswith("c-1 ✗▇ ✗▇ ✗▇ –")
        await pilot.press("down", "down", "right")
        assert "c-1 · en: perplexity is not finite; dense 20.00" in text_of(app)
        await pilot.press(*["left_square_bracket"] * 3)
        await pilot.pause()
        assert "↑ 2 outside" in text_of(app)
        assert "×1.1" in text_of(app)
        assert "×1000" not in text_of(app)
        await pilot.press("end")
        assert "outside the picture: not finite, or above 1000" in " ".join(text_of(app).split())


async def test_what_is_not_measured_in_a_part_is_said_there(runs: Path) -> None:
    study = FakeStudy(runs / "bare", tasks=(), models=("org/alpha",)).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "nothing of this is measured yet" in text_of(app)


# -- looks


@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.parametrize("theme", ["studyctl-dark", "studyctl-light", "studyctl-16"])
async def test_every_theme_draws_all_parts_with_a_visible_cursor(
    runs: Path, monkeypatch: pytest.MonkeyPatch, theme: str, no_color: bool
) -> None:
    monkeypatch.setitem(SIXTEEN.variables, "ansi-background", "ansi_black")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    study = studies.two_backends(runs / "two")
    time_files(study)
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        app.theme = theme
        await pilot.pause()
        for name in ("Languages", "Tasks", "Disagreement", "Size", "Deployment", "Agreement"):
            assert f"[{name}]" in text_of(app)
            grid = grid_of(app)
            row = grid.render_line(grid._top + grid._row)
            styles = [segment.style for segment in row if segment.style]
            base = grid.rich_style
            assert any(style.reverse or style.bgcolor != base.bgcolor for style in styles)
            await pilot.press("tab")
            await pilot.pause()


# -- small things


def test_steps_of_a_scale_run_either_way() -> None:
    rising, falling = Scale((1.0, 2.0, 3.0, 4.0)), Scale((0.9, 0.8, 0.7, 0.6))
    assert [rising.step(value) for value in (1.0, 1.1, 4.0, 9.0)] == [0, 1, 3, 4]
    assert [falling.step(value) for value in (0.9, 0.85, 0.6, 0.1)] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("boolq", ("", "boolq")),
        ("arc_challenge", ("arc_", "challen…")),
        ("science_easy", ("science_", "easy")),
        ("worst language", ("worst", "language")),
        ("entailment", ("entailm", "ent")),
    ],
)
def test_long_names_stand_on_two_lines(name: str, lines: tuple[str, str]) -> None:
    assert _on_two_lines(name, 8) == lines


@pytest.mark.parametrize(
    ("rank", "tied", "words"),
    [(1, 1, "1st"), (2, 3, "tied 2nd"), (3, 1, "3rd"), (11, 1, "11th"), (22, 1, "22nd")],
)
def test_places_in_words(rank: int, tied: int, words: str) -> None:
    assert place(Rank("m.a", "m", "a", "a", "kl_nats", 0.1, rank, tied, 30)) == words


def test_ticks_of_ratios_are_round_and_apart() -> None:
    def labels_of(low: float, high: float) -> list[str]:
        return RatioTicks().get_ticks_and_labels(math.log10(low), math.log10(high))[1]

    assert labels_of(0.95, 2.1) == ["×1", "×1.2", "×1.5", "×2"]
    assert labels_of(0.9, 900) == ["×1", "×5", "×20", "×100", "×500"] or len(labels_of(0.9, 900)) >= 3
    assert labels_of(0.999, 1.03) == ["×1", "×1.01", "×1.02"]


def test_letters_that_would_hide_each_other_stand_next_to_each_other() -> None:
    occupied: set[tuple[int, int]] = set()
    cells = []
    for _ in range(4):
        cells.append(_free(5, 5, occupied))
        occupied.add(cells[-1])
    assert cells == [(5, 5), (6, 5), (4, 5), (7, 5)]


# -- studies


def study_with(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratios: dict[str, float],
    languages: Sequence[str] = ("en", "sw", "zh"),
) -> FakeStudy:
    """One model, with these perplexity ratios in every language; a better ratio is a smaller and a worse answerer."""
    order = sorted(ratios, key=lambda variant: ratios[variant])
    monkeypatch.setattr(builder, "RATIOS", ratios)
    monkeypatch.setattr(builder, "LANGUAGES", tuple(languages))
    monkeypatch.setattr(builder, "WORSE", dict.fromkeys(languages, 1.0))
    monkeypatch.setattr(builder, "BITS", {variant: 16.0 - 2 * at for at, variant in enumerate(order)})
    monkeypatch.setattr(
        builder,
        "correct",
        lambda variant, item: int(item < (20 if variant == "dense" else order.index(variant))),
    )
    study = FakeStudy(
        root, models=("org/alpha",), variants=tuple(ratios), languages=tuple(languages)
    ).write_all()
    publish(study.paths)
    return study


def several(root: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    """Four variants of two methods; the better the text, the worse the answers."""
    return study_with(root, monkeypatch, {"dense": 1.0, "a-1": 1.1, "b-1": 1.2, "a-2": 1.3, "b-2": 1.4})


class TestDeployment:
    """The files that are deployed."""

    def timed(self, runs: Path, **session: Any) -> FakeStudy:
        study = FakeStudy(runs / "timed", files=FILES).write_all()
        time_files(study, threads=1, **session)
        time_files(study, "with-two", threads=2, **session)
        publish(study.paths)
        return study

    async def opened(self, pilot: Pilot[str]) -> StudyApp:
        app = await shown(pilot)
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: screen_of(app)._part.NAME == "Deployment")
        return app

    async def test_files_with_their_size_and_speed(self, runs: Path) -> None:
        async with compare(self.timed(runs)).run_test(size=(110, 24)) as pilot:
            app = await self.opened(pilot)
            assert "Deployment: 1 thread of Some CPU" in text_of(app)
            assert line_with(app, "rtn-4bit-g64").startswith("rtn-4bit-g64 80.0")
            assert "×2.000" in line_with(app, "rtn-4bit-g64")
            assert "= ×1.000" in line_with(app, "wanda-0.5")
            await pilot.press("p")
            await until(pilot, lambda: "2 threads of Some CPU" in text_of(app))

    async def test_a_cell_says_its_interval_and_what_the_machine_lets_one_see(self, runs: Path) -> None:
        async with compare(self.timed(runs)).run_test(size=(140, 24)) as pilot:
            app = await self.opened(pilot)
            await pilot.press("down", "down", *["right"] * 8)
            await until(pilot, lambda: "prompt ×2.00" in text_of(app))
            assert "of dense: faster (dense against itself 0.9" in text_of(app)

    async def test_a_busy_machine_gives_no_verdict(self, runs: Path) -> None:
        async with compare(self.timed(runs, noise=(1.0, 1.5, 0.7, 1.1))).run_test(size=(140, 24)) as pilot:
            app = await self.opened(pilot)
            assert "busy" in line_with(app, "rtn-4bit-g64")
            await pilot.press("down", "down", *["right"] * 8)
            await until(pilot, lambda: "the machine was too busy for a verdict" in text_of(app))

    async def test_without_times_it_says_how_to_get_them(self, finished: FakeStudy) -> None:
        async with compare(finished).run_test(size=SMALL) as pilot:
            app = await self.opened(pilot)
            assert "no file of this model was timed" in text_of(app)
