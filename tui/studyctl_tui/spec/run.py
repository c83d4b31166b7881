"""Running a spec in the background: a line that says so until the runner lives."""

from pathlib import Path

from rich.text import Text
from textual import work
from textual.message import Message
from textual.widgets import Static

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, runs_folder
from studyctl.run.control import start_in_background
from studyctl.spec.loading import load_spec
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.spec.bars import short


class SpecRun(Static):
    """Shown while a runner starts; what came of it is told in a message."""

    DEFAULT_CSS = """
    SpecRun { height: 1; padding: 0 1; display: none; background: $primary 25%; color: $text; text-style: bold; }
    """

    class Started(Message):
        """A runner works on the spec."""

        def __init__(self, study: StudyPaths, path: Path) -> None:
            super().__init__()
            self.study, self.path = study, path

    def __init__(self) -> None:
        super().__init__(id="run", markup=False)

    def start(self, path: Path) -> None:
        """Run a file; :class:`Started` follows, or a note why not."""
        if not self.display:
            self.update(Text(f"{GLYPHS['running']} starting {short(path)}: it is planned first …"))
            self.display = True
            self._start(path)

    @work(thread=True, group="run")
    def _start(self, path: Path) -> None:
        try:
            study = StudyPaths(runs_folder() / load_spec(path).spec.study.name)
            said = start_in_background(path)
        except StudyError as error:
            self.app.call_from_thread(self._ended, error.problems[0].what, "error")
        else:
            self.app.call_from_thread(self._ended, said, "information")
            self.post_message(self.Started(study, path))

    def _ended(self, said: str, severity: str) -> None:
        self.display = False
        self.app.notify(said, severity="error" if severity == "error" else "information", markup=False)
