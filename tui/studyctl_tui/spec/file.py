"""The file behind the editor: opened, saved and watched in threads; never written over a change made elsewhere."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message

from studyctl.errors import Problem, StudyError
from studyctl.spec.editing import (
    ChangedElsewhereError,
    Loaded,
    as_meant,
    changed_elsewhere,
    load,
    save,
)
from studyctl_tui.shared.dialogs import Ask, Choice, InputScreen
from studyctl_tui.spec.bars import Banner, FileBar, short
from studyctl_tui.spec.panes import checked
from studyctl_tui.spec.problems import counted

LOOK_SECONDS = 2.0
"""How often the file on the disk is looked at."""
ELSEWHERE = {
    "changed": "changed elsewhere: F5 loads that version (ctrl+z brings yours back), ctrl+s asks what to keep",
    "gone": "the file is gone: ctrl+s writes it again",
}

Then = Callable[[], object]


class _Document:
    """What is edited, from when it is opened until another is: its file changes with each save."""

    def __init__(self, file: Loaded) -> None:
        self.file = file
        """What was loaded or saved last."""
        self.saving = asyncio.Lock()


class SpecFile(Vertical):
    """Bar and banner of the file; messages say what happens to it."""

    DEFAULT_CSS = """
    SpecFile { height: auto; }
    """

    class Opened(Message):
        """A file was read: whoever shows its text gives it to :meth:`take` in the same moment."""

        def __init__(self, file: Loaded, *, again: bool) -> None:
            super().__init__()
            self.file, self.again = file, again

    class Refused(Message):
        """A file cannot be edited."""

        def __init__(self, problems: Sequence[Problem], path: Path) -> None:
            super().__init__()
            self.problems, self.path = problems, path

    class Saved(Message):
        """The text was written; to another file, where it was saved under another name."""

        def __init__(self, *, renamed: bool) -> None:
            super().__init__()
            self.renamed = renamed

    def __init__(self) -> None:
        super().__init__(id="spec-file")
        self._document: _Document | None = None
        """What is open; another takes its place together with the text in the editor."""
        self._note = ""
        self._bar, self._banner = FileBar(id="file"), Banner(id="banner")

    @property
    def file(self) -> Loaded | None:
        """What was loaded or saved last; None: nothing is open."""
        return self._document.file if self._document is not None else None

    def compose(self) -> ComposeResult:
        """Yield bar and banner."""
        yield self._bar
        yield self._banner

    def on_mount(self) -> None:
        """Begin to look at the file."""
        self.set_interval(LOOK_SECONDS, self.look)

    def is_unsaved(self, text: str) -> bool:
        """Return whether a text holds something that is not in the file (a template that nobody touched holds nothing)."""
        return self.file is not None and text != self.file.text

    def draw(self, text: str, place: tuple[int, int], problems: Sequence[Problem]) -> None:
        """Draw the bar for what is in the editor."""
        file, state = self.file, ""
        if self.is_unsaved(text):
            state = "● not saved"
        elif file is not None and file.is_bundled:
            state = "read-only: ctrl+s saves a copy"
        elif file is not None and file.data is None:
            state = "new file"
        name = short(file.path) if file is not None else "no spec is open"
        left = Text.assemble((name, "bold"), f"  {state}" if state else "")
        right = "  ".join(filter(None, (counted(problems), f"{place[0] + 1}:{place[1] + 1}")))
        self._bar.sides = left, right

    # -- opening

    @work(exclusive=True, group="file")
    async def open(self, path: Path, *, must_exist: bool = False) -> None:
        """Load a file in a thread; :class:`Opened` or :class:`Refused` follows."""
        try:
            loaded = await asyncio.to_thread(load, path)
            if must_exist and loaded.data is None:
                raise StudyError("this study has no spec.toml yet", hint="`studyctl run SPEC` writes it")
            self.post_message(self.Opened(loaded, again=False))
        except StudyError as error:
            self.post_message(self.Refused(error.problems, path))
        except OSError as error:
            problem = Problem(f"`{path}` cannot be read: {error.strerror or error}")
            self.post_message(self.Refused([problem], path))

    def take(self, file: Loaded | None, trouble: str = "") -> None:
        """Take a file whose text is in the editor now; None for none, with what is the matter."""
        if file is None:
            self._document = None
        elif self._document is not None and self._document.file.path == file.path:
            self._document.file = file
        else:
            self._document = _Document(file)
        self._say(_note(file) if file is not None else trouble)

    def _say(self, note: str) -> None:
        self._banner.text = self._note = note

    # -- saving

    def save(self, text: str, then: Then | None = None, *, path: Path | None = None) -> None:
        """Write the text of what is open now, in a thread; asks first where the file was changed elsewhere.

        Args:
            text: what is in the editor.
            then: what follows when it is written.
            path: a file that does not exist yet, to write to and to edit from then on; None: the open one.
        """
        if self._document is not None:
            self._save(self._document, text, then, path=path)

    @work(group="save")
    async def _save(
        self,
        document: _Document,
        text: str,
        then: Then | None,
        *,
        path: Path | None = None,
        keep_other: bool = False,
    ) -> None:
        """Write a text after those of the same document that are being written, whatever was opened meanwhile."""
        async with document.saving:
            file = document.file if path is None else replace(document.file, path=path, stamp=None)
            try:
                document.file = await asyncio.to_thread(save, file, text, keep_other=keep_other)
            except ChangedElsewhereError:
                if path is not None:
                    self._warn(f"{short(path)} exists already: choose another name")
                else:
                    self._ask(document, text, then)
                return
            except StudyError as error:
                self._warn(error.problems[0].what)
                return
            problems = counted((await asyncio.to_thread(checked, as_meant(text), file.path))[1])
            suffix = f", which has problems: {problems}" if problems else ""
            self.app.notify(f"saved {short(file.path)}{suffix}", markup=False)
            if document is self._document:
                self._say(_note(document.file))
                self.post_message(self.Saved(renamed=path is not None))
        if then is not None:
            then()

    def _ask(self, document: _Document, text: str, then: Then | None) -> None:
        def answered(answer: str | None) -> None:
            if answer == "r" and document is self._document:
                self.reload()
            elif answer == "o":
                self._save(document, text, then, keep_other=True)

        name = document.file.path.name
        choices = [
            Choice("r", "reload: load that version (ctrl+z brings this text back)", "r"),
            Choice("o", f"overwrite: save this text, and keep the other as {name}.orig", "o"),
        ]
        body = Text("Another program wrote to the file since it was loaded here.")
        self.app.push_screen(Ask(f"{name} was changed elsewhere", body, choices), answered)

    def _warn(self, text: str) -> None:
        self.app.notify(text, severity="error", markup=False)

    def ask_name(self, text: str) -> None:
        """Ask for a file to save a text in, and save it there."""
        if self.file is None:
            return

        def answered(name: str | None) -> None:
            if name:
                self.save(text, path=Path(name if name.endswith(".toml") else f"{name}.toml").expanduser())

        question = "save as (a file in the working directory, or a path):"
        self.app.push_screen(InputScreen(question, self.file.path.name), answered)

    def ask_first(self, text: str, then: Then, otherwise: Then | None = None) -> None:
        """Do something that loses a text, once that is saved or given up; at once where it is saved.

        Args:
            text: what is in the editor.
            then: what is done.
            otherwise: what is done instead if the answer is to go on editing.
        """
        if self.file is None or not self.is_unsaved(text):
            then()
            return

        def answered(answer: str | None) -> None:
            if answer == "s":
                self.save(text, then)
            elif answer == "d":
                then()
            elif otherwise is not None:
                otherwise()

        choices = [Choice("s", "save it first", "s"), Choice("d", "discard it", "d")]
        body = Text("It has changes that would be lost.")
        self.app.push_screen(Ask(f"{short(self.file.path)} is not saved", body, choices), answered)

    # -- changes made elsewhere

    def reload(self) -> None:
        """Load the file's newest version; :class:`Opened` follows."""
        if self.file is not None and not self.file.is_bundled:
            self._reload(self.file)

    @work(exclusive=True, group="file")
    async def _reload(self, file: Loaded) -> None:
        try:
            loaded = await asyncio.to_thread(load, file.path)
        except (StudyError, OSError) as error:
            self._warn(str(error))
            return
        if loaded.data is None:
            self._warn("the file is gone: ctrl+s writes it again")
        elif self.file is file:
            self.post_message(self.Opened(loaded, again=True))

    def look(self) -> None:
        """See in a thread whether the file was changed elsewhere."""
        if self.file is not None and self.screen.is_current:
            self._look(self.file)

    @work(exclusive=True, group="look at the disk")
    async def _look(self, file: Loaded) -> None:
        happened = await asyncio.to_thread(changed_elsewhere, file)
        if file is self.file:  # else it was saved or another one opened meanwhile
            self._banner.text = f"! {ELSEWHERE[happened]}" if happened else self._note


def _note(loaded: Loaded) -> str:
    """Return what is to be known of a file from the start."""
    if loaded.is_bundled:
        return "this spec ships with studyctl: ctrl+s saves a copy of your own to edit"
    if loaded.written_in is not None:
        return f"the copy that the study ran, complete in itself; its spec is in {short(loaded.written_in)}"
    return ""
