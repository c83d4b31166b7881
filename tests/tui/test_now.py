"""What happens now: running steps with their pace, memory, latest results, warnings."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from textual.pilot import Pilot

from studyctl.contract.steps import StepId, StepKind
from studyctl.files import StudyPaths
from studyctl.store.holder import Holder, MemoryUse, WorkerState
from studyctl.store.live import LiveTrial, Pace, Snapshot
from studyctl.store.results import Finding
from studyctl_tui.app import StudyApp
from studyctl_tui.monitor.now import NowPane, now_lines, pace_text, spark
from studyctl_tui.shared.view import View
from tests.tui import studies

GIB = 1 << 30


def trial(variant: str, state: str, **details: object) -> LiveTrial:
    live = LiveTrial(f"alpha.{variant}", "org/alpha", "wanda", variant, state, 6, 0, 1)
    return replace(live, **details)  # type: ignore[arg-type]


def view(*trials: LiveTrial, runner: Holder | None = None, warnings: tuple[Finding, ...] = ()) -> View:
    snapshot = Snapshot("mine", "", trials, runner, runner is not None)
    return View(StudyPaths(Path("runs/mine")), snapshot, warnings=warnings)


def texts(shown: View, width: int = 64) -> list[str]:
    return [line.plain for line in now_lines(shown, width)]


def runner(**details: object) -> Holder:
    now = datetime.now(UTC)
    holder = Holder(host="node1", pid=1, created=0.0, since=now, heartbeat=now, attempts=())
    return replace(holder, **details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pace", "text"),
    [
        (Pace(18.0), "for 18 s"),
        (Pace(18.0, 2.345), "for 18 s · 2.35 window/s"),
        (Pace(18.0, 0.25), "for 18 s · 4.0 s per window"),
        (Pace(90.0, 2.0, (20.0, 24.4)), "for 1 min 30 s · 2 window/s · 20 s to 24 s left"),
        (Pace(90.0, 2.0, (20.1, 20.2)), "for 1 min 30 s · 2 window/s · 20 s left"),
    ],
)
def test_a_pace_in_words(pace: Pace, text: str) -> None:
    assert pace_text(pace, "window") == text


def test_running_trials_come_first_with_step_and_pace() -> None:
    step = StepId(StepKind.PERPLEXITY, "sw")
    running = trial("wanda-0.5", "running", step=step, done=3, total=8, unit="window", pace=Pace(6.0, 0.5))
    assert texts(view(running, runner=runner()))[:2] == [
        "▶ wanda-0.5  ppl sw 3/8",
        "  for 6.0 s · 2.0 s per window",
    ]


def test_of_many_running_trials_four_are_named() -> None:
    many = [trial(f"wanda-0.{number}", "running") for number in range(1, 8)]
    assert texts(view(*many, runner=runner()))[-1] == "  and 3 more"


def test_nothing_runs_once_its_runner_is_gone() -> None:
    assert texts(view(trial("wanda-0.5", "stopped"))) == []


class TestMemory:
    def test_of_the_host_with_the_run_so_far(self) -> None:
        use = MemoryUse(seconds=8.0, memory_bytes=(GIB, 2 * GIB, 4 * GIB))
        lines = texts(view(runner=runner(memory_bytes=3 * GIB, memory_total_bytes=4 * GIB, memory_use=use)))
        assert lines == ["memory 3.0 GiB of 4.0 GiB  ▃▅█ 24 s"]

    def test_of_gpus_where_there_are_some(self) -> None:
        use = MemoryUse(seconds=8.0, device_bytes=(GIB, 4 * GIB, 2 * GIB))
        workers = (WorkerState(name="cuda:0", device_bytes=GIB), WorkerState(name="cuda:1", device_bytes=GIB))
        assert texts(view(runner=runner(memory_use=use, workers=workers))) == [
            "GPUs   2.0 GiB, peak 4.0 GiB  ▃█▅ 24 s"
        ]

    def test_of_a_runner_that_kept_no_record(self) -> None:
        assert texts(view(runner=runner(memory_bytes=3 * GIB))) == ["memory 3.0 GiB"]

    @pytest.mark.parametrize("width", range(12))
    def test_bars_are_the_newest_that_fit(self, width: int) -> None:
        assert spark((0, 7, 14), 14, width) == "▁▅█"[max(0, 3 - width) :][:width]


def test_what_ended_last_comes_first_with_its_figures_or_its_error() -> None:
    ended = [
        trial("early", "done", at="2026-11-25T10:00:00.000+00:00"),
        trial("late", "failed", at="2026-11-25T11:30:00.000+00:00", error="out of memory\nat block 3"),
        trial("waiting", "pending", at="2026-11-25T12:00:00.000+00:00"),
    ]
    assert texts(view(*ended)) == ["latest (UTC)", "11:30 ✗ late  out of memory at block 3", "10:00 ✓ early"]


def test_a_warning_of_many_trials_stands_once() -> None:
    found = [
        Finding(f"alpha.{name}", "org/alpha", "gptq", name, stage, message, 1, None)
        for name, stage, message in (
            ("gptq-4bit", "compress", "damping was raised"),
            ("gptq-3bit", "compress", "damping was raised"),
            ("rtn-4bit", None, "a part is missing"),
        )
    ]
    assert texts(view(warnings=tuple(found))) == [
        "warnings",
        "! gptq-4bit compress and 1 more: damping was raised",
        "! rtn-4bit: a part is missing",
    ]


class TestOnTheScreen:
    @staticmethod
    async def shown(pilot: Pilot[str]) -> NowPane:
        pane = pilot.app.screen.query_one(NowPane)
        for _ in range(200):
            await pilot.pause(0.01)
            if "s per block" in str(pane.content):
                break
        return pane

    @pytest.mark.parametrize(
        "size", [(160, 50), (80, 50), (120, 40)], ids=lambda size: "x".join(map(str, size))
    )
    async def test_it_takes_what_the_details_leave(self, runs: Path, size: tuple[int, int]) -> None:
        paths = studies.recorded_running(runs / "small")
        async with StudyApp("monitor", study=paths).run_test(size=size) as pilot:
            pane = await self.shown(pilot)
            assert "s per block" in str(pane.content)
            assert "ppl × 2.488" in str(pane.content)
            assert pane.region.bottom <= size[1] - 1
            details = pilot.app.screen.query_one("DetailPane")
            assert details.size.height >= 18

    @pytest.mark.parametrize(
        "size", [(80, 24), (60, 20), (120, 24)], ids=lambda size: "x".join(map(str, size))
    )
    async def test_a_low_terminal_has_none(self, runs: Path, size: tuple[int, int]) -> None:
        paths = studies.recorded_running(runs / "small")
        async with StudyApp("monitor", study=paths).run_test(size=size) as pilot:
            await pilot.pause(0.3)
            assert not pilot.app.screen.query_one(NowPane).display
