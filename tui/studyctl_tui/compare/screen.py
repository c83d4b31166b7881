"""Compare: variants by language and by task, where metrics disagree, size against quality, deployed files, backends."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl_tui.compare.data import SORTS, Choice, Comparison, arranged, read_comparison
from studyctl_tui.compare.flips import FlipsScreen
from studyctl_tui.compare.grid import CompareGrid
from studyctl_tui.compare.parts import (
    AgreementPart,
    DeploymentPart,
    LanguagesPart,
    Part,
    RanksPart,
    SizePart,
    TasksPart,
)
from studyctl_tui.compare.words import missing, state, tabs, why_empty
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import View

if TYPE_CHECKING:  # the two screens lead to each other
    from studyctl_tui.monitor.screen import MonitorScreen

WIDE = 140
"""Columns from which a sentence about a cell fits on one line."""
OTHER_LINES = 6
"""Lines of the terminal outside the parts."""
READING = "reading the results …"


class CompareScreen(StudyScreen):
    """The results of one model in six parts."""

    NAME = "Compare"
    ABOUT = "Variants by language and by task, where metrics disagree, size against quality, deployed files, backends."
    DEFAULT_CSS = """
    CompareScreen .compare--line { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    CompareScreen #compare-parts { height: 1fr; }
    CompareScreen #compare-parts.stacked { layout: vertical; }
    CompareScreen .stacked Part { height: 1fr; }
    CompareScreen Part.neighbour, CompareScreen Part.active { padding-right: 1; }
    CompareScreen #compare-says { height: 2; padding: 0 1; color: $foreground; background: $panel; }
    CompareScreen.wide #compare-says { height: 1; }
    CompareScreen #compare-message { padding: 1 2; }
    CompareScreen #compare-pattern { height: 1; border: none; padding: 0 1; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "part(1)", "Next part"),
        Binding("right_square_bracket", "part(1)", "Next part", show=False),
        Binding("left_square_bracket,shift+tab", "part(-1)", "Part before", show=False),
        Binding("m", "next_model", "Model"),
        Binding("p", "next_figure", "Figure"),
        Binding("s", "next_sort", "Sort"),
        Binding("g", "group", "Group by method", show=False),
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("u", "show_all", "Show all, not only marked ones", show=False),
        Binding("y", "copy_cell", "Copy the cell, or the line on its name", show=False),
        Binding("escape", "clear_filter", "Clear the filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._paths: StudyPaths | None = None
        self._request: object = None
        """The study, publication and model that were read last."""
        self._model = ""
        """Model to show; empty: the first."""
        self._comparison: Comparison | None = None
        self._trouble: StudyError | None = None
        self._choice = Choice()
        self._parts = (
            LanguagesPart(),
            TasksPart(),
            RanksPart(),
            SizePart(),
            DeploymentPart(),
            AgreementPart(),
        )
        self._active = 0

    def compose_body(self) -> ComposeResult:
        """Yield two lines about what is shown, the parts, and a line about the cell under the cursor."""
        yield Static(id="compare-tabs", classes="compare--line", markup=False)
        yield Static(id="compare-state", classes="compare--line", markup=False)
        yield Static(READING, id="compare-message", markup=False)
        with Horizontal(id="compare-parts"):
            yield from self._parts
        yield Static(id="compare-says", markup=False)
        yield Input(id="compare-pattern", placeholder="words or * of variants; enter keeps, escape clears")

    def on_mount(self) -> None:
        """Begin with the languages."""
        self.query_one("#compare-parts").display = False
        self._activate(0)

    # -- results

    def show_view(self, view: View) -> None:
        """Read the results when newer ones are published; start again when another study is open."""
        if view.paths != self._paths:
            if self._paths is not None:  # else: keep a choice that was made before the first view
                self._choice, self._model = Choice(), ""
            self._paths, self._comparison, self._trouble = view.paths, None, None
            self._draw()
        self._look(view)
        if self._comparison is None or not self._comparison.compares:
            self._show_message()

    def _look(self, view: View) -> None:
        request = (view.paths, view.published_at, self._model)
        if request != self._request:
            self._request = request
            self._read(view.paths, self._model)

    @work(thread=True, exclusive=True, group="compare")
    def _read(self, paths: StudyPaths, model: str) -> None:
        """Read the published results in a thread."""
        comparison, trouble = None, None
        try:
            comparison = read_comparison(paths, model)
        except StudyError as error:
            trouble = error
        self.app.call_from_thread(self._take_results, comparison, trouble)

    def _take_results(self, comparison: Comparison | None, trouble: StudyError | None) -> None:
        if trouble is not None or comparison != self._comparison:
            self._comparison, self._trouble = comparison, trouble
            self._draw()

    def _draw(self) -> None:
        """Draw the chosen results."""
        comparison = self._comparison
        shown = comparison is not None and comparison.compares
        self.query_one("#compare-parts").display = shown
        self.query_one("#compare-message").display = not shown
        self._write("state", state(comparison, self._choice))
        if comparison is None or not shown:
            self._show_message()
            return
        lines = arranged(comparison, self._choice)
        for part in self._parts:
            part.show(comparison, lines, why_empty(self._choice) if not lines else "")
        self._place()
        self._focus()

    def _write(self, name: str, text: str | Text) -> None:
        self.query_one(f"#compare-{name}", Static).update(text)

    def _show_message(self) -> None:
        """Say what is missing, and what to do."""
        view = self.study_app.view
        lines = list(missing(self._comparison, self._trouble, view)) if view is not None else []
        self._write("message", "\n\n".join(lines) or READING)

    @on(CompareGrid.Moved)
    def _cursor_moved(self) -> None:
        self._write("says", self._part.says())

    # -- parts

    @property
    def _part(self) -> Part:
        return self._parts[self._active]

    def _activate(self, number: int) -> None:
        """Show a part; on a wide terminal with its neighbour."""
        self._active = number
        for part in self._parts:
            part.set_class(part is self._part, "active")
        self._place()
        self._write("tabs", tabs([part.NAME for part in self._parts], number))
        self._write("says", self._part.says())
        self.call_after_refresh(self._focus)

    def _place(self) -> None:
        """Show the neighbour too, next to the part or below it, where both fit."""
        size, neighbour = self.app.size, None
        side_by_side, stacked = True, False
        if self._part.IS_PAIRED:
            neighbour = self._parts[self._active ^ 1]
            columns, rows = map(max, zip(self._part.size_needed, neighbour.size_needed, strict=True))
            side_by_side, stacked = 2 * columns <= size.width, 2 * rows <= size.height - OTHER_LINES
        self.query_one("#compare-parts").set_class(not side_by_side, "stacked")
        self.set_class(size.width >= WIDE, "wide")
        for part in self._parts:
            part.set_class(part is neighbour and (side_by_side or stacked), "neighbour")

    def on_resize(self) -> None:
        """Show one part or two."""
        self._place()

    def _focus(self) -> None:
        if not self.query_one("#compare-pattern").display:
            self._part.grid.focus()

    def action_part(self, step: int) -> None:
        """Go to the next part."""
        self._activate((self._active + step) % len(self._parts))

    def action_next_figure(self) -> None:
        """Show another figure in this part."""
        if self._comparison is not None:
            self._part.next_sheet()
            self._place()

    # -- variants

    def mark(self, trials: Collection[str]) -> None:
        """Show only these trials."""
        view = self.study_app.view
        models = [trial.model for trial in view.snapshot.trials if trial.trial in trials] if view else []
        if models and (self._comparison is None or self._comparison.model not in models):
            self._show_model(models[0])
        self._choose(marked=frozenset(trials))

    def action_show_all(self) -> None:
        """Show all trials again."""
        self._choose(marked=frozenset())

    def action_next_sort(self) -> None:
        """Sort by something else."""
        sorts = list(SORTS)
        self._choose(sort=sorts[(sorts.index(self._choice.sort) + 1) % len(sorts)])

    def action_group(self) -> None:
        """Put the variants of a method together, or not."""
        self._choose(grouped=not self._choice.grouped)

    def _choose(self, **changes: Any) -> None:
        self._choice = replace(self._choice, **changes)
        self._draw()

    def action_next_model(self) -> None:
        """Show the next model."""
        comparison = self._comparison
        if comparison is not None and len(comparison.models) > 1:
            models = comparison.models
            self._show_model(models[(models.index(comparison.model) + 1) % len(models)])
        elif comparison is not None:
            self.app.notify("the study has one model")

    def _show_model(self, model: str) -> None:
        self._model = model
        if (view := self.study_app.view) is not None and view.paths == self._paths:
            self._look(view)

    # -- filter

    def action_filter(self) -> None:
        """Ask for words to filter by."""
        pattern = self.query_one("#compare-pattern", Input)
        pattern.value = self._choice.pattern
        self.type_into(pattern)

    def action_clear_filter(self) -> None:
        """Show all variants again."""
        self._close_filter()
        if self._choice.pattern:
            self._choose(pattern="")

    @on(Input.Changed, "#compare-pattern")
    def _pattern_changed(self, event: Input.Changed) -> None:
        self._choose(pattern=event.value.strip())

    @on(Input.Submitted, "#compare-pattern")
    def _close_filter(self) -> None:
        self.query_one("#compare-pattern").display = False
        self._part.grid.focus()

    # -- elsewhere

    def action_copy_cell(self) -> None:
        """Copy the figure under the cursor; on the name of a line, the whole line."""
        if text := self._part.copied():
            self.app.copy_to_clipboard(text)
            self.app.notify(f"copied: {text.replace(chr(9), ' ')}", markup=False)

    def action_flips(self) -> None:
        """Read the items that flipped of the variant under the cursor: of the task, or of all tasks on its name and the mean."""
        comparison, grid = self._comparison, self._part.grid
        line = grid.line
        if comparison is None or self._paths is None or line is None or line.trial is None:
            return
        if line.trial.variant == "dense":
            self.app.notify("items flip against dense: put the cursor on another variant")
            return
        task = grid.column if grid.column in comparison.tasks else None
        metrics = {row.task: row.metric for row in comparison.scores.values() if row.main}
        self.app.push_screen(FlipsScreen(self._paths, line.key, line.label, task, metrics))

    async def action_monitor(self) -> None:
        """Go to the trial under the cursor in the Monitor."""
        trial = self._part.chosen()
        if trial is not None:
            await self.app.switch_mode("monitor")
            cast("MonitorScreen", self.app.screen).go_to(trial)
