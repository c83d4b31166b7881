"""The SQL screen: completing, formatting, saving and recalling a query, and copying what it gives."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from studyctl.sql.saved import delete_query, save_query, saved_file, saved_queries
from studyctl_tui.shared.dialogs import Ask
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.ready import ReadyDialog
from studyctl_tui.sql.result import CLIPBOARD_BYTES, ResultPane
from studyctl_tui.sql.save import SaveDialog
from tests.store.builder import FakeStudy
from tests.tui.sql import app_on, asked, messages, opened, shown, table_of, until

pytestmark = pytest.mark.usefixtures("own_state")

KEYS = {" ": "space", ".": "full_stop", "\n": "enter", "_": "underscore", "(": "left_parenthesis"}


async def editing(pilot: Pilot[str], text: str) -> SqlEditor:
    """Put a text into the editor, with the cursor at ``|``, once the words to complete are there."""
    editor = (await opened(pilot)).query_one(SqlEditor)
    await until(pilot, lambda: editor.catalog is not None)
    before, _, after = text.partition("|")
    editor.put(before + after)
    editor.move_cursor((before.count("\n"), len(before) - before.rfind("\n") - 1))
    await pilot.pause()
    return editor


async def typed(pilot: Pilot[str], text: str) -> None:
    await pilot.press(*(KEYS.get(character, character) for character in text))
    await pilot.pause()


def offered(editor: SqlEditor) -> list[str]:
    return [item.label for item in editor.completions._items] if editor.completions.is_open else []


class TestCompletion:
    async def test_it_opens_at_two_letters_and_a_key_writes_the_word(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select | from leaderboard")
            await typed(pilot, "w")
            assert offered(editor) == []
            await typed(pilot, "o")
            assert offered(editor)[0] == "worst_language"
            await pilot.press("down", "tab")
            assert editor.text == "select worst_bits_per_byte_change from leaderboard"
            assert offered(editor) == []
            await pilot.press("ctrl+z")
            assert editor.text == "select wo from leaderboard"

    async def test_a_dot_opens_the_columns_of_its_table(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select | from items i")
            await typed(pilot, "i.")
            assert {"task", "item", "gold"} <= set(offered(editor))
            await typed(pilot, "gol\n")
            assert editor.text == "select i.gold from items i"

    @pytest.mark.parametrize("key", ["ctrl+space", "ctrl+@", "ctrl+n"])
    async def test_a_key_opens_it_anywhere(self, small: FakeStudy, key: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select 1 from |")
            await pilot.press(key)
            assert "leaderboard" in offered(editor)
            await pilot.press("escape")
            assert offered(editor) == []
            assert editor.has_focus
            editor.put("select 'a'")
            editor.move_cursor((0, 9))
            await pilot.press(key)
            assert "nothing else could be written here" in messages(pilot)[-1]

    async def test_enter_after_a_whole_word_begins_a_line(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "|")
            await typed(pilot, "select model\nfrom")
            assert editor.text == "select model\nfrom"
            await typed(pilot, "\n")
            assert editor.text == "select model\nfrom\n"

    async def test_text_that_is_put_in_or_brought_back_opens_nothing(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select mo|")
            assert offered(editor) == []
            await pilot.press("ctrl+z", "ctrl+y", "left", "right")
            assert offered(editor) == []

    async def test_before_the_catalog_is_read_one_can_type(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "|")
            editor.catalog = None
            await typed(pilot, "select mo")
            assert editor.text == "select mo"
            assert offered(editor) == []

    async def test_it_closes_with_the_focus_and_away_from_its_word(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select |\nfrom leaderboard")
            await typed(pilot, "mo")
            assert offered(editor) != []
            await pilot.press("down", "escape", "down")
            assert editor.cursor_location[0] == 1
            await pilot.press("up", "end")
            await typed(pilot, "d")
            assert offered(editor) != []
            await pilot.press("home")
            assert offered(editor) == []

    async def test_it_can_be_clicked(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select 1 from |")
            await typed(pilot, "lea")
            await pilot.click(editor.completions, offset=(3, 0))
            assert editor.text == "select 1 from leaderboard"

    @pytest.mark.parametrize("size", [(80, 24), (60, 20), (60, 16)])
    @pytest.mark.parametrize("text", ["select |", f"select {'a, ' * 14}|", "select 1\n\n\n\n|"])
    async def test_it_stays_on_the_screen(self, small: FakeStudy, size: tuple[int, int], text: str) -> None:
        async with app_on(small).run_test(size=size) as pilot:
            editor = await editing(pilot, text + " from leaderboard")
            await pilot.press("ctrl+space")
            await pilot.pause()
            assert pilot.app.screen.region.contains_region(editor.completions.region)
            assert editor.completions.region.height == 8
            assert editor.cursor_screen_offset.y not in range(*editor.completions.region.line_span)


class TestFormat:
    async def test_a_key_lays_the_query_out_and_undo_takes_it_back(self, small: FakeStudy) -> None:
        sql = "SELECT variant,acc FROM leaderboard WHERE acc>0.1"
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, sql.replace("acc>", "ac|c>"))
            await pilot.press("ctrl+l")
            await until(pilot, lambda: editor.text != sql)
            assert editor.text == "select variant, acc\nfrom leaderboard\nwhere acc > 0.1"
            assert editor.cursor_location == (2, 8)  # still within `acc`
            await pilot.press("ctrl+z")
            assert editor.text == sql

    async def test_the_cursor_at_the_end_stays_there(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select 1 FROM range(3)|")
            await pilot.press("ctrl+l")
            await until(pilot, lambda: "\n" in editor.text)
            assert editor.cursor_location == (1, len("from range(3)"))

    async def test_what_cannot_be_read_stays_and_the_place_is_told(self, small: FakeStudy) -> None:
        sql = "select acc\nfrom leaderboard)"
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, sql)
            await pilot.press("ctrl+l")
            await until(pilot, lambda: bool(messages(pilot)))
            assert messages(pilot)[0].startswith("not formatted: line 2, column 17: Parser Error")
            assert editor.text == sql
            assert editor.cursor_location == (1, 16)

    async def test_elsewhere_and_during_a_query_it_does_nothing(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "SELECT 1")
            await pilot.press("f6", "ctrl+l")
            await pilot.pause()
            assert screen.query_one(SqlEditor).text == "SELECT 1"


class TestSaved:
    async def save(self, pilot: Pilot[str], name: str) -> None:
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(pilot.app.screen, SaveDialog))
        pilot.app.screen.query_one(Input).value = name
        await pilot.pause()
        await pilot.press("enter")

    async def test_a_query_is_saved_under_a_name_and_recalled_before_the_ready_ones(
        self, small: FakeStudy
    ) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            editor = await editing(pilot, "select 'mine' as x")
            screen = pilot.app.screen
            await self.save(pilot, " my question ")
            await until(pilot, lambda: pilot.app.screen is screen)
            assert messages(pilot)[-1] == "saved as my question; ctrl+o has it"
            editor.put("")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: "my question (saved)" in shown(pilot))
            lines = shown(pilot).splitlines()
            places = [
                next(n for n, line in enumerate(lines) if text in line) for text in ("(saved)", "Leaderboard")
            ]
            assert places[0] < places[1]
            await pilot.press("enter")
            await until(pilot, lambda: screen.query_one(ResultPane).answer is not None)
            assert table_of(pilot).rows.source_data.to_pylist() == [{"x": "mine"}]

    async def test_a_name_that_exists_asks_once_more(self, small: FakeStudy) -> None:
        save_query("mine", "select 1", replace=False)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "select 2")
            screen = pilot.app.screen
            await self.save(pilot, "mine")
            await until(pilot, lambda: "exists already" in shown(pilot))
            assert saved_queries()[0].sql == "select 1"
            await pilot.press("enter")
            await until(pilot, lambda: pilot.app.screen is screen)
            assert saved_queries()[0].sql == "select 2"

    async def test_a_recalled_one_is_saved_under_its_name_again(self, small: FakeStudy) -> None:
        save_query("mine", "select 1", replace=False)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: "mine (saved)" in shown(pilot))
            await pilot.press("ctrl+e", "ctrl+s")
            await until(pilot, lambda: isinstance(pilot.app.screen, SaveDialog))
            assert pilot.app.screen.query_one(Input).value == "mine"

    @pytest.mark.parametrize(
        ("name", "what"), [("  ", "a name is needed"), ("n" * 61, "at most 60 characters")]
    )
    async def test_a_name_that_will_not_do(self, small: FakeStudy, name: str, what: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "select 1")
            await self.save(pilot, name)
            await until(pilot, lambda: what in shown(pilot))
            await pilot.press("escape")
            assert not isinstance(pilot.app.screen, SaveDialog)
            assert saved_queries() == []

    async def test_an_empty_query_is_not_saved(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, " \n")
            await pilot.press("ctrl+s")
            assert messages(pilot) == ["there is no query"]

    async def test_a_folder_that_cannot_be_written_is_told_in_the_dialog(
        self, small: FakeStudy, tmp_path: Path
    ) -> None:
        (tmp_path / "state").write_text("in the way")
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "select 1")
            await self.save(pilot, "mine")
            await until(pilot, lambda: "cannot be written" in shown(pilot))
            assert isinstance(pilot.app.screen, SaveDialog)

    async def test_a_key_deletes_a_saved_one_after_asking(self, small: FakeStudy) -> None:
        save_query("mine", "select 1", replace=False)
        save_query("other", "select 2", replace=False)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: "mine (saved)" in shown(pilot))
            await pilot.press("ctrl+d")
            assert isinstance(pilot.app.screen, Ask)
            assert "select 1" in shown(pilot)
            await pilot.press("escape")
            assert [query.name for query in saved_queries()] == ["mine", "other"]
            await pilot.press("ctrl+d", "d")
            await until(pilot, lambda: "mine (saved)" not in shown(pilot))
            assert "other (saved)" in shown(pilot)
            assert isinstance(pilot.app.screen, ReadyDialog)
            assert [query.name for query in saved_queries()] == ["other"]

    async def test_a_ready_one_cannot_be_deleted(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "")
            await pilot.press("ctrl+o", "ctrl+d")
            assert messages(pilot) == ["only a saved query can be deleted"]

    async def test_the_cursor_stays_when_the_saved_ones_come(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "")
            await pilot.press("ctrl+o", "down")
            dialog = pilot.app.screen
            assert isinstance(dialog, ReadyDialog)
            before = dialog.chosen
            save_query("mine", "select 1", replace=False)
            dialog._read()
            await until(pilot, lambda: "mine (saved)" in shown(pilot))
            assert dialog.chosen == before
            delete_query("mine")

    async def test_saved_queries_that_cannot_be_read_leave_the_ready_ones(self, small: FakeStudy) -> None:
        saved_file().mkdir(parents=True)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await editing(pilot, "")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: any("saved queries cannot be read" in one for one in messages(pilot)))
            assert "Best variant per bit" in shown(pilot)


class TestCopyingAll:
    async def test_all_rows_are_copied_below_their_headers(self, small: FakeStudy) -> None:
        sql = "select 1 as a, 'x' || chr(9) || 'y' as \"b c\" union all select 2, null order by a"
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, sql)
            await pilot.press("f6", "a")
            assert pilot.app.clipboard == "a\tb c\n1\tx y\n2\t\n"
            assert messages(pilot) == ["copied 2 rows with headers, tabs between cells"]

    async def test_no_rows_are_headers(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a where false")
            await pilot.press("f6", "a")
            assert pilot.app.clipboard == "a\n"
            assert messages(pilot) == ["copied 0 rows with headers, tabs between cells"]

    async def test_of_too_many_the_first_whole_rows_are_copied_and_it_is_said(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 'ü' || range as n from range(50000)")
            await pilot.press("f6", "a")
            lines = pilot.app.clipboard.splitlines()
            assert (
                len(pilot.app.clipboard.encode()) <= CLIPBOARD_BYTES < len(pilot.app.clipboard.encode()) + 9
            )
            assert (lines[0], lines[1], lines[-1]) == ("n", "ü0", f"ü{len(lines) - 2}")
            count = f"{len(lines) - 1:,}"
            assert messages(pilot)[0].startswith(f"copied only the first {count} rows: terminals take")
            assert "ctrl+e writes all 50,000 to a file" in messages(pilot)[0]

    async def test_a_row_that_is_too_long_is_not_copied(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select repeat('x', 80000) as long")
            await pilot.press("f6", "a")
            assert messages(pilot)[0].startswith("nothing was copied: terminals take")
            assert pilot.app.clipboard == ""


@pytest.mark.parametrize("keys", [["f5"], ["f5", "f6"], ["f2"]])
async def test_the_keys_of_the_screen_fit_at_80_columns(small: FakeStudy, keys: list[str]) -> None:
    async with app_on(small).run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        for key in keys:
            await pilot.press(key)
            await until(pilot, lambda: not screen.busy)
            await pilot.pause()
        footer = shown(pilot).splitlines()[-1]
        assert "f7 Plot" in footer
        assert "^s Save" in footer
