"""Spec: the editor."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.timer import Timer
from textual.widgets import OptionList, Static, TextArea
from typing_extensions import override

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths
from studyctl.plan.saved import study_of
from studyctl.plan.variants import expand_variants
from studyctl.run.control import start_in_background
from studyctl.spec.loading import load_spec
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.topbar import GLYPHS
from studyctl_tui.shared.view import View
from studyctl_tui.spec.bars import KeyHelp, short
from studyctl_tui.spec.editor import SpecEditor
from studyctl_tui.spec.file import SpecFile
from studyctl_tui.spec.panes import SpecPanes, checked
from studyctl_tui.spec.problems import ProblemList

HELP_SECONDS = 0.05
"""How long the cursor stands before the key below it is explained."""


class SpecScreen(StudyScreen):
    """The editor of a spec, with what is wrong with it and what it would run."""

    NAME = "Spec"
    ABOUT = "Edit the spec: problems as you type, what each key means, and what a run would do."
    DEFAULT_CSS = """
    SpecScreen {
        & #text { height: 1fr; }
        & #panes { height: 6; }
        & #run {
            height: 1; padding: 0 1; display: none; background: $primary 25%; color: $text; text-style: bold;
        }
        &.-wide {
            & #work { layout: horizontal; }
            & #text { width: 3fr; }
            & #panes { width: 2fr; height: 1fr; border-left: solid $primary; }
            & #pane-tabs { display: none; }
            & .pane-title { display: block; }
            & #panes #problems, & #panes #plan { display: block; }
            & #key-help { height: auto; min-height: 2; max-height: 5; }
        }
    }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012 - a ClassVar may not override it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save"),
        Binding("ctrl+r", "run", "Run"),
        Binding("f8", "problem(1)", "Next problem", key_display="F8"),
        Binding("shift+f8", "problem(-1)", "Problem before", show=False),
        Binding("f9", "pane", "Problems or plan", key_display="F9", show=False),
        Binding("f5", "reload", "Load the file again", show=False),
        Binding("f2", "save_as", "Save under another name", show=False),
        Binding("escape", "text", "From the text to the panes and back", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.source = SpecFile()
        """The file behind the text."""
        self.editor = SpecEditor()
        self.panes = SpecPanes()
        self._run_status = Static(id="run", markup=False)
        self._variant = ""
        self._opening: Path | None = None
        self._timer: Timer | None = None

    def compose_body(self) -> ComposeResult:
        """Yield text and panes."""
        with Container(id="work"):
            with Vertical(id="text"):
                yield self.source
                yield self._run_status
                yield self.editor
                yield self.editor.completions
                yield KeyHelp(id="key-help")
            yield self.panes

    @property
    def path(self) -> Path | None:
        """The file in the editor."""
        return self.source.file.path if self.source.file is not None else None

    @property
    def unsaved(self) -> bool:
        """Whether there is text that would be lost."""
        return self.is_mounted and self.source.is_unsaved(self.editor.text)

    # -- which file

    def on_screen_resume(self) -> None:
        """Open the file that is wanted; see what others did to the one that is open."""
        super().on_screen_resume()
        self.open_wanted()
        self.source.look()
        self.panes.plan_again()

    def show_view(self, view: View) -> None:
        """Follow when another study is opened."""
        self.open_wanted()

    def open_wanted(self) -> None:
        """Open the app's spec, or the one of its study, unless it is open; asks first where text would be lost."""
        app = self.study_app
        path = app.spec or (app.study.spec if app.study is not None else None)
        if path is None:
            if self.source.file is None:
                hint = "`studyctl edit FILE` opens one, also a new one"
                self._refuse([Problem("no spec is open", hint=hint)], Path())
        elif path not in (self.path, self._opening):
            self._opening = path
            must_exist = app.spec is None
            self.ask_first(lambda: self.source.open(path, must_exist=must_exist), self._stay)

    def _stay(self) -> None:
        """Keep the text that is open as the app's spec, so that nothing asks again."""
        self._opening, self.study_app.spec = None, self.path

    @override
    def ask_first(self, then: Callable[[], object], otherwise: Callable[[], object] | None = None) -> None:
        self.source.ask_first(self.editor.text, then, otherwise)

    @on(SpecFile.Opened)
    def _opened(self, event: SpecFile.Opened) -> None:
        self.source.take(event.file)
        if event.again:
            self.editor.exchange(event.file.text)
        else:
            self._opening = None
            self.editor.load(event.file.text, read_only=event.file.is_bundled)
            self.editor.focus()
            self.panes.check(self.editor.meant, event.file.path, at_once=True)
            self._go_to_variant()
        self._draw()

    @on(SpecFile.Refused)
    def _refused(self, event: SpecFile.Refused) -> None:
        self._refuse(event.problems, event.path)

    def _refuse(self, problems: Sequence[Problem], path: Path) -> None:
        self.source.take(None, problems[0].what)
        self.editor.load("", read_only=True)
        self.panes.refuse(problems, path)
        self._draw()

    @on(SpecFile.Saved)
    def _saved(self, event: SpecFile.Saved) -> None:
        if event.renamed:
            self.editor.read_only = False
            self.study_app.spec = self.path
        self._draw()

    # -- as one types

    @on(TextArea.Changed)
    def _changed(self) -> None:
        if self.path is not None:
            self.panes.check(self.editor.meant, self.path)
        self._moved()

    @on(TextArea.SelectionChanged)
    def _moved(self) -> None:
        self._draw()
        if self._timer is None:
            self._timer = self.set_timer(HELP_SECONDS, self._explain)

    def _explain(self) -> None:
        self._timer = None
        self.query_one(KeyHelp).about = self.editor.explained()

    @on(OptionList.OptionSelected, "CompletionList")
    def _picked(self) -> None:
        self.editor.accept()

    @on(SpecPanes.Checked)
    def _checked(self) -> None:
        self.editor.mark([problem for problem in self.panes.problems if problem.file == self.path])
        self._draw()

    def _draw(self) -> None:
        self.source.draw(self.editor.text, self.editor.cursor_location, self.panes.problems)

    # -- saving and running

    def action_save(self) -> None:
        """Save, or save a copy of a spec that ships."""
        if self.source.file is not None and self.source.file.is_bundled:
            self.action_save_as()
        else:
            self.source.save(self.editor.text)

    def action_save_as(self) -> None:
        """Save under another name."""
        self.source.ask_name(self.editor.text)

    def action_reload(self) -> None:
        """Load the file's newest version."""
        if self.path is None:  # it may be one that can be edited by now
            self._opening = None
            self.open_wanted()
        self.source.reload()

    def action_run(self) -> None:
        """Save what is not saved, and run the spec in the background."""
        file = self.source.file
        errors = [problem for problem in self.panes.problems if problem.severity == "error"]
        if file is None:
            return
        if errors:
            self.notify("fix the problems first: as it is, nothing can run", severity="warning")
            self.action_problem(1)
        elif self.unsaved or file.data is None:
            self.source.save(self.editor.text, lambda: self._start(file.path))
        else:
            self._start(file.path)

    def _start(self, path: Path) -> None:
        if not self._run_status.display:
            self._run_status.update(f"{GLYPHS['running']} starting {short(path)}: it is planned first …")
            self._run_status.display = True
            self._run(path)

    @work
    async def _run(self, path: Path) -> None:
        try:
            document = await asyncio.to_thread(load_spec, path)
        except StudyError as error:
            self.app.notify(error.problems[0].what, severity="error", markup=False)
        else:
            paths = study_of(document)
            self.ask_trust(paths, path, lambda: self._run_in_background(path, paths))
        self._run_status.display = False

    @work
    async def _run_in_background(self, path: Path, paths: StudyPaths) -> None:
        self._run_status.display = True
        try:
            message = await asyncio.to_thread(start_in_background, path)
        except StudyError as error:
            self.app.notify(error.problems[0].what, severity="error", markup=False)
        else:
            self.app.notify(message, markup=False)
            self.study_app.open_study(paths)
            self.study_app.spec = path  # the file goes on being the one in the editor
        self._run_status.display = False

    # -- going to places

    @on(OptionList.OptionSelected, "ProblemList")
    def _show_problem(self, event: OptionList.OptionSelected) -> None:
        self._show(self.panes.problems[event.option_index])

    def _show(self, problem: Problem) -> None:
        self.panes.query_one(ProblemList).highlight(problem)
        if problem.file == self.path and problem.line is not None:
            self.editor.show_place(problem.line, problem.column or 1)
            self.editor.focus()
        elif problem.file is not None:
            self.notify(f"this is in {short(problem.file)}, line {problem.line or 1}", markup=False)

    def action_problem(self, step: int) -> None:
        """Go to the next problem from the cursor on, or to the one before; around the end."""
        row, column = self.editor.cursor_location
        problem = self.panes.next_problem((row + 1, column + 1), step)
        if problem is None:
            done = self.panes.document is not None or self.panes.problems
            self.notify("no problem has a place in this text" if done else "the text is being checked")
        else:
            self._show(problem)

    def go_to(self, variant: str) -> None:
        """Move the cursor to the ``[[compression]]`` table that makes a variant; opens the spec first if need be."""
        self._variant = variant
        self.open_wanted()
        if self._opening is None:
            self._go_to_variant()

    def _go_to_variant(self) -> None:
        variant, self._variant = self._variant, ""
        if variant and self.path is not None:
            self._find_variant(variant, self.editor.meant, self.path)

    @work(exclusive=True, group="variant")
    async def _find_variant(self, variant: str, text: str, path: Path) -> None:
        """Show the table that makes a variant, or say that there is none."""
        document, problems = await asyncio.to_thread(checked, text, path)
        for item in expand_variants(document)[0] if document is not None else ():
            if document is not None and item.name == variant:
                self._show(document.problem(f"makes {variant}", item.loc))
                return
        why = f": {problems[0].what}" if problems else ""
        self.notify(f"this text makes no variant {variant}{why}", severity="warning", markup=False)

    def action_pane(self) -> None:
        """Turn to the other pane."""
        self.panes.action_other()

    def action_text(self) -> None:
        """Go from the text to the panes, and back."""
        if self.editor.has_focus:
            self.panes.focus_pane()
        else:
            self.editor.focus()
