"""What a person can do about trials and their run: try again, go on, stop, see why, copy."""

from collections.abc import Callable

from textual import work
from textual.binding import Binding, BindingType

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.run import control
from studyctl.run.control import StopWhen
from studyctl.store.live import TrialDetail
from studyctl_tui.monitor.cells import Row
from studyctl_tui.monitor.dialogs import CauseScreen, StopScreen, Wish, error_text
from studyctl_tui.shared.screen import StudyScreen

ACTS: list[BindingType] = [
    Binding("r", "retry", "Retry"),
    Binding("R", "run_on", "Retry all that failed, or go on with the run", show=False),
    Binding("x", "stop('after_step')", "Stop"),
    Binding("X", "stop('now')", "Stop at once", show=False),
    Binding("exclamation_mark", "cause", "Cause", key_display="!"),
    Binding("y", "copy", "Copy the trial's name", show=False),
    Binding("Y", "copy_error", "Copy the error", show=False),
]
"""Their keys."""


class TrialActs(StudyScreen):
    """A screen on which one trial is selected."""

    @property
    def row(self) -> Row | None:
        """The selected trial."""
        raise NotImplementedError

    @property
    def detail(self) -> TrialDetail | None:
        """The details of the selected trial, when they are there."""
        view, row = self.study_app.view, self.row
        found = view.detail if view is not None else None
        return (
            found if found is not None and row is not None and found.trial.trial == row.trial.trial else None
        )

    def show_log(self) -> None:
        """Show what the selected trial printed."""
        raise NotImplementedError

    # -- the run

    def action_retry(self) -> None:
        """Try the selected trial again."""
        view, row = self.study_app.view, self.row
        if view is None or row is None:
            return
        if row.trial.state != "failed":
            self.notify(
                f"{row.trial.trial} is {row.trial.state}; only what failed is tried again", markup=False
            )
        else:
            self._retry(view.paths, row.trial.trial)

    def action_run_on(self) -> None:
        """Try again what failed; without a runner, go on with all that is not done."""
        view = self.study_app.view
        if view is None:
            return
        snapshot = view.snapshot
        if snapshot.count("done") == len(snapshot.trials):
            self.notify("every trial is done")
        elif snapshot.running and not snapshot.count("failed"):
            self.notify("it runs, and nothing failed")
        else:
            self._retry(view.paths, "")

    def action_stop(self, when: StopWhen) -> None:
        """Ask whether the run shall stop."""
        view = self.study_app.view
        if view is None or not view.snapshot.running:
            self.notify("nobody runs this study")
            return

        def answered(answer: StopWhen | None) -> None:
            if answer is not None:
                self._stop(view.paths, answer)

        self.app.push_screen(StopScreen(view.paths.name, view.snapshot.count("running"), when), answered)

    @work(thread=True, group="act")
    def _retry(self, paths: StudyPaths, trial: str) -> None:
        self._do(lambda: control.ask_to_retry(paths, trial) or control.start_in_background(paths.spec, trial))

    @work(thread=True, group="act")
    def _stop(self, paths: StudyPaths, when: StopWhen) -> None:
        self._do(lambda: control.ask_to_stop(paths, when))

    def _do(self, act: Callable[[], str]) -> None:
        """Act in this thread and say how it went."""
        try:
            said = act()
        except StudyError as error:
            self.app.call_from_thread(self._failed, error)
        else:
            self.app.call_from_thread(self._acted, said)

    def _acted(self, said: str) -> None:
        self.notify(said, markup=False)
        self.study_app.look()

    def _failed(self, error: StudyError) -> None:
        for problem in error.problems:
            hint = f"\n{problem.hint}" if problem.hint else ""
            self.notify(f"{problem.what}{hint}", severity="error", markup=False)

    # -- one trial

    def action_cause(self) -> None:
        """Tell why the selected trial failed."""
        row, detail = self.row, self.detail
        if row is None:
            return
        if row.trial.state != "failed":
            self.notify(f"{row.trial.trial} is {row.trial.state}; it did not fail", markup=False)
        elif detail is not None:
            self.app.push_screen(CauseScreen(detail), self._wished)

    def _wished(self, wish: Wish | None) -> None:
        if wish == "retry":
            self.action_retry()
        elif wish == "log":
            self.show_log()

    def action_copy(self) -> None:
        """Copy the name of the selected trial."""
        if (row := self.row) is not None:
            self.app.copy_to_clipboard(row.trial.trial)
            self.notify(f"{row.trial.trial} was copied", markup=False)

    def action_copy_error(self) -> None:
        """Copy why the selected trial failed."""
        if (detail := self.detail) is None or detail.trial.state != "failed":
            self.notify("no error to copy: the trial did not fail")
        else:
            self.app.copy_to_clipboard(error_text(detail))
            self.notify("the error was copied")
