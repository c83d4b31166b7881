"""Starting, resuming and stopping runs from a screen, after asking; slow calls run in a thread."""

from pathlib import Path

from rich.text import Text
from textual import work
from textual.notifications import SeverityLevel

from studyctl.contract.job import StopWhen
from studyctl.errors import StudyError
from studyctl.files import StudyPaths, runs_folder
from studyctl.run.control import ask_to_stop, start_in_background
from studyctl_tui.shared.dialogs import Ask
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.studies.start import EDIT, START, PlanDialog


class RunsScreen(StudyScreen):
    """A screen from which runs are started and stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.starting: list[str] = []
        """Studies that are being started."""

    def starting_changed(self) -> None:
        """Draw the studies that are being started."""

    def offer(self, spec: Path | None, only_study: str = "") -> None:
        """Show what a spec would run, and start it if the user agrees.

        Args:
            spec: the file; None: nothing was chosen.
            only_study: the study that the spec must be of; empty: any.
        """
        if spec is not None:
            dialog = PlanDialog(spec, only_study)
            self.app.push_screen(dialog, lambda answer: self._decided(answer, dialog))

    def _decided(self, answer: str | None, dialog: PlanDialog) -> None:
        if answer == EDIT:
            self.study_app.spec = dialog.spec
            self.study_app.action_go("spec")
        elif answer == START:
            paths = StudyPaths(runs_folder() / dialog.study)
            self.ask_trust(paths, dialog.spec, lambda: self._begin(dialog.spec, dialog.study))

    def _begin(self, spec: Path, study: str) -> None:
        self.starting.append(study)
        self.starting_changed()
        self._start(spec, study)

    @work(thread=True, group="start")
    def _start(self, spec: Path, study: str) -> None:
        try:
            text, started = start_in_background(spec), True
        except StudyError as error:
            text, started = str(error), False
        self.app.call_from_thread(self._started, study, text, started)

    def _started(self, study: str, text: str, started: bool) -> None:
        self.starting.remove(study)
        self.starting_changed()
        if not started:
            self.app.push_screen(Ask(f"{study} was not started", Text(text), ()))
            return
        self.app.notify(text.splitlines()[0], markup=False)
        if self.is_current:  # a user who went elsewhere meanwhile stays there
            self.study_app.open_study(StudyPaths(runs_folder() / study), "monitor")

    @work(thread=True, group="stop")
    def stop(self, paths: StudyPaths, when: StopWhen) -> None:
        """Ask the runner of a study to stop."""
        severity: SeverityLevel = "information"
        try:
            text = ask_to_stop(paths, when)
        except StudyError as error:
            text, severity = str(error), "error"
        self.app.call_from_thread(self.app.notify, text, severity=severity, markup=False)
