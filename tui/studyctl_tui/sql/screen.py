"""SQL: a query, the tables and columns, and the rows of the result."""

import time
from datetime import datetime
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.sql.completion import Catalog, complete
from studyctl.sql.history import remember
from studyctl.sql.questions import questions
from studyctl.sql.vocabulary import vocabulary
from studyctl.store.session import Answer, CatalogTable, Session
from studyctl.units import duration_text
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.shared.view import View
from studyctl_tui.sql.cells import Rows
from studyctl_tui.sql.editor import SqlEditor
from studyctl_tui.sql.export import ExportDialog
from studyctl_tui.sql.plot import PlotDialog, plottable
from studyctl_tui.sql.query import QueryScreen
from studyctl_tui.sql.result import ResultPane, ResultTable, problem_text
from studyctl_tui.sql.status import NOTHING, QueryLine
from studyctl_tui.sql.tree import CatalogPane, CatalogTree

WIDE = 120
"""Columns from which the tree is shown by default."""
WELCOME = Text.from_markup(
    "[bold]ctrl+j[/] or [bold]F5[/] runs the query, or the part of it that is selected.\n"
    "[bold]ctrl+o[/] has ready queries: which variant is best per bit, which languages suffer, which items flipped …; "
    "and those that you saved with [bold]ctrl+s[/].\n"
    "[bold]F2[/] shows tables, views and columns; [bold]F4[/] what was asked before; "
    "[bold]F6[/] and [bold]tab[/] go from pane to pane."
)


class SqlScreen(QueryScreen):
    """Queries the published database. The event loop never waits: queries run in a thread and can be stopped."""

    NAME = "SQL"
    ABOUT = "Ask the published results in SQL; export, plot or copy what comes back."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "stop", "Stop", priority=True, key_display="esc"),
        Binding("escape", "edit", "To the query", show=False, priority=True),
        Binding("ctrl+j,f5", "run", "Run", priority=True, key_display="^j"),
        Binding("ctrl+o", "questions", "Questions", priority=True),
        Binding("ctrl+s", "save", "Save", priority=True),
        Binding("ctrl+l", "format", "Format", priority=True),
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
    SqlScreen SqlEditor, SqlScreen CatalogTree, SqlScreen ResultTable { border-left: blank; }
    SqlScreen SqlEditor:focus, SqlScreen CatalogTree:focus, SqlScreen ResultTable:focus { border-left: outer $primary; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._session: Session | None = None
        self._published: str | None = None
        """Publication that the tree is of."""
        self._unread = False
        """Whether the catalog could not be read the last time."""
        self._tree_shown: bool | None = None
        """None: the width decides."""
        self._began: float | None = None
        """When the running query was started; None if none runs."""
        self._stopping = False
        self._history_trouble = False

    def compose_body(self) -> ComposeResult:
        """Yield tree, editor, status and result."""
        with Horizontal():
            yield CatalogPane()
            with Vertical():
                yield (editor := SqlEditor(questions()[0].sql))
                yield editor.completions
                yield QueryLine()
                yield ResultPane(WELCOME)

    def on_mount(self) -> None:
        """Begin in the editor, with a clock for when a query runs."""
        self._clock = self.set_interval(0.1, self._tick, pause=True)
        self.query_one(SqlEditor).focus()

    def on_unmount(self) -> None:
        """End the running query: the process would wait for it."""
        if self._session is not None:
            self._session.close()

    def on_resize(self, event: Resize) -> None:
        """Show the tree and a higher editor where there is room."""
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
            # the database has UTC without a zone
            moment = datetime.fromisoformat(view.published_at) if view.published_at else None
            self.query_one(QueryLine).newest = moment and moment.replace(tzinfo=None)

    def _open(self, paths: StudyPaths) -> Session:
        if self._session is not None and self._session.paths == paths:
            return self._session
        if self._session is not None:
            self._session.close()
            self._over()
            self.query_one(QueryLine).show(NOTHING)
            self.query_one(CatalogPane).show(())
            self.query_one(ResultPane).say(WELCOME)
        self._session, self._published = Session(paths), None
        return self._session

    @work(thread=True, exclusive=True, group="catalog")
    def _look(self, session: Session) -> None:
        """Read the tables and columns, and the words of SQL the first time."""
        tables: tuple[CatalogTable, ...] = ()
        words = vocabulary()
        problem: Problem | None = None
        try:
            tables = session.catalog()
        except StudyError as error:
            problem = error.problems[0]
        catalog = Catalog(tables, words)
        complete("select ", 0, len("select "), catalog)  # what it prepares would delay the first key
        self.app.call_from_thread(self._show_catalog, session, catalog, problem)

    def _show_catalog(self, session: Session, catalog: Catalog, problem: Problem | None) -> None:
        if session is not self._session:
            return
        self.query_one(CatalogPane).show(catalog.tables)
        self.query_one(SqlEditor).catalog = catalog
        pane = self.query_one(ResultPane)
        if pane.answer is None and not self.busy and (problem is not None) != self._unread:
            pane.say(problem_text(problem) if problem is not None else WELCOME)
            self._unread = problem is not None

    # -- asking

    @property
    def busy(self) -> bool:
        """Whether a query runs."""
        return self._began is not None

    def action_run(self) -> None:
        """Run the query, or what is selected of it."""
        editor, paths = self.query_one(SqlEditor), self.study_app.study
        if self.busy:
            self.notify("a query runs: esc stops it")
            return
        sql = editor.selected_text or editor.text
        if not sql.strip() or paths is None:
            self.notify("there is no query" if paths is not None else "no study is open")
            return
        start = min(editor.selection) if editor.selected_text else (0, 0)
        editor.unmark()
        session = self._open(paths)
        self._began, self._stopping = time.monotonic(), False
        self._clock.resume()
        self._tick()
        self._run(session, sql, start)
        self.refresh_bindings()

    @work(thread=True)
    def _run(self, session: Session, sql: str, start: tuple[int, int]) -> None:
        """Run a query that begins at this row and column of the editor."""
        trouble = ""
        outcome: tuple[Answer, Rows] | Problem
        try:
            remember(session.paths.name, sql)
        except StudyError as error:
            trouble = f"{error.problems[0].what}; {error.problems[0].hint}"
        try:
            answer = session.run(sql)
            rows = Rows(answer.table)
            rows.measure()
            outcome = answer, rows
        except StudyError as error:
            outcome = error.problems[0]
        self.app.call_from_thread(self._ended, session, outcome, start, trouble)

    def _ended(
        self, session: Session, outcome: tuple[Answer, Rows] | Problem, start: tuple[int, int], trouble: str
    ) -> None:
        if trouble and not self._history_trouble:
            self._history_trouble = True  # reported once
            self.notify(trouble, severity="warning", markup=False)
        if session is not self._session:
            return  # of a study that was left
        seconds = time.monotonic() - (self._began or 0.0)
        self._over()
        self.refresh_bindings()
        if isinstance(outcome, Problem):
            self._show_problem(outcome, start, seconds)
        else:
            self._show_rows(*outcome)

    def _tick(self) -> None:
        if self._began is None or self._session is None:
            return
        then = "stopping" if self._stopping else "esc stops it"
        seconds = duration_text(time.monotonic() - self._began)
        self.query_one(QueryLine).show(Text.assemble((GLYPHS["running"], "bold"), f" {seconds} · {then}"))
        if self._stopping:
            self._session.interrupt()  # every time: a query that had not begun yet missed the first

    def _over(self) -> None:
        self._began, self._stopping = None, False
        self._clock.pause()

    def _show_rows(self, answer: Answer, rows: Rows) -> None:
        count, pane = answer.table.num_rows, self.query_one(ResultPane)
        text = f"{GLYPHS['done']} {count:,} row{'s' * (count != 1)} · {answer.seconds:.2f} s"
        self.query_one(QueryLine).show(Text(text), answer.published_at)
        if answer.table.num_columns:
            pane.show(answer, rows, widest=60 if self.size.width >= WIDE else 28)
        else:
            pane.say(Text("it was done; it has no rows to show"))

    def _show_problem(self, problem: Problem, start: tuple[int, int], seconds: float) -> None:
        pane, editor, status = (
            self.query_one(ResultPane),
            self.query_one(SqlEditor),
            self.query_one(QueryLine),
        )
        if problem.severity == "warning":
            status.show(Text(f"{GLYPHS['stopped']} stopped after {duration_text(seconds)}"))
            pane.say(Text(problem.what))
            return
        text = "the query is wrong" if problem.line else "the query failed"
        if problem.file is not None:
            text = "no answer"  # there is nothing to read, or it cannot be read
        status.show(Text.assemble((GLYPHS["failed"], "bold"), f" {text}"))
        if problem.line is None or problem.column is None:
            pane.say(problem_text(problem))
        else:
            row, before = start
            line, column = problem.line + row, problem.column + (before if problem.line == 1 else 0)
            editor.place(line, column, problem.length)
            pane.say(problem_text(problem, (line, column), editor.document.get_line(line - 1)))

    # -- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable the keys that work now."""
        if action == "stop":
            return self.busy
        if action == "edit":
            return not self.busy and not isinstance(self.focused, SqlEditor)
        if action == "format":  # elsewhere, and during a query, the footer needs its place
            return not self.busy and isinstance(self.focused, SqlEditor)
        return True

    def action_stop(self) -> None:
        """Stop the query that runs."""
        self._stopping = True
        self._tick()

    def action_tree(self) -> None:
        """Show the tree or hide it."""
        self._tree_shown = self.query_one(CatalogPane).has_class("hidden")
        self._show_tree()
        self.query_one(CatalogTree if self._tree_shown else SqlEditor).focus()

    def _show_tree(self) -> None:
        shown = self.app.size.width >= WIDE if self._tree_shown is None else self._tree_shown
        self.query_one(CatalogPane).set_class(not shown, "hidden")

    @on(ResultTable.CellHighlighted)
    def _moved(self) -> None:
        if (table := self.query_one(ResultPane).table) is not None and not self.busy:
            self.query_one(QueryLine).position = table.position()

    def action_export(self) -> None:
        """Write the rows to a file."""
        answer = self.query_one(ResultPane).answer
        if answer is None:
            self.notify("there are no rows to export: run a query first")
            return

        def written(text: str | None) -> None:
            if text is not None:
                self.notify(text, markup=False)

        self.app.push_screen(ExportDialog(answer.table), written)

    def action_plot(self) -> None:
        """Draw the rows."""
        answer = self.query_one(ResultPane).answer
        data = plottable(answer.table) if answer is not None else None
        if data is None:
            self.notify("there is nothing to draw: a result with a column of numbers is needed")
            return
        self.app.push_screen(PlotDialog(data))
