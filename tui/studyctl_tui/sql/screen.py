"""SQL: a query, what can be asked, and the rows that come back."""

from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.worker import get_current_worker

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.store.history import recall
from studyctl.store.questions import about_trial, questions
from studyctl.store.session import CatalogTable, Session
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import View
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.export import ExportDialog
from studyctl_tui.sql.pick import Choice, PickDialog, Picked, history_choices, question_choices
from studyctl_tui.sql.plot import PlotDialog, plottable
from studyctl_tui.sql.result import ResultPane, ResultTable, told
from studyctl_tui.sql.status import QueryLine
from studyctl_tui.sql.tree import Catalog, CatalogPane

WIDE = 120
"""Columns from which on the tree is shown without being asked for."""
WELCOME = Text.from_markup(
    "[bold]ctrl+j[/] or [bold]F5[/] runs the query, or the part of it that is selected.\n"
    "[bold]ctrl+o[/] has ready queries: which variant is best per bit, which languages suffer, which items flipped …\n"
    "[bold]F2[/] shows tables, views and columns; [bold]F4[/] what was asked before; "
    "[bold]F6[/] and [bold]tab[/] go from pane to pane."
)


class SqlScreen(StudyScreen):
    """Asks the published database. The event loop never waits for it: queries run in a thread and can be stopped."""

    NAME = "SQL"
    ABOUT = "Ask the published results in SQL; export, plot or copy what comes back."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "stop", "Stop the query", priority=True, key_display="esc"),
        Binding("escape", "edit", "To the query", show=False, priority=True),
        Binding("ctrl+j,f5", "run", "Run", priority=True, key_display="^j"),
        Binding("ctrl+o", "questions", "Questions", priority=True),
        Binding("f4", "history", "History", priority=True),
        Binding("f2", "tree", "Tables", priority=True),
        Binding("ctrl+e", "export", "Export", priority=True),
        Binding("f7", "plot", "Plot", priority=True),
        Binding("f6", "app.focus_next", "Next pane", priority=True, show=False),
        Binding("shift+f6", "app.focus_previous", "Pane before", priority=True, show=False),
    ]
    DEFAULT_CSS = """
    SqlScreen SqlEditor { height: 6; padding: 0; background: $surface; }
    SqlScreen.-tall SqlEditor { height: 12; }
    SqlScreen #sql-tree.hidden { display: none; }
    SqlScreen SqlEditor, SqlScreen Catalog, SqlScreen ResultTable { border-left: blank; }
    SqlScreen SqlEditor:focus, SqlScreen Catalog:focus, SqlScreen ResultTable:focus { border-left: outer $primary; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._session: Session | None = None
        self._published: str | None = None
        """Publication that the tree is of."""
        self._unread = False
        """Whether there was nothing to read when the tree was made."""
        self._tree_wanted: bool | None = None
        """None: the width decides."""

    def compose_body(self) -> ComposeResult:
        """Yield tree, editor, status and result."""
        with Horizontal():
            yield CatalogPane()
            with Vertical():
                yield SqlEditor(questions()[0].sql)
                yield QueryLine()
                yield ResultPane(WELCOME)

    def on_mount(self) -> None:
        """Begin in the editor."""
        self.query_one(SqlEditor).focus()

    def on_unmount(self) -> None:
        """End what runs: the process would wait for it."""
        if self._session is not None:
            self._session.close()

    def on_resize(self, event: Resize) -> None:
        """Show the tree where there is room, and a higher editor."""
        self.set_class(event.size.height >= 40, "-tall")
        self._show_tree()

    # -- the open study

    def show_view(self, view: View) -> None:
        """Take note of another study, or of a newer publication."""
        if not self.query(QueryLine):
            return  # the app is leaving
        session = self._open(view.paths)
        if view.published_at != self._published:
            self._published = view.published_at
            self._look(session)
            self.query_one(QueryLine).newest(_moment(view.published_at))

    def _open(self, paths: StudyPaths) -> Session:
        if self._session is not None and self._session.paths == paths:
            return self._session
        if self._session is not None:
            self._session.close()
            self.query_one(QueryLine).reset()
            self.query_one(CatalogPane).show(())
            self.query_one(ResultPane).say(WELCOME)
        self._session, self._published = Session(paths), None
        return self._session

    @work(thread=True, exclusive=True, group="catalog")
    def _look(self, session: Session) -> None:
        """Read what can be asked."""
        worker = get_current_worker()
        found: tuple[CatalogTable, ...] = ()
        problem: Problem | None = None
        try:
            found = session.catalog()
        except StudyError as error:
            problem = error.problems[0]
        if not worker.is_cancelled:
            self.app.call_from_thread(self._show_catalog, session, found, problem)

    def _show_catalog(
        self, session: Session, found: tuple[CatalogTable, ...], problem: Problem | None
    ) -> None:
        if session is not self._session:
            return
        self.query_one(CatalogPane).show(found)
        pane = self.query_one(ResultPane)
        if pane.answer is None and not self._busy and (problem is not None) != self._unread:
            pane.say(told(problem) if problem is not None else WELCOME)
            self._unread = problem is not None

    # -- asking

    def ask(self, sql: str) -> None:
        """Put a query into the editor and run it."""
        self.query_one(SqlEditor).put(sql)
        self.action_run()

    def ask_about(self, trial_id: str) -> None:
        """Show what is stored of a trial."""
        self.ask(about_trial(trial_id))

    def action_run(self) -> None:
        """Run the query, or what is selected of it."""
        editor, line, paths = self.query_one(SqlEditor), self.query_one(QueryLine), self.study_app.study
        if line.busy:
            self.notify("a query runs: esc stops it")
            return
        sql = editor.selected_text or editor.text
        if not sql.strip() or paths is None:
            self.notify("there is no query" if paths is not None else "no study is open")
            return
        start = min(editor.selection) if editor.selected_text else (0, 0)
        editor.unmark()
        line.ask(self._open(paths), sql, start)
        self.refresh_bindings()

    @on(QueryLine.Answered)
    def _answered(self, event: QueryLine.Answered) -> None:
        self.refresh_bindings()
        pane = self.query_one(ResultPane)
        if event.answer.table.num_columns:
            pane.show(event.answer, event.rows, widest=60 if self.size.width >= WIDE else 28)
        else:
            pane.say(Text("it was done; it has no rows to show"))

    @on(QueryLine.Failed)
    def _failed(self, event: QueryLine.Failed) -> None:
        self.refresh_bindings()
        problem, pane, editor = event.problem, self.query_one(ResultPane), self.query_one(SqlEditor)
        if problem.severity == "warning":
            pane.say(Text(problem.what))
        elif problem.line is None or problem.column is None:
            pane.say(told(problem))
        else:
            row, before = event.start
            line, column = problem.line + row, problem.column + (before if problem.line == 1 else 0)
            editor.place(line, column, problem.length)
            pane.say(told(problem, (line, column), editor.document.get_line(line - 1)))

    # -- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what can be done now."""
        if action == "stop":
            return self._busy
        if action == "edit":
            return not self._busy and not isinstance(self.focused, SqlEditor)
        return True

    @property
    def _busy(self) -> bool:
        return any(line.busy for line in self.query(QueryLine))

    def action_stop(self) -> None:
        """Stop the query that runs."""
        self.query_one(QueryLine).stop()

    def action_edit(self) -> None:
        """Go back to the query."""
        self.query_one(SqlEditor).focus()

    def action_tree(self) -> None:
        """Show the tree or hide it."""
        pane = self.query_one(CatalogPane)
        self._tree_wanted = pane.has_class("hidden")
        self._show_tree()
        (self.query_one(Catalog) if self._tree_wanted else self.query_one(SqlEditor)).focus()

    def _show_tree(self) -> None:
        wanted = self.app.size.width >= WIDE if self._tree_wanted is None else self._tree_wanted
        self.query_one(CatalogPane).set_class(not wanted, "hidden")

    @on(CatalogPane.Chosen)
    def _insert(self, event: CatalogPane.Chosen) -> None:
        editor = self.query_one(SqlEditor)
        editor.replace(event.name, *editor.selection)

    @on(ResultTable.CellHighlighted)
    def _moved(self) -> None:
        if (table := self.query_one(ResultPane).table) is not None:
            self.query_one(QueryLine).at(table.position())

    def action_questions(self) -> None:
        """Choose a ready query."""
        self._pick("Questions that a study answers", question_choices(questions()))

    @work(thread=True, exclusive=True, group="history")
    def action_history(self) -> None:
        """Choose a query that was asked before."""
        try:
            choices = history_choices(recall())
        except StudyError as error:
            self.app.call_from_thread(self.notify, error.problems[0].what, severity="error", markup=False)
            return
        self.app.call_from_thread(self._pick, "Asked before", choices)

    def _pick(self, title: str, choices: list[Choice]) -> None:
        self.app.push_screen(PickDialog(title, choices), self._picked)

    def _picked(self, picked: Picked | None) -> None:
        if picked is None:
            return
        self.query_one(SqlEditor).put(picked.sql)
        self.query_one(SqlEditor).focus()
        if picked.run:
            self.action_run()

    def action_export(self) -> None:
        """Write the rows to a file."""
        answer = self.query_one(ResultPane).answer
        if answer is None:
            self.notify("there are no rows to export: run a query first")
            return
        self.app.push_screen(ExportDialog(answer.table, "result"), self._exported)

    def _exported(self, what: str | None) -> None:
        if what:
            self.notify(what, markup=False)

    def action_plot(self) -> None:
        """Draw the rows."""
        answer = self.query_one(ResultPane).answer
        data = plottable(answer.table) if answer is not None else None
        if data is None:
            self.notify("there is nothing to draw: a result with a column of numbers is needed")
            return
        self.app.push_screen(PlotDialog(data))


def _moment(text: str) -> datetime | None:
    """Return when something was published, as the database has it: UTC without a zone."""
    return datetime.fromisoformat(text).replace(tzinfo=None) if text else None
