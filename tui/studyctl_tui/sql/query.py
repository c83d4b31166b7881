"""The part of the SQL screen that is about the text of the query: recalling, saving, formatting, completing."""

from textual import on, work
from textual.widgets import OptionList

from studyctl.errors import Problem, StudyError
from studyctl.sql.formatting import formatted
from studyctl.sql.history import recall
from studyctl.sql.questions import Question, about_trial
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.pick import PickDialog, Picked
from studyctl_tui.sql.ready import ReadyDialog
from studyctl_tui.sql.save import SaveDialog
from studyctl_tui.sql.tree import CatalogTree, Entry


class QueryScreen(StudyScreen):
    """A screen with a :class:`SqlEditor`."""

    def __init__(self) -> None:
        super().__init__()
        self._saved_as = ""
        """Name of the saved query that the one in the editor came from."""

    def action_run(self) -> None:
        """Run the query."""
        raise NotImplementedError

    def ask(self, sql: str) -> None:
        """Put a query into the editor and run it."""
        self.query_one(SqlEditor).put(sql)
        self.action_run()

    def ask_about(self, trial_id: str) -> None:
        """Show what is stored of a trial."""
        self.ask(about_trial(trial_id))

    def action_edit(self) -> None:
        """Go back to the query."""
        self.query_one(SqlEditor).focus()

    @on(CatalogTree.NodeSelected)
    def _insert(self, event: CatalogTree.NodeSelected[Entry]) -> None:
        if event.node.data is not None:
            editor = self.query_one(SqlEditor)
            editor.replace(event.node.data.name, *editor.selection)

    @on(OptionList.OptionSelected, "CompletionList")
    def _completed(self) -> None:
        self.query_one(SqlEditor).accept()

    def action_questions(self) -> None:
        """Choose a saved query, or a ready-made one."""
        self.app.push_screen(ReadyDialog(), self._picked)

    @work(thread=True, exclusive=True, group="history")
    def action_history(self) -> None:
        """Choose a query that was asked before."""
        try:
            history = recall()
        except StudyError as error:
            self.app.call_from_thread(self.notify, error.problems[0].what, severity="error", markup=False)
            return
        choices = [
            Question(
                " ".join(asked.sql.split())[:200],
                f"asked of {asked.study}, {asked.at[:16].replace('T', ' ')} UTC",
                asked.sql,
            )
            for asked in history
        ]
        self.app.call_from_thread(self.app.push_screen, PickDialog("Asked before", choices), self._picked)

    def _picked(self, picked: Picked | None) -> None:
        if picked is not None:
            self._saved_as = picked.name
            self.query_one(SqlEditor).put(picked.sql)
            self.query_one(SqlEditor).focus()
            if picked.run:
                self.action_run()

    def action_save(self) -> None:
        """Save the query under a name."""
        sql = self.query_one(SqlEditor).text
        if not sql.strip():
            self.notify("there is no query")
            return

        def saved(name: str | None) -> None:
            if name is not None:
                self._saved_as = name
                self.notify(f"saved as {name}; ctrl+o has it", markup=False)

        self.app.push_screen(SaveDialog(sql, self._saved_as), saved)

    def action_format(self) -> None:
        """Lay the query out, a clause a line."""
        self._format(self.query_one(SqlEditor).text)

    @work(thread=True, exclusive=True, group="format")
    def _format(self, sql: str) -> None:
        try:
            outcome: str | Problem = formatted(sql)
        except StudyError as error:
            outcome = error.problems[0]
        self.app.call_from_thread(self._show_format, sql, outcome)

    def _show_format(self, sql: str, outcome: str | Problem) -> None:
        editor = self.query_one(SqlEditor)
        if editor.text != sql:
            self.notify("the query was changed meanwhile: it stays as it is")
        elif isinstance(outcome, str):
            if outcome != sql:
                editor.rearrange(outcome)
        else:
            place = ""
            if outcome.line is not None and outcome.column is not None:
                editor.place(outcome.line, outcome.column, outcome.length)
                place = f"line {outcome.line}, column {outcome.column}: "
            why = "; ".join(filter(None, (outcome.what, outcome.hint)))
            self.notify(f"not formatted: {place}{why}", severity="warning", markup=False)
