"""Choosing a query that the user saved, or one that is ready-made."""

from typing import ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from studyctl.errors import Problem, StudyError
from studyctl.sql.questions import Question, questions
from studyctl.sql.saved import delete_query, saved_queries
from studyctl_tui.shared.dialogs import Ask, Choice
from studyctl_tui.sql.pick import PickDialog


class ReadyDialog(PickDialog):
    """The saved queries come first and can be deleted."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+d", "delete", "Delete a saved one", priority=True)]

    def __init__(self) -> None:
        super().__init__(
            "Questions that a study answers",
            questions(),
            "enter run · ctrl+e edit · ctrl+d delete · esc close",
        )
        self._saved: list[Question] = []

    def on_mount(self) -> None:
        """Show the ready-made ones at once, and the saved ones as soon as they are read."""
        super().on_mount()
        self._read()

    def prompt(self, choice: Question) -> Text:
        """Mark what is saved."""
        return Text(f"{choice.title} (saved)" if choice in self._saved else choice.title)

    def name_of(self, choice: Question) -> str:
        """Return the name of a saved query."""
        return choice.title if choice in self._saved else ""

    @work(thread=True)
    def _read(self) -> None:
        try:
            saved = [
                Question(query.name, f"saved {query.at[:16].replace('T', ' ')} UTC", query.sql)
                for query in saved_queries()
            ]
        except StudyError as error:
            self.app.call_from_thread(self._complain, error.problems[0])
        else:
            self.app.call_from_thread(self._show_saved, saved)

    def _show_saved(self, saved: list[Question]) -> None:
        self._saved = saved
        self.offer([*saved, *questions()])

    def _complain(self, problem: Problem) -> None:
        self.notify(problem.what, severity="error", markup=False)

    def action_delete(self) -> None:
        """Delete the saved query at the cursor, after asking."""
        choice = self.chosen
        if choice is None or choice not in self._saved:
            self.notify("only a saved query can be deleted")
            return

        def answered(answer: str | None) -> None:
            if answer:
                self._delete(choice.title)

        body = Text(f"{choice.title}\n\n{choice.sql}")
        self.app.push_screen(
            Ask("Delete this saved query?", body, [Choice("d", "Delete it", "delete")]), answered
        )

    @work(thread=True)
    def _delete(self, name: str) -> None:
        try:
            delete_query(name)
        except StudyError as error:
            self.app.call_from_thread(self._complain, error.problems[0])
        self._read()
