"""Studies: all studies under runs/ and their states; starting, stopping and resuming them."""

import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Input, Static

from studyctl.contract.job import StopWhen
from studyctl.errors import StudyError
from studyctl.files import StudyPaths, runs_folder
from studyctl.printable import on_one_line
from studyctl.report.studies import FIRST_STEPS
from studyctl.store.studies import StudyList, StudyRow
from studyctl.units import duration_text
from studyctl_tui.shared.dialogs import Ask
from studyctl_tui.shared.runs import RunsScreen
from studyctl_tui.shared.stop import ask_how_to_stop
from studyctl_tui.studies.start import ChooseSpec
from studyctl_tui.studies.table import SORTS, StudiesTable

LOOK_SECONDS = 2.0
"""How often the folder of studies is looked at while it is shown."""
PART_SECONDS = 0.3
"""How long the first look may take before the studies read so far are shown."""


def now() -> datetime:
    """Return the time from which ages are counted."""
    return datetime.now(UTC)


class StudiesScreen(RunsScreen):
    """Every study under runs/, one row each."""

    NAME = "Studies"
    ABOUT = "Every study under runs/: how it stands, where it runs, when it was last heard of."
    DEFAULT_CSS = """
    StudiesScreen #filter { height: 1; background: $surface; margin: 0 1; display: none; }
    StudiesScreen #message { height: 1fr; padding: 1 2; }
    StudiesScreen #about {
        height: 3; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis;
    }
    """
    AUTO_FOCUS = ""  # the table takes the focus as soon as there is one; the filter only when it is asked for
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New"),
        Binding("c", "compare", "Compare"),
        Binding("e", "edit", "Spec"),
        Binding("x", "stop('after_step')", "Stop"),
        Binding("X", "stop('now')", "Stop at once", show=False),
        Binding("R", "resume", "Resume", key_display="R"),
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("i", "why", "Why it cannot be read", show=False),
        Binding("y", "copy", "Copy the name", show=False),
        Binding("escape", "unfilter", "Show all again", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._list = StudyList()
        self._reading = threading.Lock()
        self._rows: list[StudyRow] | None = None
        """All of them; None before the first look."""
        self._complete = False
        """Whether a look has come to its end."""
        self._trouble = ""
        """Why the folder of studies cannot be listed."""
        self._sort = "name"

    def compose_body(self) -> ComposeResult:
        """Yield the filter, the table, a message to show in place of an empty table, and details of the selected row."""
        yield Input(id="filter", placeholder="part of a name, title, host or state", compact=True)
        yield StudiesTable()
        yield Static(id="message", markup=False)
        yield Static(id="about", markup=False)

    def on_mount(self) -> None:
        """Begin to look."""
        self.set_interval(LOOK_SECONDS, self._look_again)
        self._draw()
        self.look()

    def on_screen_resume(self) -> None:
        """Catch up."""
        self.look()

    def on_resize(self) -> None:
        """Fit the columns."""
        self._draw()

    def _look_again(self) -> None:
        if self.is_current:
            self.look()

    @work(thread=True, group="studies")
    def look(self) -> None:
        """Read the studies in a thread, unless they are being read already."""
        if not self._reading.acquire(blocking=False):
            return
        rows: list[StudyRow] = []

        def show(trouble: str = "", *, complete: bool = False) -> None:
            self.app.call_from_thread(self._take, list(rows), trouble, complete)

        trouble, shown_at = "", time.monotonic()
        try:
            for row in self._list.rows():
                rows.append(row)
                if not self._complete and time.monotonic() - shown_at > PART_SECONDS:
                    shown_at = time.monotonic()
                    show()
        except StudyError as error:
            trouble = "\n\n".join(f"{problem.what}\n{problem.hint}" for problem in error.problems)
        finally:
            self._reading.release()
        show(trouble, complete=True)

    def _take(self, rows: list[StudyRow], trouble: str, complete: bool) -> None:
        self._rows, self._trouble, self._complete = rows, trouble, complete
        if self.is_running:
            self._draw()

    # -- drawing

    @on(Input.Changed, "#filter")
    def _draw(self) -> None:
        """Draw what is different."""
        table, message = self.query_one(StudiesTable), self.query_one("#message", Static)
        words = self.query_one("#filter", Input).value.lower().split()
        rows = []
        for row in self._rows or ():
            text = f"{row.study} {row.title} {row.host} {row.state}".lower()
            if all(word in text for word in words):
                rows.append(row)
        table.display, message.display = bool(rows), not rows
        if rows:
            table.show_rows(sorted(rows, key=SORTS[self._sort][1]), self._sort, now())
            if self.focused is None:
                table.focus()
        elif self._trouble:
            message.update(Text.assemble(("! ", "bold red"), self._trouble))
        elif self._rows:
            message.update("no study matches the filter; esc shows all again")
        else:
            folder = runs_folder().resolve()
            message.update(f"reading {folder} …" if self._rows is None else first_steps(folder))
        self._draw_about()

    def starting_changed(self) -> None:
        """Say what is being started."""
        self._draw_about()

    @on(DataTable.RowHighlighted)
    def _draw_about(self) -> None:
        """Draw the lines about the study under the cursor, and about the list."""
        table, row, number = self.query_one(StudiesTable), self._row(), len(self._rows or ())
        status = [f"starting {name} …" for name in self.starting]
        if number:
            shown = f"{table.row_count} of {number}" if table.display and table.row_count < number else number
            status = [f"{shown} {'study' if number == 1 else 'studies'}", f"by {self._sort}", *status]
        lines = about_lines(row) if row is not None else (Text(), Text())
        text = Text("\n").join([*lines, Text(" · ".join(status), "dim")])
        about = self.query_one("#about", Static)
        if text != about.content:
            about.update(text)

    def _row(self) -> StudyRow | None:
        """Return the row under the cursor."""
        table = self.query_one(StudiesTable)
        study = table.study if table.display else None
        return next((row for row in self._rows or () if row.study == study), None)

    # -- keys

    def _readable(self) -> StudyPaths | None:
        """Return the study under the cursor; say why if it cannot be read."""
        row = self._row()
        if row is None:
            return None
        if row.trouble:
            self.action_why()
            return None
        return StudyPaths(runs_folder() / row.study)

    @on(DataTable.RowSelected)
    def _open(self) -> None:
        if (paths := self._readable()) is not None:
            self.study_app.open_study(paths, "monitor")

    def action_compare(self) -> None:
        """Compare what the study under the cursor measured."""
        if (paths := self._readable()) is not None:
            self.study_app.open_study(paths, "compare")

    def action_edit(self) -> None:
        """Open the spec of the study under the cursor; it may be what makes it readable again."""
        if (row := self._row()) is not None:
            self.study_app.spec = None
            self.study_app.open_study(StudyPaths(runs_folder() / row.study), "spec")

    def action_why(self) -> None:
        """Say in full why a study cannot be read."""
        row = self._row()
        if row is not None and row.trouble:
            body = Text.assemble(row.trouble, "\n\n", ("hint: ", "bold"), row.hint)
            self.app.push_screen(Ask(f"{row.study} cannot be read", body, ()))
        elif row is not None:
            self.app.notify(f"{row.study} can be read", markup=False)

    def action_copy(self) -> None:
        """Copy the name of the study under the cursor."""
        if (row := self._row()) is not None:
            self.app.copy_to_clipboard(row.study)
            self.app.notify(f"copied {row.study}", markup=False)

    def action_sort(self) -> None:
        """Sort by the next column."""
        sorts = list(SORTS)
        self._sort = sorts[(sorts.index(self._sort) + 1) % len(sorts)]
        self._draw()

    def action_filter(self) -> None:
        """Open the filter."""
        self.type_into(self.query_one("#filter", Input))

    def action_unfilter(self) -> None:
        """Close the filter and show all."""
        field = self.query_one("#filter", Input)
        field.display = False
        field.value = ""
        self.query_one(StudiesTable).focus()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.query_one(StudiesTable).focus()

    # -- runs

    def action_new(self) -> None:
        """Choose a spec and start it."""
        self.app.push_screen(ChooseSpec(), self.offer)

    def action_resume(self) -> None:
        """Go on with the study under the cursor, after showing what is left to do."""
        row = self._row()
        if row is not None and row.state == "running":
            self.app.notify(f"{row.study} is running", markup=False)
        elif (paths := self._readable()) is not None:
            self.offer(paths.spec, paths.name)

    def action_stop(self, when: StopWhen) -> None:
        """Stop the run of the study under the cursor, after asking how."""
        row = self._row()
        if row is not None and row.state == "running":
            paths = StudyPaths(runs_folder() / row.study)
            ask_how_to_stop(self.study_app, row.study, when, partial(self.stop, paths))
        elif row is not None:
            self.app.notify(f"{row.study} is not being run", markup=False)


def about_lines(row: StudyRow) -> tuple[Text, Text]:
    """Return two lines about a study: what it is, and what can be done."""
    if row.trouble:
        return Text.assemble(("! ", "bold red"), row.trouble), Text(f"enter says more · {row.hint}")
    title = Text.assemble((on_one_line(row.study), "bold"), f"  {on_one_line(row.title)}")
    where = f" on {row.host}" if row.host else ""
    left = f" · {duration_text(row.seconds_left)} left" if row.seconds_left is not None else ""
    state = {
        "running": f"runs{where}{left} · x stops it",
        "died": f"its runner{where} died in the middle · R goes on, what was measured is kept",
        "failed": f"{row.failed} of {row.trials} trials failed · enter shows why, R tries them again",
        "unfinished": "nobody runs it · R goes on",
        "empty": "it has no trials yet · e opens its spec",
        "done": "all is measured · c compares",
    }
    return title, Text(state[row.state])


def first_steps(folder: Path) -> Text:
    """Return what to do where there are no studies."""
    lines = [Text(f"There are no studies in {folder} yet."), Text()]
    lines += [Text.assemble(("n", "bold"), "  starts one from here: `pocket` takes minutes"), Text()]
    lines += [Text("Or in the shell:"), Text()]
    lines += [Text.assemble("  ", (f"{command:26}", "bold"), does) for command, does in FIRST_STEPS]
    return Text("\n").join(lines)
