"""Starting, resuming and stopping runs from a screen: everything slow in a thread, everything else after asking."""

from pathlib import Path

from rich.text import Text
from textual import work
from textual.notifications import SeverityLevel
from textual.worker import get_current_worker

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, runs_folder
from studyctl.run.control import StopWhen, ask_to_stop, start_in_background
from studyctl.store.studies import StudyRow
from studyctl_tui.shared.dialogs import Ask, Choice
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.studies.start import EDIT, START, PlanDialog


class RunsScreen(StudyScreen):
    """A screen from which runs are started and stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.starting: list[str] = []
        """Studies that are being started."""

    def starting_changed(self) -> None:
        """Draw what is being started."""

    def offer(self, spec: Path | None, only_study: str = "") -> None:
        """Show what a spec would run, and start it if that is wanted.

        Args:
            spec: the file; None: nothing was chosen.
            only_study: the study that it must be of; empty: any.
        """
        if spec is not None:
            dialog = PlanDialog(spec, only_study)
            self.app.push_screen(dialog, lambda answer: self._decided(answer or "", dialog))

    def _decided(self, answer: str, dialog: PlanDialog) -> None:
        if answer == EDIT:
            self.study_app.spec = dialog.spec
            self.study_app.action_go("spec")
        elif answer == START:
            self.starting.append(dialog.study)
            self.starting_changed()
            self._start(dialog.spec, dialog.study)

    @work(thread=True, group="start")
    def _start(self, spec: Path, study: str) -> None:
        try:
            said, started = start_in_background(spec), True
        except StudyError as error:
            said, started = str(error), False
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._started, study, said, started)

    def _started(self, study: str, said: str, started: bool) -> None:
        self.starting.remove(study)
        self.starting_changed()
        if not started:
            self.app.push_screen(Ask(f"{study} was not started", Text(said), ()))
            return
        self.app.notify(said.splitlines()[0], markup=False)
        if self.is_current:  # whoever went elsewhere meanwhile is left there
            self.study_app.open_study(StudyPaths(runs_folder() / study), "monitor")

    def offer_stop(self, row: StudyRow) -> None:
        """Ask how a run is to be stopped, and have its runner do that."""
        paths = StudyPaths(runs_folder() / row.study)
        body = Text(
            f"{row.done} of {row.trials} trials are done. What was measured is kept, R goes on later."
        )
        choices = [
            Choice("s", "After the stages that run now", "after_step"),
            Choice("n", "Now; what these stages measured so far is lost", "now"),
        ]
        self.app.push_screen(
            Ask(f"Stop {row.study}?", body, choices), lambda answer: self._stop_decided(paths, answer or "")
        )

    def _stop_decided(self, paths: StudyPaths, answer: str) -> None:
        if answer:
            self._stop(paths, "now" if answer == "now" else "after_step")

    @work(thread=True, group="stop")
    def _stop(self, paths: StudyPaths, when: StopWhen) -> None:
        try:
            said, severe = ask_to_stop(paths, when), False
        except StudyError as error:
            said, severe = str(error), True
        severity: SeverityLevel = "error" if severe else "information"
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self.app.notify, said, severity=severity, markup=False)
