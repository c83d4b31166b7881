"""The Monitor: the table of trials, the pages about one of them, and what keys do."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from studyctl.contract.records import Layer, encode
from studyctl.contract.steps import StepId, StepKind
from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.run import control
from studyctl.store.live import LiveTrial, Snapshot
from studyctl.store.publish import publish
from studyctl.store.results import Finding, LanguageResult, LayerResult
from studyctl_tui.app import StudyApp
from studyctl_tui.compare.screen import CompareScreen
from studyctl_tui.monitor.cells import (
    TrialView,
    columns_for,
    gap_of,
    header,
    line,
    position,
    short_variant,
    step_name,
    widths,
)
from studyctl_tui.monitor.detail import PAGES
from studyctl_tui.monitor.layers import layers
from studyctl_tui.monitor.list import TrialList
from studyctl_tui.monitor.log import MOST_BYTES, log_lines, read_tail
from studyctl_tui.monitor.pages import languages, overview, tasks
from studyctl_tui.monitor.screen import MonitorScreen, banner
from studyctl_tui.monitor.table import TrialsTable
from studyctl_tui.shared.dialogs import Ask, InputScreen
from studyctl_tui.shared.lines import LinesView
from studyctl_tui.shared.view import View, Watcher
from studyctl_tui.spec.screen import SpecScreen
from studyctl_tui.sql.screen import SqlScreen
from tests.store.builder import FakeStudy
from tests.tui import studies

TRIAL = studies.TRIAL
SMALL, LARGE = (80, 24), (160, 50)


def monitor(study: FakeStudy, size: tuple[int, int] = SMALL) -> AbstractAsyncContextManager[Pilot[str]]:
    return StudyApp("monitor", study=study.paths).run_test(size=size, notifications=True)


def text_of(pilot: Pilot[Any]) -> str:
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


async def soon(pilot: Pilot[Any], holds: Callable[[], bool], tries: int = 200) -> None:
    """Let the app work until a condition holds. Workers may be replaced by newer ones, so they are not waited for."""
    for _ in range(tries):
        await pilot.pause(0.01)
        if holds():
            return
    raise AssertionError(f"the app never came to what was waited for; it shows\n{text_of(pilot)}")


async def sees(pilot: Pilot[Any], *words: str) -> None:
    await soon(pilot, lambda: all(word in text_of(pilot) for word in words))


async def ready(pilot: Pilot[Any], trial: str | None = None) -> MonitorScreen:
    """Wait until the details of a trial (of the first one selected) are there."""
    screen = pilot.app.screen
    assert isinstance(screen, MonitorScreen)
    await soon(
        pilot, lambda: bool((row := screen.row) and row.detail and trial in (None, row.detail.trial.trial))
    )
    await pilot.pause()
    return screen


def table(pilot: Pilot[Any]) -> TrialsTable:
    return pilot.app.screen.query_one(TrialsTable)


def selected(pilot: Pilot[Any]) -> str | None:
    return table(pilot).list.selected


def listed(pilot: Pilot[Any]) -> list[str]:
    trials = table(pilot).list
    return [trials.row(place).trial.trial for place in range(len(trials))]


def page(pilot: Pilot[Any]) -> str:
    return "\n".join(line.plain for line in pilot.app.screen.query_one(LinesView).lines)


# -- the table


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "160x50"])
async def test_every_trial_has_a_line_with_state_size_and_figures(runs: Path, size: tuple[int, int]) -> None:
    async with monitor(studies.finished(runs / "small"), size) as pilot:
        await ready(pilot)
        screen = text_of(pilot)
        assert "small › Monitor" in screen
        wanda = next(line for line in screen.splitlines() if "wanda-0.5" in line)
        for text in ("✓", "alpha", "9.00", "6/6 steps", "−0.250"):
            assert text in wanda


async def test_a_running_trial_shows_its_step_and_how_far_it_is(runs: Path) -> None:
    async with monitor(studies.running(runs / "small")) as pilot:
        await ready(pilot)
        running = next(line for line in text_of(pilot).splitlines() if "▶" in line and "wanda" in line)
        assert "compress" in running
        assert "1/2" in running


async def test_a_failed_trial_says_why_in_its_line(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small"), LARGE) as pilot:
        await sees(pilot, "✗ failed", "compress: out of memory at")


async def test_the_first_selection_is_the_trial_that_runs_else_the_one_that_failed(runs: Path) -> None:
    for build in (studies.running, studies.failed):
        async with monitor(build(runs / build.__name__)) as pilot:
            await ready(pilot)
            assert selected(pilot) == TRIAL


async def test_arrows_and_letters_move_the_cursor_and_stop_at_the_ends(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        names = listed(pilot)
        for keys, place in (
            ("down", 1), ("j", 2), ("up", 1), ("k", 0), ("up", 0), ("end", 5), ("down", 5), ("home", 0), ("G", 5), ("g", 0),
            ("pagedown", 5), ("pageup", 0),
        ):  # fmt: skip
            await pilot.press(keys)
            assert selected(pilot) == names[place], keys
        await pilot.press("end")
        await ready(pilot, names[5])


async def test_a_click_selects_a_trial(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.click(TrialsTable, offset=(12, 3))
        assert selected(pilot) == listed(pilot)[2]


async def test_a_held_key_reads_the_details_once_at_its_end(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        asked: list[str | None] = []
        select = pilot.app.select  # type: ignore[attr-defined]
        monkeypatch.setattr(pilot.app, "select", lambda trial: asked.append(trial) or select(trial))
        names = listed(pilot)
        for _ in range(5):
            table(pilot).action_move(1)
        await ready(pilot, names[5])
        assert set(asked) == {names[5]}


# -- filter, sort, mark, follow


async def test_a_filter_lists_trials_that_hold_all_its_words_and_escape_clears_it(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"wanda beta")
        assert listed(pilot) == ["beta.wanda-0.5"]
        assert selected(pilot) == "beta.wanda-0.5"
        await pilot.press("enter")
        assert table(pilot).has_focus
        await sees(pilot, "1 of 6 trials with `wanda beta`")
        await pilot.press("escape")
        assert len(listed(pilot)) == 6
        assert selected(pilot) == "beta.wanda-0.5"


def test_a_line_names_setting_backend_and_seed() -> None:
    trial = LiveTrial(
        "m-rtn-4bit-cal_web_gptqmodel-s1", "org/m", "rtn", "rtn-4bit-cal:web@gptqmodel", "done", 2, 2, 1
    )
    assert short_variant(trial) == "rtn-4bit-cal:web@gptqmodel-s1"
    assert short_variant(dataclasses.replace(trial, trial="m-rtn-4bit-cal_web_gptqmodel")) == trial.variant
    assert short_variant(dataclasses.replace(trial, trial="named otherwise")) == trial.variant


def test_two_steps_of_one_language_have_different_names() -> None:
    of_language = [StepId(kind, "sw") for kind in (StepKind.PERPLEXITY, StepKind.ACTIVATIONS)]
    assert [step_name(step) for step in of_language] == ["ppl sw", "act sw"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_variant_of_another_backend_is_told_from_ours_and_found(
    runs: Path, size: tuple[int, int]
) -> None:
    study = studies.two_backends(runs / "two")
    async with monitor(study, size) as pilot:
        await ready(pilot)
        lines = [line for line in text_of(pilot).splitlines() if "rtn-4" in line]
        assert [name for name in ("@gptq", "@llm") if not any(name in line for line in lines)] == []
        await pilot.press("slash", *"@gptqmodel", "enter")
        assert listed(pilot) == ["alpha.rtn-4bit-g64@gptqmodel"]


async def test_a_filter_finds_states_and_escape_in_its_line_closes_it(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"FAILED")
        assert listed(pilot) == [TRIAL]
        await pilot.press("escape")
        assert len(listed(pilot)) == 6
        assert not pilot.app.screen.query_one(Input).display
        assert table(pilot).has_focus


async def test_letters_and_digits_in_the_filter_are_typed_and_do_nothing_else(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"1q!s")
        assert pilot.app.screen.query_one(Input).value == "1q!s"
        assert isinstance(pilot.app.screen, MonitorScreen)
        assert listed(pilot) == []


async def test_sorting_goes_through_the_columns_and_can_be_reversed(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        plan = listed(pilot)
        await pilot.press(*"sssss")
        await sees(pilot, "ppl ×▲", "by ppl ▲")
        assert [name.partition(".")[2] for name in listed(pilot)][::2] == [
            "dense",
            "rtn-4bit-g64",
            "wanda-0.5",
        ]
        await pilot.press("S")
        await sees(pilot, "ppl ×▼")
        assert listed(pilot)[0].endswith("wanda-0.5")
        await pilot.press(*"sss")
        assert listed(pilot) == plan


async def test_what_has_no_figure_comes_last_in_either_direction(runs: Path) -> None:
    async with monitor(studies.running(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press(*"sssss")
        assert listed(pilot)[0] == "alpha.dense"
        await pilot.press("S")
        assert listed(pilot)[0] == "alpha.dense"


async def test_marked_trials_are_compared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[set[str]] = []
    monkeypatch.setattr(CompareScreen, "mark", lambda self, trials: marked.append(set(trials)))
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("c")
        await sees(pilot, "mark trials with space")
        await pilot.press("space", "down", "space", "down", "space", "space")
        await sees(pilot, "2 marked ●")
        await pilot.press("c")
        assert isinstance(pilot.app.screen, CompareScreen)
    assert marked == [{"alpha.dense", TRIAL}]


async def test_following_goes_to_the_next_trial_that_runs_until_the_cursor_is_moved(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with monitor(study) as pilot:
        screen = await ready(pilot)
        await pilot.press("home", "f")
        await sees(pilot, "following")
        assert selected(pilot) == TRIAL
        view = pilot.app.view  # type: ignore[attr-defined]
        other = "beta.rtn-4bit-g64"
        states = {TRIAL: "done", other: "running"}
        trials = tuple(
            dataclasses.replace(trial, state=states.get(trial.trial, trial.state))
            for trial in view.snapshot.trials
        )
        screen.show_view(
            dataclasses.replace(view, snapshot=dataclasses.replace(view.snapshot, trials=trials))
        )
        assert selected(pilot) == other
        await pilot.press("up")
        await soon(pilot, lambda: "following" not in text_of(pilot))


# -- the pages


async def test_enter_goes_into_the_details_and_escape_back(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("enter")
        assert pilot.app.screen.query_one(LinesView).has_focus
        await pilot.press("escape")
        assert table(pilot).has_focus


async def test_brackets_and_arrows_turn_the_pages(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        shown = []
        for key in (
            "right_square_bracket",
            "enter",
            "right",
            "right",
            "left",
            "left_square_bracket",
            "left_square_bracket",
        ):
            await pilot.press(key)
            shown.append(pilot.app.screen.pane.page)  # type: ignore[attr-defined]
        assert shown == [PAGES[1], PAGES[1], PAGES[2], PAGES[3], PAGES[2], PAGES[1], PAGES[0]]


async def test_a_click_on_the_name_of_a_page_turns_to_it(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.click("DetailPane > .pages", offset=(13, 0))
        assert pilot.app.screen.pane.page == "Languages"  # type: ignore[attr-defined]


async def test_the_overview_shows_figures_steps_warnings_attempts_and_settings(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small"), LARGE) as pilot:
        await ready(pilot)
        await pilot.press("down")
        await ready(pilot, TRIAL)
        await soon(pilot, lambda: "attempt 1" in page(pilot))
        for text in ("✓ done  wanda-0.5", "9.00 bits/weight", "(worst sw +0.170 bits/byte)", "✓ compress", "2.0 s", "✓ ppl sw",
                     "! compress: damping was raised", "✓ done  2", "settings method wanda", "calibration source c4"):  # fmt: skip
            assert text in page(pilot)


async def test_the_overview_of_a_failure_tells_the_cause_and_what_to_do(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await sees(pilot, "✗ compress: out of memory at block 3", "hint: use fewer samples")


async def test_the_running_step_has_a_bar_in_the_overview(runs: Path) -> None:
    async with monitor(studies.running(runs / "small")) as pilot:
        await ready(pilot)
        await soon(
            pilot,
            lambda: any(
                "▶ compress" in one and "━" in one and "1/2 block" in one for one in page(pilot).splitlines()
            ),
        )


async def test_languages_are_bars_with_figures_and_those_to_come_are_named(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with monitor(study, LARGE) as pilot:
        await ready(pilot)
        await pilot.press("right_square_bracket")
        await soon(pilot, lambda: "· pending" in page(pilot))
        await pilot.press("home")
        await ready(pilot, "alpha.dense")
        await soon(pilot, lambda: "20.00" in page(pilot) and "1.000" in page(pilot))


async def test_tasks_show_their_change_and_mark_what_is_unlikely_to_be_chance(runs: Path) -> None:
    study = FakeStudy(runs / "small").write_all()
    publish(study.paths)
    async with monitor(study) as pilot:
        await ready(pilot)
        await pilot.press("down")
        await ready(pilot, TRIAL)
        await pilot.press("right_square_bracket", "right_square_bracket")
        await soon(pilot, lambda: "arc_easy" in page(pilot))
        boolq = next(line for line in page(pilot).splitlines() if line.startswith("boolq"))
        assert "0.350  0.600 ≈−0.250 ±0.386" in boolq
        assert "±: 95 % interval over windows and items; ≈ (grey): it holds no change" in page(pilot)
        assert "━│" in boolq
        assert "−6 +1" in boolq


async def test_intervals_are_in_the_list_and_on_the_pages_where_they_fit(runs: Path) -> None:
    """Of wanda: 12 of 40 items turned wrong and 2 right: -0.250 ± 0.237 in the mean of the two tasks."""
    study = FakeStudy(runs / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    async with monitor(study) as pilot:
        await ready(pilot)
        assert "1.645 ±0.000  −0.250 ±0.237 " in text_of(pilot)
        assert "≈0.000 ±0.103 " in text_of(pilot), "of rtn"
        assert "3 trials · ≈ unsure (95 %)" in text_of(pilot)
        await pilot.press("down")
        await ready(pilot, TRIAL)
        assert "acc 0.350 (−0.250 ±0.237)" in page(pilot)
        await pilot.press("right_square_bracket")
        await soon(pilot, lambda: "1.500 ±0.000    30.00    20.00 0.100 ±0.000" in page(pilot))
        await pilot.resize_terminal(60, 20)
        await soon(pilot, lambda: "±" not in text_of(pilot).splitlines()[3])
        assert "≈0.000" in text_of(pilot), "the mark stays"


async def test_layer_errors_draw_as_compression_walks_down(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with monitor(study) as pilot:
        screen = await ready(pilot)
        await pilot.press(*["right_square_bracket"] * 3)
        await soon(pilot, lambda: "first block is not through" in page(pilot))
        _write_layer(study, 0)
        screen.study_app.look()
        await soon(pilot, lambda: "  0  ▁▇" in page(pilot) and "  1  ·" in page(pilot))
        _write_layer(study, 1)
        screen.study_app.look()
        await soon(pilot, lambda: "  1  ▁▇" in page(pilot) and "·" not in page(pilot))


def _write_layer(study: FakeStudy, block: int) -> None:
    """Append to the journal of the running attempt what a worker appends after a block."""
    path = study.paths.attempt_journal(TRIAL, 1)
    seq = len(path.read_bytes().splitlines())
    with path.open("ab") as journal:
        for number, (linear, error) in enumerate((("self_attn.q_proj", 0.01), ("mlp.down_proj", 0.2))):
            layer = Layer(
                seq=seq + number, at="2026-01-01T00:00:00.000+00:00", trial=TRIAL, attempt=1, block=block, linear=linear,
                relative_error=error,
            )  # fmt: skip
            journal.write(encode(layer))


async def test_l_shows_the_end_of_the_log_and_what_is_printed_later(runs: Path) -> None:
    study = studies.running(runs / "small")
    log = study.paths.attempt_log(TRIAL, 1)
    log.parent.mkdir(exist_ok=True)
    log.write_text("\n".join(f"line {number}" for number in range(50)))
    async with monitor(study) as pilot:
        screen = await ready(pilot)
        await pilot.press("l")
        await sees(pilot, "line 49")
        with log.open("a") as file:
            file.write("\n[bold]not markup\n")
        screen.study_app.look()
        await sees(pilot, "[bold]not markup")


async def test_a_trial_that_was_never_run_has_no_log(runs: Path) -> None:
    async with monitor(studies.empty(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("l")
        await sees(pilot, "it was not run yet")


# -- acting


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What was asked of runners, none of which is there."""
    calls: list[tuple[object, ...]] = []

    def retry(paths: StudyPaths, trial: str = "") -> str | None:
        calls.append(("retry", trial))
        return None

    def start(spec: Path, only: str = "") -> str:
        calls.append(("start", spec.name, only))
        return "started in the background"

    def stop(paths: StudyPaths, when: str) -> str:
        calls.append(("stop", when))
        return "asked to stop"

    monkeypatch.setattr(control, "ask_to_retry", retry)
    monkeypatch.setattr(control, "start_in_background", start)
    monkeypatch.setattr(control, "ask_to_stop", stop)
    return calls


async def test_r_tries_a_failed_trial_again(runs: Path, asked: list[tuple[object, ...]]) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("r")
        await sees(pilot, "started in the background")
        assert asked == [("retry", TRIAL), ("start", "spec.toml", TRIAL)]


async def test_r_on_a_trial_that_did_not_fail_says_so(runs: Path, asked: list[tuple[object, ...]]) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("r")
        await sees(pilot, "alpha.dense is done; only what")
        await pilot.press("R")
        await sees(pilot, "every trial is done")
        assert asked == []


async def test_a_living_runner_is_asked_and_nothing_is_started(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.failed(runs / "small")
    studies.write_runner(study)
    monkeypatch.setattr(control, "start_in_background", lambda *_: pytest.fail("a second runner"))
    async with monitor(study) as pilot:
        await ready(pilot)
        await pilot.press("R")
        await sees(pilot, "asked the runner of small")
    assert list(study.paths.control.glob("retry-*.json"))


async def test_a_run_that_does_not_start_says_why_and_what_to_do(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(spec: Path, only: str = "*") -> str:
        raise StudyError("the spec is gone", hint="write one")

    monkeypatch.setattr(control, "start_in_background", fail)
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("r")
        await sees(pilot, "the spec is gone", "write one")


async def test_x_asks_before_it_stops_the_run(runs: Path, asked: list[tuple[object, ...]]) -> None:
    async with monitor(studies.running(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("x")
        assert isinstance(pilot.app.screen, Ask)
        await pilot.press("escape")
        assert asked == []
        await pilot.press("x", "enter")
        await sees(pilot, "asked to stop")
        await pilot.press("X", "enter")
        await soon(pilot, lambda: len(asked) == 2)
        await pilot.press("x", "X")
        await soon(pilot, lambda: len(asked) == 3)
        assert asked == [("stop", "after_step"), ("stop", "now"), ("stop", "now")]


async def test_x_without_a_run_says_that_there_is_none(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("x")
        await sees(pilot, "nobody runs this study")


async def test_a_dead_runner_is_announced_and_R_goes_on(runs: Path, asked: list[tuple[object, ...]]) -> None:
    async with monitor(studies.died(runs / "small")) as pilot:
        await ready(pilot)
        await sees(pilot, "the runner died", "last sign of life", "R goes on")
        await pilot.press("R")
        await soon(pilot, lambda: ("start", "spec.toml", "") in asked)


async def test_an_exclamation_mark_tells_the_cause_with_copy_and_log(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("exclamation_mark")
        assert isinstance(pilot.app.screen, Ask)
        await sees(
            pilot, TRIAL, "out of memory", "compress: out of memory at block 3", "hint: use fewer samples"
        )
        await pilot.press("y")
        assert pilot.app.clipboard == (
            f"{TRIAL}: out of memory\ncompress: out of memory at block 3\nhint: use fewer samples"
        )
        await pilot.press("exclamation_mark", "l")
        assert isinstance(pilot.app.screen, MonitorScreen)
        assert pilot.app.screen.pane.page == "Log"


async def test_the_cause_dialog_can_try_again(runs: Path, asked: list[tuple[object, ...]]) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("exclamation_mark", "r")
        await soon(pilot, lambda: ("retry", TRIAL) in asked)
        await pilot.press("exclamation_mark", "escape")
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_an_exclamation_mark_elsewhere_goes_to_what_failed(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("home")
        assert selected(pilot) == "alpha.dense"
        await pilot.press("exclamation_mark")
        assert selected(pilot) == TRIAL
        await sees(pilot, f"{TRIAL} failed; ! again says")
        await ready(pilot, TRIAL)
        await pilot.press("exclamation_mark")
        assert isinstance(pilot.app.screen, Ask)


async def test_an_exclamation_mark_where_nothing_failed_says_so(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("exclamation_mark")
        await sees(pilot, "nothing failed")


async def test_p_asks_the_runner_to_run_a_waiting_trial_next(runs: Path) -> None:
    study = studies.running(runs / "small")
    async with monitor(study) as pilot:
        await ready(pilot)
        await pilot.press("p")
        await sees(pilot, f"{TRIAL} runs")
        await pilot.press("home", "p")
        await sees(pilot, "alpha.dense is done")
        await pilot.press("end")
        await ready(pilot, listed(pilot)[-1])
        await pilot.press("p")
        await sees(pilot, "asked the runner of small to run", "beta.rtn-4bit-g64 next")
    (request,) = control.take_requests(study.paths)
    assert request == control.Request("first", trial="beta.rtn-4bit-g64")


async def test_p_without_a_run_says_what_starts_one(runs: Path) -> None:
    async with monitor(studies.empty(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("p")
        await sees(pilot, "nobody runs it: R starts the run")


async def test_a_note_is_written_shown_found_and_taken_away(runs: Path) -> None:
    study = studies.finished(runs / "small")
    async with monitor(study) as pilot:
        await ready(pilot)
        await pilot.press("down", "n", *"odd: [b]look", "enter")
        await sees(pilot, "the note of", "✎")
        await soon(pilot, lambda: "odd: [b]look (" in page(pilot))
        line = next(line for line in text_of(pilot).splitlines() if "›" in line and "wanda" in line)
        assert "✎" in line
        await pilot.press("slash", *"look", "enter")
        assert listed(pilot) == [TRIAL]
        await pilot.press("n")
        assert pilot.app.screen.query_one(Input).value == "odd: [b]look"
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, MonitorScreen)
        await pilot.press("n", "ctrl+u", "enter")
        await soon(pilot, lambda: "look (" not in page(pilot))


async def test_the_palette_has_what_the_keys_do(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        screen = await ready(pilot)
        commands = {command.title: command for command in pilot.app.get_system_commands(screen)}
        assert {
            "Note about the trial (n)",
            "Retry (r)",
            "Filter (/)",
            "Keys (?)",
            "SQL (5)",
        } <= commands.keys()
        await pilot.press("ctrl+p", *"note")
        await sees(pilot, "Note about the trial (n)")
        await pilot.press("enter")
        await soon(pilot, lambda: isinstance(pilot.app.screen, InputScreen))


async def test_y_copies_the_name_and_Y_the_error(runs: Path) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press("y")
        assert pilot.app.clipboard == TRIAL
        await pilot.press("Y")
        assert "out of memory at block 3" in pilot.app.clipboard
        await pilot.press("home", "Y")
        await sees(pilot, "no error to copy")


@pytest.mark.parametrize(
    ("key", "screen", "method", "what"),
    [("e", SpecScreen, "go_to", "wanda-0.5"), ("o", SqlScreen, "ask_about", TRIAL)],
)
async def test_a_key_jumps_to_what_belongs_to_the_trial(
    runs: Path, monkeypatch: pytest.MonkeyPatch, key: str, screen: type, method: str, what: str
) -> None:
    called: list[str] = []
    monkeypatch.setattr(screen, method, lambda self, about: called.append(about))
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        await pilot.press(key)
        assert isinstance(pilot.app.screen, screen)
    assert called == [what]


# -- states of a study


async def test_a_study_without_results_says_what_to_do(runs: Path) -> None:
    async with monitor(studies.empty(runs / "small")) as pilot:
        await sees(pilot, "nothing was measured yet: R starts the run", "0/6 steps")


async def test_a_study_without_trials_says_what_to_do(runs: Path) -> None:
    study = FakeStudy(runs / "small", models=())
    study.write_plan()
    async with monitor(study) as pilot:
        await sees(pilot, "this study has no trials yet")
        for key in ("down", "space", "r", "R", "y", "Y", "exclamation_mark", "f", "s", "e", "o", "c"):
            await pilot.press(key)
        assert isinstance(pilot.app.screen, MonitorScreen)


async def test_trouble_is_told_with_what_to_do_and_goes_away(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        screen = await ready(pilot)
        view = screen.study_app.view
        assert view is not None
        problem = Problem("x.jsonl was written by a later studyctl", hint="use that version")
        troubled = dataclasses.replace(view, trouble=StudyError(problem))
        with monkeypatch.context() as patched:
            # At every look: one in between would show that all is well.
            patched.setattr(Watcher, "look", lambda watcher: troubled)
            await sees(pilot, "! x.jsonl was written by a later studyctl", "use that version")
        await soon(pilot, lambda: "later studyctl" not in text_of(pilot))


async def test_another_study_starts_afresh(runs: Path) -> None:
    first, second = studies.failed(runs / "one"), studies.finished(runs / "two")
    async with monitor(first) as pilot:
        screen = await ready(pilot)
        await pilot.press("space", "slash", *"alpha", "enter")
        screen.study_app.open_study(second.paths)
        await sees(pilot, "two › Monitor")
        await soon(pilot, lambda: len(listed(pilot)) == 6)
        assert not table(pilot).list.marked
        await ready(pilot)


async def test_other_screens_can_select_a_trial_even_before_it_is_there(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, MonitorScreen)
        screen.go_to("beta.dense")
        await ready(pilot, "beta.dense")
        await pilot.press("slash", *"alpha", "enter")
        screen.go_to("beta.wanda-0.5")
        assert selected(pilot) == "beta.wanda-0.5"
        await ready(pilot, "beta.wanda-0.5")


async def test_a_wide_terminal_has_the_details_beside_the_table(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small"), LARGE) as pilot:
        await ready(pilot)
        pane = pilot.app.screen.query_one("DetailPane")
        assert pane.region.x > 80
        await pilot.resize_terminal(80, 24)
        await soon(pilot, lambda: pane.region.x == 0)
        assert pane.region.y > 5
        await sees(pilot, "Overview")


@pytest.mark.parametrize("theme", ["studyctl-light", "studyctl-16"])
async def test_other_themes_show_the_same_words(runs: Path, theme: str) -> None:
    async with monitor(studies.failed(runs / "small")) as pilot:
        await ready(pilot)
        before = text_of(pilot)
        pilot.app.theme = theme
        await pilot.pause()
        assert text_of(pilot) == before


async def test_every_key_is_described(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        await ready(pilot)
        own = [one for one in pilot.app.screen.active_bindings.values() if not one.binding.system]
        assert all(one.binding.description for one in own)


# -- cost


class _Drawn:
    """Counts the lines of the table that are drawn."""

    def __init__(self, shown: TrialsTable, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: set[int] = set()
        draw = shown.render_line
        monkeypatch.setattr(shown, "render_line", lambda y: self.lines.add(y) or draw(y))


def _many(count: int = 10_000) -> Iterator[LiveTrial]:
    for number in range(count):
        model, variant = f"org/model-{number // 100}", f"wanda-0.{number % 100}"
        state = "running" if number < 8 else "pending"
        yield LiveTrial(f"model-{number // 100}.{variant}", model, "wanda", variant, state, 15, 0, 0,
                        StepId(StepKind.COMPRESS) if number < 8 else None, 3.0, 30.0, "block")  # fmt: skip


async def test_a_tick_draws_only_the_visible_lines_that_changed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies.empty(runs / "small")
    async with monitor(study, LARGE) as pilot:
        screen = await ready(pilot)
        monkeypatch.setattr(screen.study_app, "_watcher", None)
        await pilot.app.workers.wait_for_complete()
        trials = list(_many())
        view = View(study.paths, Snapshot("small", "", tuple(trials)))
        screen.show_view(view)
        await pilot.pause()
        drawn = _Drawn(table(pilot), monkeypatch)
        for number in (2, 5, 9_000):
            trials[number] = dataclasses.replace(trials[number], done=4.0, steps_done=1)
        screen.show_view(dataclasses.replace(view, snapshot=Snapshot("small", "", tuple(trials))))
        await pilot.pause()
        assert drawn.lines == {3, 6}
        await pilot.press("end")
        assert selected(pilot) == "model-99.wanda-0.99"
        await pilot.pause()
        assert "model-99" in text_of(pilot)


async def test_a_tick_without_news_draws_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        screen = await ready(pilot)
        await pilot.pause()
        drawn = _Drawn(table(pilot), monkeypatch)
        lines = screen.query_one(LinesView)
        monkeypatch.setattr(lines, "refresh", lambda *_, **__: pytest.fail("drawn for nothing"))
        assert screen.study_app.view is not None
        screen.show_view(dataclasses.replace(screen.study_app.view))
        await pilot.pause()
        assert drawn.lines == set()


# -- parts


def _trials() -> list[LiveTrial]:
    return list(_many(3))


@pytest.mark.parametrize("width", [40, 60, 79, 100, 160])
def test_a_line_is_as_long_as_its_header_at_any_width(width: int) -> None:
    trials = _trials()
    columns, gap = columns_for(width, widths(trials)), gap_of(width)
    listed = TrialList()
    listed.take(trials, {}, {})
    head = header(columns, gap, "ppl", reverse=True)
    parts = line(listed.row(0), columns, gap, cursor=True, marked=True)
    assert len("".join(text for text, _ in parts)) == len(head) <= max(width, 60)
    assert "▼" in head


def test_long_counts_become_percent() -> None:
    assert position(17, 30) == "17/30"
    assert position(500, 2000) == "25%"
    assert position(None, 30) == position(3, None) == ""


def test_a_selection_outside_of_the_list_is_none() -> None:
    listed = TrialList()
    listed.take(_trials(), {}, {})
    assert listed.get("other") is None
    assert listed.place_of(None) is None


def test_the_tail_of_a_log_is_bounded_and_cannot_move_the_cursor(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * MOST_BYTES + b"\nbar 1\rbar 2\r\n\x1b[31mred\x1b[0m \x1b]0;title\x07\x08end\n")
    tail = read_tail(log)
    assert tail.lines == ("…", "bar 2", "red end")
    assert read_tail(log, tail) is tail
    os.utime(log, (1, 1))
    assert read_tail(log, tail) is not tail


def test_long_lines_of_a_log_are_folded(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("abcdefgh")
    assert [line.plain for line in log_lines(read_tail(log), 3)] == ["abc", "def", "gh"]


def test_a_log_that_is_missing_or_unreadable_says_so(tmp_path: Path) -> None:
    assert log_lines(read_tail(tmp_path / "none.log"), 80)[0].plain == "nothing was printed"
    assert "cannot be read" in log_lines(read_tail(tmp_path), 80)[0].plain


def _shown(study: FakeStudy, trial: str = TRIAL) -> TrialView:
    from studyctl.store.live import Live

    live = Live(study.paths)
    live.refresh()
    detail = live.trial(trial)
    return TrialView(detail.trial, live.standings().get(trial), detail)


@pytest.mark.parametrize("width", [40, 46, 61, 78, 120])
def test_no_page_is_wider_than_it_may_be(runs: Path, width: int) -> None:
    shown = _shown(studies.failed(runs / "small"), "beta.wanda-0.5")
    assert shown.detail is not None
    drawn = [
        *overview(shown, width),
        *languages(shown.detail, width),
        *tasks(shown.detail, width),
        *layers(shown.detail, width)[0],
    ]
    assert [line.plain for line in drawn if line.cell_length > max(width, 52)] == []


async def test_pages_say_that_details_are_still_read(runs: Path) -> None:
    async with monitor(studies.finished(runs / "small")) as pilot:
        screen = await ready(pilot)
        for name in PAGES:
            screen.pane.turn_to(name)
            screen.pane.take(TrialView(_trials()[0]))
            assert page(pilot).endswith("reading …")


def test_a_ratio_that_is_infinite_or_missing_is_drawn(runs: Path) -> None:
    shown = _shown(studies.finished(runs / "small"))
    assert shown.detail is not None
    rows = [
        row._replace(ppl_ratio=ratio)
        for row, ratio in zip(shown.detail.languages, (float("inf"), None, 0.9), strict=True)
    ]
    assert isinstance(rows[0], LanguageResult)
    lines = languages(dataclasses.replace(shown.detail, languages=tuple(rows)), 80)
    assert "━" in lines[1].plain
    assert "━" not in lines[2].plain + lines[3].plain


def test_layers_say_where_more_damping_was_needed_and_what_has_no_error(runs: Path) -> None:
    shown = _shown(studies.finished(runs / "small"))
    assert shown.detail is not None
    rows = tuple(
        LayerResult(0, f"model.layers.0.{name}_proj", error, 0.5, 9.0, 1.0, damping)
        for name, error, damping in (("q", 0.1, 0.01), ("k", None, None), ("v", float("nan"), 0.1))
    )
    planned = dataclasses.replace(shown.detail.planned, settings={"damping": 0.01})
    detail = dataclasses.replace(shown.detail, layers=rows, planned=planned)
    lines = "\n".join(line.plain for line in layers(detail, 60)[0])
    assert "▇–!" in lines
    assert "! damping 0.1" in lines
    assert "largest 0.100 at block 0 q" in lines


def test_a_warning_is_wrapped_and_never_markup(runs: Path) -> None:
    shown = _shown(studies.finished(runs / "small"))
    assert shown.detail is not None
    finding = Finding(TRIAL, "org/alpha", "wanda", "wanda-0.5", None, "[red]" + "many words " * 20, 1, None)
    detail = dataclasses.replace(shown.detail, warnings=(finding,))
    lines = [line.plain for line in overview(dataclasses.replace(shown, detail=detail), 40)]
    at = next(number for number, text in enumerate(lines) if text.startswith("! [red]many"))
    assert lines[at + 1].startswith("  ")


def test_the_time_of_a_dead_runner_is_absolute(runs: Path) -> None:
    from studyctl.store.holder import Holder

    beat = datetime(2026, 1, 1, 12, tzinfo=UTC)
    holder = Holder(host="node1", pid=42, created=0.0, since=beat, heartbeat=beat, attempts=())
    message = banner(View(StudyPaths(runs / "x"), Snapshot("x", "", tuple(_trials()), holder)))
    assert "2026-01-01 12:00:00 UTC" in message.plain


def screen_of(pilot: Pilot[Any]) -> MonitorScreen:
    assert isinstance(pilot.app.screen, MonitorScreen)
    return pilot.app.screen


class TestHeatMaps:
    """Below the trials of a wide terminal: languages and tasks against dense, of the selected trial's model."""

    async def test_where_there_is_room_they_point_at_the_selected_trial(self, runs: Path) -> None:
        async with monitor(studies.finished(runs / "small"), LARGE) as pilot:
            await sees(pilot, "Languages: bits/byte change", "Tasks: accuracy change")
            heat = screen_of(pilot).heat
            (_, languages_map), (_, tasks_map) = heat._maps
            assert languages_map.region.bottom <= tasks_map.region.y
            await pilot.press("down")
            await soon(pilot, lambda: languages_map.line is not None and languages_map.line.key == TRIAL)
            assert tasks_map.line is not None
            assert tasks_map.line.key == TRIAL
            assert "dense" not in [line.label for line in languages_map.sheet.lines]

    async def test_names_and_legends_are_not_cut(self, runs: Path) -> None:
        async with StudyApp("monitor", study=studies.recorded(runs / "pocket")).run_test(size=LARGE) as pilot:
            names = "yesno entailment completion pronoun easy hard openbook mean"

            def left() -> list[str]:
                return [line[:96] for line in text_of(pilot).splitlines()]

            await soon(pilot, lambda: names in [" ".join(line.split()) for line in left()])
            titles = [line for line in left() if " change  " in line]
            assert len(titles) == 2
            assert not any("…" in title for title in titles)

    async def test_with_less_room_languages_come_first(self, runs: Path) -> None:
        async with monitor(studies.finished(runs / "small"), (160, 18)) as pilot:
            await sees(pilot, "Languages: bits/byte change")
            assert "Tasks: accuracy change" not in text_of(pilot)

    @pytest.mark.parametrize("size", [SMALL, (110, 50), (160, 16)])
    async def test_without_room_there_are_none(self, runs: Path, size: tuple[int, int]) -> None:
        async with monitor(studies.finished(runs / "small"), size) as pilot:
            await sees(pilot, "wanda-0.5")
            await pilot.pause(0.2)
            assert not screen_of(pilot).heat.display

    async def test_a_study_without_results_has_none(self, runs: Path) -> None:
        async with monitor(studies.empty(runs / "small"), LARGE) as pilot:
            await sees(pilot, "wanda-0.5")
            assert not screen_of(pilot).heat.display

    async def test_another_model_has_others(self, runs: Path) -> None:
        async with monitor(studies.finished(runs / "small"), LARGE) as pilot:
            await sees(pilot, "Languages: bits/byte change")
            (_, grid), _ = screen_of(pilot).heat._maps
            await pilot.press("end")
            await soon(pilot, lambda: grid.line is not None and grid.line.key.startswith("beta."))
