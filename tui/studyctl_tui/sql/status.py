"""One line that runs the queries and tells of them: how long one takes, what it gave, how old the results are."""

import time
from datetime import datetime

from rich.text import Text
from textual import work
from textual.message import Message
from textual.widgets import Static
from textual.worker import get_current_worker

from studyctl.errors import Problem, StudyError
from studyctl.store.history import remember
from studyctl.store.session import Answer, Session
from studyctl.units import duration_text
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.sql.cells import Rows

NOTHING = Text("no query was run yet")


class QueryLine(Static):
    """The line between query and rows. One query at a time; each ends in a message."""

    DEFAULT_CSS = """
    QueryLine {
        height: 1; padding: 0 1; background: $panel; color: $foreground;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    class Answered(Message):
        """A query gave rows."""

        def __init__(self, session: Session, answer: Answer, rows: Rows) -> None:
            super().__init__()
            self.session, self.answer, self.rows = session, answer, rows

    class Failed(Message):
        """A query gave none: it is wrong, or was stopped (a problem of severity ``warning``)."""

        def __init__(self, session: Session, problem: Problem, start: tuple[int, int]) -> None:
            super().__init__()
            self.session, self.problem = session, problem
            self.start = start
            """Row and column of the editor where the query begins."""

    def __init__(self) -> None:
        super().__init__(NOTHING, markup=False)
        self._session: Session | None = None
        self._began: float | None = None
        self._stopping = False
        self._what = NOTHING
        self._where = ""
        self._read: datetime | None = None
        self._newest: datetime | None = None
        self._history_trouble = False

    @property
    def busy(self) -> bool:
        """Whether a query runs."""
        return self._began is not None

    def on_mount(self) -> None:
        """Have a clock for when a query runs."""
        self._clock = self.set_interval(0.1, self._tick, pause=True)

    # -- running

    def ask(self, session: Session, sql: str, start: tuple[int, int]) -> None:
        """Run a query in a thread."""
        self._session, self._began, self._stopping = session, time.monotonic(), False
        self._clock.resume()
        self._tick()
        self._run(session, sql, start)

    def stop(self) -> None:
        """Stop the query that runs; its message comes when it has ended."""
        self._stopping = True
        self._tick()

    @work(thread=True)
    def _run(self, session: Session, sql: str, start: tuple[int, int]) -> None:
        worker, trouble = get_current_worker(), ""
        ended: Message
        try:
            remember(session.paths.name, sql)
        except StudyError as error:
            trouble = f"{error.problems[0].what}; {error.problems[0].hint}"
        try:
            answer = session.run(sql)
            rows = Rows(answer.table)
            rows.measure()
            ended = self.Answered(session, answer, rows)
        except StudyError as error:
            ended = self.Failed(session, error.problems[0], start)
        if not worker.is_cancelled:
            self.app.call_from_thread(self._ended, ended, trouble)

    def _ended(self, ended: Answered | Failed, trouble: str) -> None:
        if trouble and not self._history_trouble:
            self._history_trouble = True  # said once
            self.notify(trouble, severity="warning", markup=False)
        if ended.session is not self._session:
            return  # of a study that was left
        took = time.monotonic() - (self._began or 0.0)
        self._over()
        if isinstance(ended, self.Answered):
            rows = ended.answer.table.num_rows
            self._read = ended.answer.published_at
            self._say(
                Text(f"{GLYPHS['done']} {rows:,} row{'s' * (rows != 1)} · {ended.answer.seconds:.2f} s")
            )
        else:
            self._read = None
            self._say(_failure(ended.problem, took))
        self.post_message(ended)

    def _tick(self) -> None:
        if self._began is None or self._session is None:
            return
        then = "stopping" if self._stopping else "esc stops it"
        took = duration_text(time.monotonic() - self._began)
        self._say(Text.assemble((GLYPHS["running"], "bold"), f" {took} · {then}"))
        if self._stopping:
            self._session.interrupt()  # each time: a query that had not begun did not hear the first

    def _over(self) -> None:
        self._began, self._stopping = None, False
        self._clock.pause()

    # -- telling

    def at(self, where: str) -> None:
        """Say where the cursor is."""
        if where != self._where and not self.busy:
            self._where = where
            self._draw()

    def newest(self, published_at: datetime | None) -> None:
        """Take note of a publication; UTC without a zone."""
        if published_at != self._newest:
            self._newest = published_at
            self._draw()

    def reset(self) -> None:
        """Begin anew, for another study."""
        self._over()
        self._session = self._read = self._newest = None
        self._say(NOTHING)

    def _say(self, what: Text) -> None:
        self._what, self._where = what, ""
        self._draw()

    def _draw(self) -> None:
        parts = [self._what.copy()]
        if self._read is not None and not self.busy:
            parts.append(Text(f"as of {self._read:%H:%M:%S} UTC"))
            if self._newest is not None and self._newest > self._read:
                parts[-1].append(" (newer are there: run again)", "bold")
        if self._where:
            parts.append(Text(self._where))
        self.update(Text(" · ").join(parts), layout=False)


def _failure(problem: Problem, took: float) -> Text:
    if problem.severity == "warning":
        return Text(f"{GLYPHS['stopped']} stopped after {duration_text(took)}")
    if problem.file is not None:
        what = "no answer"  # there is nothing to read, or it cannot be read
    else:
        what = "the query is wrong" if problem.line else "the query failed"
    return Text.assemble((GLYPHS["failed"], "bold"), f" {what}")
