"""The SQL screen: writing a query, running and stopping it, and what can be done with its rows."""

import errno
import json
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from studyctl.sql.history import recall, remember
from studyctl.sql.questions import questions
from studyctl.store.publish import publish
from studyctl_tui.app import StudyApp
from studyctl_tui.sql.cells import Rows, cell_text
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.export import WRITERS, ExportDialog
from studyctl_tui.sql.pick import PickDialog
from studyctl_tui.sql.plot import PlotDialog, bars, plottable
from studyctl_tui.sql.result import ResultPane, ResultTable
from studyctl_tui.sql.status import QueryLine
from studyctl_tui.sql.tree import CatalogPane, CatalogTree
from tests.store.builder import FakeStudy
from tests.tui import studies
from tests.tui.sql import app_on, asked, calm, messages, opened, shown, table_of, text_of, until

ENDLESS = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b WHERE a.range * b.range = -1"


pytestmark = pytest.mark.usefixtures("own_state")


class TestAsking:
    @pytest.mark.parametrize("key", ["ctrl+j", "f5"])
    async def test_the_first_query_is_there_and_a_key_runs_it(self, small: FakeStudy, key: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            assert pilot.app.screen.query_one(SqlEditor).text == questions()[0].sql
            await pilot.press(key)
            await until(pilot, lambda: "6 rows" in shown(pilot))
            assert "rtn-4bit-g64" in shown(pilot)
            assert "as of" in shown(pilot)

    async def test_plain_keys_type_and_the_query_stays(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            editor = screen.query_one(SqlEditor)
            editor.put("")
            await pilot.press("q", "1", "t", "question_mark", "space", "y")
            assert editor.text == "q1t? y"
            assert pilot.app.is_running

    async def test_only_what_is_selected_runs(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            editor = screen.query_one(SqlEditor)
            editor.put("select 1 as one;\nselect 2 as two")
            editor.selection = type(editor.selection)((0, 0), (0, 15))
            await pilot.press("ctrl+j")
            await until(pilot, lambda: screen.query_one(ResultPane).answer is not None)
            assert table_of(pilot).rows.source_data.to_pylist() == [{"one": 1}]

    async def test_of_several_statements_the_last_one_shows(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a; select 2 as b")
            assert table_of(pilot).rows.source_data.to_pylist() == [{"b": 2}]

    async def test_a_statement_without_rows_says_so(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "-- nothing")
            assert "no rows to show" in shown(pilot)

    async def test_an_empty_query_is_not_run(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask("  \n")
            await pilot.pause()
            assert messages(pilot) == ["there is no query"]

    async def test_the_next_result_takes_the_place_and_the_focus_of_the_last(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "select 1 as a")
            await pilot.press("f6")
            assert table_of(pilot).has_focus
            first = table_of(pilot)
            screen.query_one(SqlEditor).put("select 2 as b")
            await pilot.press("f5")
            await until(pilot, lambda: screen.query_one(ResultPane).table not in (None, first))
            await until(pilot, lambda: table_of(pilot).has_focus)
            assert len(screen.query(ResultTable)) == 1

    async def test_a_trial_can_be_asked_about_from_elsewhere(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask_about("alpha.wanda-0.5")
            await until(pilot, lambda: screen.query_one(ResultPane).answer is not None)
            kinds = set(table_of(pilot).rows.source_data.column("kind").to_pylist())
            assert kinds == {"perplexity", "acc", "acc_norm", "seconds"}

    async def test_undo_brings_back_what_a_ready_query_replaced(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            editor = screen.query_one(SqlEditor)
            editor.put("my own")
            editor.put("another")
            await pilot.press("ctrl+z")
            assert editor.text == "my own"


class TestMistakes:
    async def test_the_place_is_marked_and_the_message_says_what(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "select *\nfrom trails")
            editor = screen.query_one(SqlEditor)
            assert editor.cursor_location == (1, 5)
            assert any(span.style.underline for span in editor.get_line(1).spans if span.start == 5)  # type: ignore[union-attr]
            assert "trails does not exist" in shown(pilot)
            assert "line 2, column 6" in shown(pilot)
            assert "     ^^^^^^" in shown(pilot)
            assert "show tables" in shown(pilot)
            await pilot.press("x")
            assert not any(span.style.underline for span in editor.get_line(1).spans)  # type: ignore[union-attr]

    async def test_in_a_selection_the_place_is_that_of_the_whole_text(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            editor = screen.query_one(SqlEditor)
            editor.put("select 1;\nfoo; select wrong from trials")
            editor.selection = type(editor.selection)((1, 5), (1, 29))
            await pilot.press("ctrl+j")
            await until(pilot, lambda: "wrong" in text_of(screen.query_one(QueryLine)))
            await until(pilot, lambda: editor.cursor_location == (1, 12))

    async def test_writing_is_refused_with_a_hint(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "delete from trials")
            assert "read-only" in shown(pilot)
            assert "create temp table" in shown(pilot)

    async def test_brackets_in_a_message_are_no_markup(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select [/b] from trials")
            assert "the query is wrong" in shown(pilot)

    async def test_a_history_that_cannot_be_kept_does_not_stop_a_query(
        self, small: FakeStudy, tmp_path: Path
    ) -> None:
        (tmp_path / "state").write_text("in the way")
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 7 as x")
            await asked(pilot, "select 8 as x")
            assert table_of(pilot).rows.source_data.to_pylist() == [{"x": 8}]
            assert len([one for one in messages(pilot) if "history cannot be written" in one]) == 1


class TestStopping:
    @pytest.mark.parametrize("key", ["escape", "ctrl+c"])
    async def test_a_query_that_runs_is_stopped(self, small: FakeStudy, key: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask(ENDLESS)
            await until(pilot, lambda: "esc stops it" in shown(pilot))
            await pilot.press("f5")
            assert "a query runs: esc stops it" in messages(pilot)
            await pilot.press(key)
            await until(pilot, lambda: "stopped after" in shown(pilot))
            assert "the query was stopped" in shown(pilot)
            screen.ask("select 7 as x")
            await until(pilot, lambda: "1 row " in shown(pilot))

    async def test_the_screen_answers_while_a_query_runs(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask(ENDLESS)
            await pilot.press("a", "b")
            assert screen.query_one(SqlEditor).text.startswith("ab")
            await pilot.press("f2")
            assert not screen.query_one(CatalogPane).has_class("hidden")
            await pilot.press("escape")
            await until(pilot, lambda: "stopped after" in shown(pilot))

    async def test_leaving_does_not_wait_for_a_query(self, small: FakeStudy) -> None:
        app = app_on(small)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask(ENDLESS)
            await until(pilot, lambda: "esc stops it" in shown(pilot))
            await pilot.press("ctrl+q")
        assert not app.is_running

    async def test_an_answer_for_a_study_that_was_left_is_dropped(self, small: FakeStudy, runs: Path) -> None:
        other = studies.empty(runs / "other")
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            screen.ask(ENDLESS)
            cast(StudyApp, pilot.app).open_study(other.paths, "sql")
            await until(pilot, lambda: "nothing of other is published yet" in shown(pilot))
            assert "no query was run yet" in shown(pilot)


class TestResults:
    async def test_null_is_told_from_empty_and_values_are_on_one_line(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(
                pilot,
                "select null as nothing, '' as empty, 'a' || chr(10) || 'b' as lines, [1, 2] as list, "
                "{'k': 1.5} as struct, 1/3 as third, true as yes, 'a[b]c' as brackets, chr(27) || '[31m' as escape",
            )
            line = next(line for line in shown(pilot).splitlines() if "NULL" in line)
            for part in ("a⏎b", "[1, 2]", '{"k": 1.5}', "0.333333", "true"):
                assert part in line
            await pilot.press("f6", "ctrl+right")
            await pilot.pause()
            assert "a[b]c" in shown(pilot)
            assert "�[31m" in shown(pilot)

    async def test_long_text_is_cut_and_figures_are_not(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select repeat('long ', 100) as text, 123456789.0 / 7 as number")
            assert "long long long long long lo…" in shown(pilot)
            assert "1.76367e+07" in shown(pilot)

    async def test_the_status_says_where_the_cursor_is(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(120, 24)) as pilot:
            await asked(pilot, "select range as n, 'x' as label from range(2000)")
            assert "2,000 rows" in shown(pilot)
            await pilot.press("f6")
            table_of(pilot).focus()
            await pilot.press("down", "j", "right")
            await pilot.pause()
            assert "row 3 of 2,000 · label (string)" in shown(pilot)
            await pilot.press("G")
            await pilot.pause()
            assert "row 2,000 of 2,000" in shown(pilot)
            assert "1999" in shown(pilot)
            await pilot.press("g", "end")
            await pilot.pause()
            assert "1999" in shown(pilot)

    async def test_columns_of_equal_names_are_all_there(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a, 2 as a, 3 as a")
            assert table_of(pilot).rows.column_count == 3
            await pilot.press("f6", "right", "y")
            assert pilot.app.clipboard == "2"

    async def test_y_copies_the_cell_and_capital_y_the_row(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(
                pilot, "select 1/3 as x, [1, 2] as list, 'a' || chr(9) || 'b' as tab, null as nothing"
            )
            await pilot.press("f6", "y")
            assert pilot.app.clipboard == repr(1 / 3)
            await pilot.press("right", "ctrl+c")
            assert pilot.app.clipboard == "[1, 2]"
            await pilot.press("Y")
            assert pilot.app.clipboard == f"{1 / 3!r}\t[1, 2]\ta b\t"

    async def test_the_table_stays_where_it_was_when_the_theme_changes(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "from leaderboard")
            await pilot.press("f6", "t", "t")
            await pilot.pause()
            assert pilot.app.theme == "studyctl-16"
            assert "alpha.dense" in shown(pilot)


class TestPublications:
    async def test_nothing_published_yet_says_what_to_do(self, runs: Path) -> None:
        study = studies.empty(runs / "small")
        async with app_on(study).run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "nothing of small is published yet" in shown(pilot))
            assert "studyctl run" in shown(pilot)
            study.attempt("alpha.dense").run_all()
            await asked(pilot, "select 1")
            assert "studyctl db rebuild small" in shown(pilot)

    async def test_the_first_publication_brings_the_tree(self, runs: Path) -> None:
        study = studies.empty(runs / "small")
        async with app_on(study).run_test(size=(130, 40)) as pilot:
            await until(pilot, lambda: "nothing of small is published yet" in shown(pilot))
            publish(study.paths)
            await until(pilot, lambda: "leaderboard 0" in shown(pilot) or "leaderboard 6" in shown(pilot))
            await until(pilot, lambda: "runs the query" in shown(pilot))

    async def test_a_newer_publication_is_told_and_the_next_query_reads_it(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(120, 30)) as pilot:
            screen = await asked(pilot, "select title from about")
            small.write_plan(title="A newer title")
            publish(small.paths)
            await until(pilot, lambda: "newer are there" in shown(pilot))
            assert "A small study" in shown(pilot)
            screen.query_one(SqlEditor).focus()
            await pilot.press("ctrl+j")
            await until(pilot, lambda: "A newer title" in shown(pilot))
            assert "newer are there" not in shown(pilot)


class TestTree:
    async def test_it_is_hidden_in_a_narrow_terminal_until_f2(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            assert screen.query_one(CatalogPane).has_class("hidden")
            await pilot.press("f2")
            await until(pilot, lambda: "leaderboard" in shown(pilot))
            assert screen.query_one(CatalogTree).has_focus
            await pilot.press("f2")
            assert screen.query_one(CatalogPane).has_class("hidden")
            assert screen.query_one(SqlEditor).has_focus

    async def test_a_wide_terminal_has_it_at_the_left(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(120, 30)) as pilot:
            screen = await opened(pilot)
            assert not screen.query_one(CatalogPane).has_class("hidden")
            await pilot.resize_terminal(100, 30)
            await pilot.pause()
            assert screen.query_one(CatalogPane).has_class("hidden")

    async def test_columns_and_their_comments_and_enter_inserts_the_name(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 40)) as pilot:
            screen = await opened(pilot)
            await calm(pilot)
            screen.query_one(SqlEditor).put("select  from x")
            screen.query_one(SqlEditor).move_cursor((0, 7))
            await pilot.press("f2")
            tree = screen.query_one(CatalogTree)
            names = [str(node.label) for node in tree.root.children]
            assert "items 240" in names
            tree.move_cursor(tree.root.children[names.index("items 240")])
            await pilot.pause()
            comment = screen.query_one("#sql-comment", Static)
            assert text_of(comment) == "table items: one row per item of a task"
            await pilot.press("right", "down", "down")
            await pilot.pause()
            assert text_of(comment) == "model: id of the model as in the spec"
            await pilot.press("enter")
            assert screen.query_one(SqlEditor).text == "select model from x"
            await pilot.press("left")
            assert tree.cursor_node is not None
            assert str(tree.cursor_node.label) == "items 240"
            assert not tree.cursor_node.is_expanded

    async def test_new_counts_leave_open_what_is_open(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(120, 40)) as pilot:
            screen = await opened(pilot)
            tree = screen.query_one(CatalogTree)
            await until(pilot, lambda: bool(tree.root.children))
            attempts = next(node for node in tree.root.children if str(node.label) == "attempts 6")
            attempts.expand()
            small.attempt("alpha.dense", 2).finish()
            publish(small.paths)
            await until(pilot, lambda: str(attempts.label) == "attempts 7")
            assert attempts.is_expanded


class TestPanes:
    async def test_f6_and_tab_go_round(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(120, 30)) as pilot:
            screen = await asked(pilot, "select 1 as x")
            screen.query_one(SqlEditor).focus()
            for key in ("f6", "tab"):
                seen = []
                for _ in range(3):
                    await pilot.press(key)
                    seen.append(type(screen.focused).__name__)
                assert seen == ["ResultTable", "CatalogTree", "SqlEditor"]
            await pilot.press("shift+f6")
            assert isinstance(screen.focused, CatalogTree)
            await pilot.press("escape")
            assert isinstance(screen.focused, SqlEditor)

    async def test_keywords_are_highlighted_where_the_grammar_knows_them_and_where_not(
        self, small: FakeStudy
    ) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            editor = screen.query_one(SqlEditor)
            editor.put("from leaderboard")
            assert "bold" in str(editor.get_line(0).spans[0].style)
            editor.put("select count(*) from items where task = 'boolq' -- all of it")
            names = {name for _, _, name in editor._highlights[0]}
            assert {"keyword", "function", "relation", "string", "comment"} <= names


class TestReadyQueries:
    async def test_a_question_is_found_and_run(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            await pilot.press("ctrl+o")
            assert "Best variant per bit" in shown(pilot)
            await pilot.press("down", "up", "pagedown", "pageup")
            await pilot.press(*"suffer most")
            await pilot.pause()
            assert "how often it is the worst" in shown(pilot)
            await pilot.press("enter")
            await until(pilot, lambda: screen.query_one(ResultPane).answer is not None)
            assert "times_worst" in screen.query_one(SqlEditor).text
            assert [row["language"] for row in table_of(pilot).rows.source_data.to_pylist()] == [
                "sw",
                "zh",
                "en",
            ]

    async def test_it_can_be_put_in_without_being_run(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            await pilot.press("ctrl+o", "down", "ctrl+e")
            await until(pilot, lambda: pilot.app.screen is screen)
            assert screen.query_one(SqlEditor).text == questions()[1].sql
            assert not screen.busy
            assert screen.query_one(SqlEditor).has_focus

    async def test_it_can_be_clicked(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            await pilot.press("ctrl+o")
            await pilot.click(OptionList, offset=(2, 1))
            await until(pilot, lambda: screen.query_one(ResultPane).answer is not None)
            assert screen.query_one(SqlEditor).text == questions()[1].sql

    async def test_a_filter_that_nothing_meets_says_so_and_escape_closes(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot)
            before = screen.query_one(SqlEditor).text
            await pilot.press("ctrl+o", *"xyzzy", "enter")
            await pilot.pause()
            assert "nothing holds all of these words" in shown(pilot)
            await pilot.press("escape")
            assert pilot.app.screen is screen
            assert screen.query_one(SqlEditor).text == before

    async def test_what_was_asked_is_there_on_another_day(self, small: FakeStudy) -> None:
        remember("old", "select 'from before' as x")
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "select 'asked now' as x")
            assert next(one.sql for one in recall()) == "select 'asked now' as x"
            await pilot.press("f4")
            await until(pilot, lambda: isinstance(pilot.app.screen, PickDialog))
            await pilot.pause()
            assert "asked now" in shown(pilot)
            await pilot.press("down")
            await pilot.pause()
            assert "asked of old" in shown(pilot)
            await pilot.press("enter")
            await until(pilot, lambda: "from before" in screen.query_one(SqlEditor).text)

    async def test_nothing_was_asked_yet(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("f4")
            await until(pilot, lambda: "nothing was asked yet" in shown(pilot))

    async def test_a_history_that_cannot_be_read_is_said(self, small: FakeStudy, tmp_path: Path) -> None:
        (tmp_path / "state" / "sql_history.jsonl").mkdir(parents=True)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("f4")
            await until(pilot, lambda: any("history cannot be read" in one for one in messages(pilot)))


class TestExport:
    async def export(self, pilot: Pilot[str], name: str) -> None:
        await pilot.press("ctrl+e")
        await pilot.pause()
        pilot.app.screen.query_one(Input).value = name
        await pilot.pause()
        await pilot.press("enter")

    @pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
    async def test_each_format(self, small: FakeStudy, tmp_path: Path, ending: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "select 1 as a, [1, 2] as list union all select 2, null order by a")
            await self.export(pilot, f"out.{ending}")
            await until(pilot, lambda: pilot.app.screen is screen)
            assert f"2 rows written to out.{ending}" in messages(pilot)[-1]
        path = tmp_path / f"out.{ending}"
        match ending:
            case "csv":
                assert path.read_text() == 'a,list\n1,"[1, 2]"\n2,\n'
            case "json":
                assert json.loads(path.read_text()) == [{"a": 1, "list": [1, 2]}, {"a": 2, "list": None}]
            case "parquet":
                assert pq.read_table(path).to_pylist() == [{"a": 1, "list": [1, 2]}, {"a": 2, "list": None}]

    async def test_the_arrow_keys_go_through_the_formats(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a")
            await pilot.press("ctrl+e")
            box = pilot.app.screen.query_one(Input)
            seen = [box.value]
            for _ in range(3):
                await pilot.press("down")
                seen.append(box.value)
            assert seen == ["result.csv", "result.json", "result.parquet", "result.csv"]
            box.value = "name.v2"
            await pilot.press("down")
            assert box.value == "name.v2.csv"

    async def test_an_existing_file_is_replaced_only_when_asked_again(
        self, small: FakeStudy, tmp_path: Path
    ) -> None:
        path = tmp_path / "out.csv"
        path.write_text("precious")
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            screen = await asked(pilot, "select 1 as a")
            await self.export(pilot, "out.csv")
            await until(pilot, lambda: "exists already" in shown(pilot))
            assert path.read_text() == "precious"
            await pilot.press("x", "backspace")
            await pilot.pause()
            assert "exists already" not in shown(pilot)
            await pilot.press("enter")
            await until(pilot, lambda: "exists already" in shown(pilot))
            assert path.read_text() == "precious"
            await pilot.press("enter")
            await until(pilot, lambda: pilot.app.screen is screen)
        assert path.read_text() == "a\n1\n"

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("out.xlsx", "the ending says the format"),
            ("nowhere/out.csv", "there is no folder nowhere"),
            ("folder.csv", "it is a folder"),
        ],
    )
    async def test_a_name_that_will_not_do(
        self, small: FakeStudy, tmp_path: Path, name: str, what: str
    ) -> None:
        (tmp_path / "folder.csv").mkdir()
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a")
            await self.export(pilot, name)
            await until(pilot, lambda: what in shown(pilot))
            await pilot.press("escape")
            assert not isinstance(pilot.app.screen, ExportDialog)

    @pytest.mark.parametrize(
        ("number", "what"),
        [(errno.ENOSPC, "is full"), (errno.EACCES, "may not be written"), (errno.EIO, "cannot be written")],
    )
    async def test_a_full_disk_is_told_and_leaves_nothing(
        self, small: FakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError(number, "it fails")

        monkeypatch.setitem(WRITERS, ".csv", fail)
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select 1 as a")
            await self.export(pilot, "out.csv")
            await until(pilot, lambda: what in shown(pilot))
        assert not list(tmp_path.glob("*out.csv*"))

    async def test_without_rows_there_is_nothing_to_export(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("ctrl+e")
            assert messages(pilot) == ["there are no rows to export: run a query first"]


class TestPlot:
    async def test_labels_with_numbers_are_bars_and_b_makes_points(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(
                pilot, "select variant, bits_per_weight, ppl_ratio from leaderboard where model = 'org/alpha'"
            )
            await pilot.press("f7")
            await until(pilot, lambda: "█" in shown(pilot))
            assert "bits_per_weight, a bar a row" in shown(pilot)
            assert "wanda-0.5" in shown(pilot)
            await pilot.press("right_square_bracket")
            await until(pilot, lambda: "ppl_ratio, a bar a row" in shown(pilot))
            await pilot.press("left_square_bracket", "b")
            await until(pilot, lambda: "ppl_ratio over bits_per_weight" in shown(pilot))
            await until(pilot, lambda: "●" in shown(pilot))
            await pilot.press("right_square_bracket")
            await until(pilot, lambda: "bits_per_weight over ppl_ratio" in shown(pilot))
            await pilot.press("f7")
            assert not isinstance(pilot.app.screen, PlotDialog)

    async def test_several_series_have_marks_of_their_own(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(100, 30)) as pilot:
            await asked(pilot, "select range as x, range * 2 as a, 10 - range as b from range(5000)")
            await pilot.press("f7")
            await until(pilot, lambda: "a, b over x, every 3. row" in shown(pilot))
            await until(pilot, lambda: "●  a" in shown(pilot) and "x  b" in shown(pilot))

    async def test_one_column_of_numbers_is_drawn_over_the_rows(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, "select range as n from range(10)")
            await pilot.press("f7")
            await until(pilot, lambda: "n over the rows" in shown(pilot))
            await pilot.press("b")  # no labels, no bars
            assert "n over the rows" in shown(pilot)

    @pytest.mark.parametrize("sql", ["select 'x' as label", "select 1 as x where false"])
    async def test_there_may_be_nothing_to_draw(self, small: FakeStudy, sql: str) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(pilot, sql)
            await pilot.press("f7")
            assert "there is nothing to draw" in messages(pilot)[-1]

    async def test_what_is_not_finite_is_left_out(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            await asked(
                pilot, "select unnest([1, 2, null]) as x, unnest([1.0, 'inf'::double, 'nan'::double]) as y"
            )
            await pilot.press("f7")
            await until(pilot, lambda: "y over x" in shown(pilot))

    async def test_it_is_drawn_in_sixteen_colours_too(self, small: FakeStudy) -> None:
        async with app_on(small).run_test(size=(80, 24)) as pilot:
            pilot.app.theme = "studyctl-16"
            await asked(pilot, "select range as x, range * 2 as a from range(50)")
            await pilot.press("f7")
            await until(pilot, lambda: "●" in shown(pilot))

    def test_negative_bars_are_told_without_colour(self) -> None:
        grid = bars(["up", "down", "gone"], [2.0, -1.0, float("nan")], 60)
        cells = [str(cell) for cell in grid.columns[2].cells]
        assert set(cells[0]) == {"█"}
        assert set(cells[1]) == {"▒"}
        assert cells[2] == ""
        assert [str(cell) for cell in grid.columns[1].cells] == ["2", "-1", "–"]

    def test_columns_are_sorted_into_labels_and_numbers(self) -> None:
        table = pa.table({"a": ["x"], "b": [1], "c": [[1]], "d": [True]})
        data = plottable(table)
        assert data is not None
        assert (data.labels, data.numbers) == (["a"], ["b"])


class TestCells:
    def test_figures_are_never_cut(self) -> None:
        values = [0.0] * 3000 + [-1.23456789e-100]
        rows = Rows(pa.table({"x": values}))
        rows.measure()
        assert rows.column_content_widths == [len(cell_text(values[-1]))]

    def test_a_column_of_nothing_but_null_has_room_for_it(self) -> None:
        rows = Rows(pa.table({"x": pa.array([None, None])}))
        rows.measure()
        assert rows.column_content_widths == [len("NULL")]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "NULL"),
            (True, "true"),
            (1, "1"),
            (1 / 3, "0.333333"),
            ("a\tb\r\n\x1b", "a b⏎�"),
            (b"\x00\xff", "00ff"),
            ({"a": [None, "ü"]}, '{"a": [null, "ü"]}'),
        ],
    )
    def test_what_stands_in_a_cell(self, value: object, text: str) -> None:
        assert cell_text(value) == text
