"""Reading flips in the Compare screen: the prompt, the choices, and what both models think of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from textual.containers import VerticalScroll
from textual.pilot import Pilot

from studyctl.contract.item_texts import ITEM_TEXTS
from studyctl.journal.parts import keep_texts
from studyctl.store.publish import publish
from studyctl_tui.app import StudyApp
from studyctl_tui.compare.flips import FlipsScreen
from studyctl_tui.compare.screen import CompareScreen
from tests.hostile import BAD, UNSEEN, WORDS
from tests.store import builder
from tests.store.builder import ITEMS, FakeStudy
from tests.tui import studies
from tests.tui.app import until
from tests.tui.test_compare import compare, shown, text_of
from tests.tui.test_hostile import raw

SMALL, SMALLEST = (80, 24), (60, 20)


@pytest.fixture
def finished(runs: Path) -> FakeStudy:
    return studies.finished(runs / "small")


def with_texts(runs: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, choices: list[str]) -> FakeStudy:
    """Return a study whose items all have these texts."""

    def texts(task: str, items: Any = range(ITEMS)) -> pa.Table:
        rows = [{"item": item, "prompt": prompt, "choices": choices, "target": None} for item in items]
        return pa.Table.from_pylist(rows, schema=ITEM_TEXTS)

    monkeypatch.setattr(builder, "item_texts", texts)
    study = FakeStudy(runs / "texts", models=("org/alpha",)).write_all()
    publish(study.paths)
    return study


async def opened(pilot: Pilot[str], *keys: str) -> StudyApp:
    """Go to the tasks, to a cell of the first variant, and open its flips."""
    app = await shown(pilot)
    await pilot.press("tab", *keys, "f")
    await until(pilot, lambda: isinstance(app.screen, FlipsScreen) and " of " in text_of(app))
    await pilot.pause()
    return app


def flat(app: StudyApp) -> str:
    return " ".join(text_of(app).replace("│", " ").split())


def prompt_of(app: StudyApp) -> VerticalScroll:
    return app.screen.query_one("#flips-prompt", VerticalScroll)


@pytest.mark.parametrize("size", [SMALL, SMALLEST])
async def test_an_item_has_prompt_choices_and_the_likelihoods_of_both_models(
    finished: FakeStudy, size: tuple[int, int]
) -> None:
    """wanda-0.5 loses items 0 to 5 and wins item 12; the odd ones are in the harbour."""
    async with compare(finished).run_test(size=size) as pilot:
        app = await opened(pilot, "right")
        text = flat(app)
        assert "Flips of wanda-0.5" in text
        assert "1 of 7: arc_easy item 0, right → wrong by acc" in text
        assert "arc_easy: where is boat 0? Answer:" in text
        assert "dense variant ✓ right, ◂ most likely; nats" in text
        assert "✓ -1.00◂ -1.00 at sea -2.00 -2.00◂ in the harbour" in text
        await pilot.press("n")
        await until(pilot, lambda: "2 of 7" in flat(app))
        assert "-1.00 -1.00◂ at sea ✓ -3.00◂ -3.00 in the harbour" in flat(app)


async def test_n_and_p_go_around(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await opened(pilot, "right")
        await pilot.press("p")
        await until(pilot, lambda: "7 of 7: arc_easy item 12, wrong → right by acc" in flat(app))
        await pilot.press("right")
        await until(pilot, lambda: "1 of 7: arc_easy item 0" in flat(app))
        await pilot.press("left", "left")
        await until(pilot, lambda: "6 of 7: arc_easy item 5" in flat(app))


async def test_on_the_name_of_a_variant_the_flips_of_all_tasks_follow_each_other(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await opened(pilot)
        assert "1 of 14: arc_easy item 0" in flat(app)
        await pilot.press("p")
        await until(pilot, lambda: "14 of 14: boolq item 12" in flat(app))


async def test_escape_goes_back_to_the_cell(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL) as pilot:
        app = await opened(pilot, "right", "right")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        assert "wanda-0.5 · boolq" in flat(app)


@pytest.mark.parametrize("size", [SMALL, SMALLEST])
async def test_a_long_prompt_shows_its_question_first_and_scrolls(
    runs: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    prompt = "The first line.\n" + "An example.\n" * 60 + "The question?"
    long = "a choice that goes on and on, " * 12
    study = with_texts(runs, monkeypatch, prompt, [f"{long}one", f"{long}two"])
    async with compare(study).run_test(size=size) as pilot:
        app = await opened(pilot, "right")
        await until(pilot, lambda: "The question?" in flat(app))
        assert "The first line." not in flat(app)
        assert "✓ -1.00◂ -1.00 a choice that goes on" in flat(app)
        await pilot.press("home")
        await until(pilot, lambda: "The first line." in flat(app))
        await pilot.press("tab", "end")
        await until(pilot, lambda: "on, two" in flat(app))
        assert prompt_of(app).size.height >= 3, "long choices leave some lines to the prompt"


async def test_without_texts_there_are_numbers_and_the_reason(runs: Path) -> None:
    study = FakeStudy(runs / "old", models=("org/alpha",), texts=False).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await opened(pilot, "right")
        assert "The study keeps no texts of this task: it was measured before version 0.3" in flat(app)
        assert "✓ -1.00◂ -1.00 choice 0 -2.00 -2.00◂ choice 1" in flat(app)


async def test_texts_of_strangers_are_clean(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = with_texts(runs, monkeypatch, f"{BAD}\nAnswer:", [BAD, "[b]no[/b]"])
    async with compare(study).run_test(size=(160, 30)) as pilot:
        app = await opened(pilot, "right")
        assert flat(app).count(WORDS) == 2
        assert "[b]no[/b]" in flat(app)
        assert not set(raw(pilot)) & set(UNSEEN)


async def test_nothing_flipped_says_so(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "correct", lambda variant, item: int(item < 12))
    study = FakeStudy(runs / "same", models=("org/alpha",)).write_all()
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await shown(pilot)
        await pilot.press("tab", "right", "f")
        await until(pilot, lambda: "no item flipped" in flat(app))
        await pilot.press("n", "p", "escape")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))


async def test_dense_has_no_flips_and_other_parts_no_key(finished: FakeStudy) -> None:
    async with compare(finished).run_test(size=SMALL, notifications=True) as pilot:
        app = await shown(pilot)
        await pilot.press("f")
        assert isinstance(app.screen, CompareScreen)
        await pilot.press("tab", "p", "home", "f")  # the figure `accuracy` has a line for dense
        assert isinstance(app.screen, CompareScreen)
        assert [one.message for one in app._notifications] == [
            "items flip against dense: put the cursor on another variant"
        ]


async def test_generated_answers_stand_below_each_other(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def items(task: str, variant: str, numbers: Any = range(ITEMS)) -> pa.Table:
        rows = [
            {
                "task": task, "item": item, "gold": None, "predicted": None, "correct": bool(builder.correct(variant, item)),
                "correct_norm": None, "score": float(builder.correct(variant, item)), "passage": str(item),
                "loglikelihoods": [], "answer": f"{variant} says {item}",
            }
            for item in numbers
        ]  # fmt: skip
        schema = made(task, variant, numbers).schema.append(pa.field("answer", pa.string()))
        return pa.Table.from_pylist(rows, schema=schema)

    made = builder.item_table
    monkeypatch.setattr(builder, "item_table", items)
    study = FakeStudy(runs / "generated", models=("org/alpha",), tasks=("boolq",), texts=False).write_all()
    rows = [{"item": item, "prompt": f"Q{item}", "choices": [], "target": "a boat"} for item in range(ITEMS)]
    name = keep_texts(study.paths, "key", pa.Table.from_pylist(rows, schema=ITEM_TEXTS)).name
    for journal in study.paths.journal.glob("*.jsonl"):
        journal.write_text(
            journal.read_text().replace('"task":"boolq","part"', f'"texts":"{name}","task":"boolq","part"')
        )
    publish(study.paths)
    async with compare(study).run_test(size=SMALL) as pilot:
        app = await opened(pilot, "right")
        assert "✓ right a boat dense dense says 0 variant wanda-0.5 says 0" in flat(app)
