"""Actions on trials and their run: retry, resume, stop, show the cause, copy."""

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from studyctl.contract.job import StopWhen
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.run import control
from studyctl.store.live import TrialDetail
from studyctl_tui.monitor.trials import TrialsScreen
from studyctl_tui.shared.dialogs import Ask, Choice, InputScreen
from studyctl_tui.shared.stop import ask_how_to_stop
from studyctl_tui.shared.topbar import GLYPHS


class TrialActs(TrialsScreen):
    """The trials table with actions on the selected trial and on the run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "retry", "Retry"),
        Binding("R", "run_on", "Retry all that failed, or go on with the run", show=False),
        Binding("x", "stop('after_step')", "Stop"),
        Binding("X", "stop('now')", "Stop at once", show=False),
        Binding("exclamation_mark", "cause", "Cause", key_display="!"),
        Binding("p", "put_first", "Run this trial next", show=False),
        Binding("n", "note", "Note about the trial", show=False),
        Binding("y", "copy", "Copy the trial's name", show=False),
        Binding("Y", "copy_error", "Copy the error", show=False),
    ]

    def action_log(self) -> None:
        """Show what the selected trial printed."""
        raise NotImplementedError

    # -- the run

    def action_retry(self) -> None:
        """Try the selected trial again."""
        view, row = self.study_app.view, self.row
        if view is None or row is None:
            return
        name, state = row.trial.trial, row.trial.state
        if state != "failed":
            self.notify(f"{name} is {state}; only what failed is tried again", markup=False)
        else:
            self._retry(view.paths, name)

    def action_run_on(self) -> None:
        """Retry what failed; if no runner is alive, resume the run."""
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

    def _retry(self, paths: StudyPaths, trial: str) -> None:
        def act() -> str:
            return control.ask_to_retry(paths, trial) or control.start_in_background(paths.spec, trial)

        self.ask_trust(paths, paths.spec, lambda: self._act(act))

    def action_stop(self, when: StopWhen) -> None:
        """Stop the run, after asking how."""
        view = self.study_app.view
        if view is None or not view.snapshot.running:
            self.notify("nobody runs this study")
            return
        paths = view.paths
        ask_how_to_stop(
            self.study_app, paths.name, when, lambda how: self._act(lambda: control.ask_to_stop(paths, how))
        )

    @work(thread=True, group="act")
    def _act(self, act: Callable[[], str]) -> None:
        """Act in a thread and say how it went."""
        try:
            self.notify(act(), markup=False)
        except StudyError as error:
            for problem in error.problems:
                hint = f"\n{problem.hint}" if problem.hint else ""
                self.notify(f"{problem.what}{hint}", severity="error", markup=False)
        else:
            self.app.call_from_thread(self.study_app.look)

    # -- one trial

    def action_cause(self) -> None:
        """Say why the selected trial failed, in full, and offer what can be done; go to one that failed if it did not."""
        row = self.row
        if row is None:
            return
        failed = self.trials.in_state("failed")
        if row.trial.state != "failed" and failed:
            self.go_to(failed[0].trial)
            self.notify(f"{failed[0].trial} failed; ! again says why", markup=False)
        elif row.trial.state != "failed":
            self.notify("nothing failed")
        elif row.detail is not None:
            title, _, body = error_text(row.detail).partition("\n")
            choices = [
                Choice("y", "Copy it", "copy"),
                Choice("r", "Try again", "retry"),
                Choice("l", "Log", "log"),
            ]
            acts = {"copy": self.action_copy_error, "retry": self.action_retry, "log": self.action_log}
            self.app.push_screen(
                Ask(f"{GLYPHS['failed']} {title}", Text(body), choices),
                lambda answer: acts[answer]() if answer else None,
            )

    def action_put_first(self) -> None:
        """Let the runner run the selected trial next."""
        view, row = self.study_app.view, self.row
        if view is None or row is None:
            return
        paths, name, state = view.paths, row.trial.trial, row.trial.state
        if not view.snapshot.running:
            self.notify("nobody runs it: R starts the run")
        elif state in ("running", "done"):
            self.notify(f"{name} {'runs' if state == 'running' else 'is done'}", markup=False)
        else:
            self._act(lambda: control.ask_to_put_first(paths, name))

    def action_note(self) -> None:
        """Write a note about the selected trial."""
        view, row = self.study_app.view, self.row
        if view is None or row is None:
            return
        paths, name = view.paths, row.trial.trial
        before = view.snapshot.notes.get(name)
        text = before.text if before is not None else ""

        def written(note: str | None) -> None:
            if note is not None and note != text:
                self._act(lambda: control.note(paths, name, note))

        question = f"note about {name}, for all who read the study (empty: none):"
        self.app.push_screen(InputScreen(question, text), written)

    def action_copy(self) -> None:
        """Copy the name of the selected trial."""
        if (row := self.row) is not None:
            self.app.copy_to_clipboard(row.trial.trial)
            self.notify(f"{row.trial.trial} was copied", markup=False)

    def action_copy_error(self) -> None:
        """Copy why the selected trial failed."""
        row = self.row
        if row is None or row.detail is None or row.detail.trial.state != "failed":
            self.notify("no error to copy: the trial did not fail")
        else:
            self.app.copy_to_clipboard(error_text(row.detail))
            self.notify("the error was copied")


def error_text(detail: TrialDetail) -> str:
    """Return a failure as text for an issue or a mail."""
    errors = [f"{live.step}: {live.error}" for live in detail.steps if live.error is not None]
    lines = [
        f"{detail.trial.trial}: {(detail.cause or 'error').replace('_', ' ')}",
        *(errors or [detail.trial.error or "no error was recorded"]),
    ]
    return "\n".join([*lines, f"hint: {detail.hint}"] if detail.hint else lines)
