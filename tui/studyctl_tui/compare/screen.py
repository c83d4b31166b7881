"""Compare: variants by language, by task, where metrics disagree, size against quality, backends against each other."""

from collections.abc import Collection
from dataclasses import replace
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl_tui.compare.data import SORTS, Choice, Comparison, arranged, read_comparison
from studyctl_tui.compare.grid import CompareGrid
from studyctl_tui.compare.parts import (
    AgreementPart,
    LanguagesPart,
    Part,
    RanksPart,
    ShowsTrial,
    SizePart,
    TasksPart,
    fitting,
)
from studyctl_tui.compare.words import missing, state, tabs, why_empty
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import View

WIDE = 140
"""Columns from which on a sentence about a cell fits one line."""
READING = "reading the results …"


class CompareScreen(StudyScreen):
    """The results of one model in five parts."""

    NAME = "Compare"
    ABOUT = "Variants by language and by task, where metrics disagree, size against quality, backends."
    DEFAULT_CSS = """
    CompareScreen .compare--line { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    CompareScreen #compare-parts { height: 1fr; }
    CompareScreen #compare-parts.stacked { layout: vertical; }
    CompareScreen .stacked Part { height: 1fr; }
    CompareScreen Part.beside, CompareScreen Part.active { padding-right: 1; }
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
        self._asked: object = None
        """What was asked for last: a published file and a model."""
        self._wanted = ""
        """Model to show; empty: the first."""
        self._comparison: Comparison | None = None
        self._trouble: StudyError | None = None
        self._choice = Choice()
        self._active = 0

    def compose_body(self) -> ComposeResult:
        """Yield two lines about what is shown, the parts, and a line about the cell under the cursor."""
        yield Static(id="compare-tabs", classes="compare--line", markup=False)
        yield Static(id="compare-state", classes="compare--line", markup=False)
        yield Static(READING, id="compare-message", markup=False)
        with Horizontal(id="compare-parts"):
            yield from (LanguagesPart(), TasksPart(), RanksPart(), SizePart(), AgreementPart())
        yield Static(id="compare-says", markup=False)
        yield Input(id="compare-pattern", placeholder="words or * of variants; enter keeps, escape clears")

    def on_mount(self) -> None:
        """Begin with the languages."""
        self.query_one("#compare-parts").display = False
        self._activate(0)

    # -- what there is to show

    def show_view(self, view: View) -> None:
        """Read the results when others are published; begin anew when another study is open."""
        if view.paths != self._paths:
            if self._paths is not None:  # else: a choice that was made before the first view stands
                self._choice, self._wanted = Choice(), ""
            self._paths, self._comparison, self._trouble = view.paths, None, None
            self._draw()
        self._look(view)
        if self._comparison is None or not self._comparison.compares:
            self._show_message()

    def _look(self, view: View) -> None:
        asked = (view.paths, view.published_at, self._wanted)
        if asked != self._asked:
            self._asked = asked
            self._read(asked)

    @work(thread=True, group="compare")
    def _read(self, asked: tuple[StudyPaths, str, str]) -> None:
        """Read in a thread what is published; not if something else was asked for meanwhile."""
        paths, _, model = asked
        comparison, trouble = None, None
        if asked == self._asked:
            try:
                comparison = read_comparison(paths, model)
            except StudyError as error:
                trouble = error
            if not get_current_worker().is_cancelled:
                self.app.call_from_thread(self._take_results, asked, comparison, trouble)

    def _take_results(self, asked: object, comparison: Comparison | None, trouble: StudyError | None) -> None:
        if asked == self._asked and (trouble is not None or comparison != self._comparison):
            self._comparison, self._trouble = comparison, trouble
            self._draw()

    def _draw(self) -> None:
        """Draw the results as they are chosen."""
        comparison = self._comparison
        shown = comparison is not None and comparison.compares
        self.query_one("#compare-parts").display = shown
        self.query_one("#compare-message").display = not shown
        if comparison is None or not shown:
            self._show_message()
            self._show_state()
            return
        lines = arranged(comparison, self._choice)
        for part in self._parts:
            part.show(comparison, lines, why_empty(self._choice) if not lines else "")
        self._place()
        self._show_state()
        self._focus()

    # -- words

    def _show_message(self) -> None:
        """Say what is missing, and what to do."""
        view = self.study_app.view
        lines = list(missing(self._comparison, self._trouble, view)) if view is not None else []
        self.query_one("#compare-message", Static).update("\n\n".join(lines) or READING)

    def _show_state(self) -> None:
        """Say which part and what of it is shown."""
        names = [part.NAME for part in self._parts]
        self.query_one("#compare-tabs", Static).update(tabs(names, self._active))
        self.query_one("#compare-state", Static).update(state(self._comparison, self._choice))

    @on(CompareGrid.Moved)
    def _cursor_moved(self, event: CompareGrid.Moved) -> None:
        for number, part in enumerate(self._parts):
            if part.grid is event.grid:
                part.moved()
                if number == self._active:
                    self.query_one("#compare-says", Static).update(part.says())

    # -- parts

    @property
    def _parts(self) -> list[Part]:
        return list(self.query(Part))

    @property
    def _part(self) -> Part:
        return self._parts[self._active]

    def _activate(self, number: int) -> None:
        """Show a part; on a wide terminal with its neighbour."""
        self._active = number
        for other, part in enumerate(self._parts):
            part.set_class(other == number, "active")
        self._place()
        self._show_state()
        self.query_one("#compare-says", Static).update(self._part.says())
        self.call_after_refresh(self._focus)

    def _place(self) -> None:
        """Show the neighbour too, beside the part or below it, where both are visible as a whole."""
        size, parts = self.app.size, self._parts
        neighbour = parts[self._active ^ 1] if (self._active ^ 1) < len(parts) else None
        beside, below = fitting(self._part, neighbour, size) if neighbour is not None else (True, False)
        self.query_one("#compare-parts").set_class(not beside, "stacked")
        self.set_class(size.width >= WIDE, "wide")
        for part in parts:
            part.set_class(part is neighbour and (beside or below), "beside")

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
        self._choice = replace(self._choice, marked=frozenset(trials))
        view = self.study_app.view
        models = [one.model for one in view.snapshot.trials if one.trial in trials] if view else []
        if models and (self._comparison is None or self._comparison.model not in models):
            self._show_model(models[0])
        self._draw()

    def action_show_all(self) -> None:
        """Show all trials again."""
        self._choose(marked=frozenset())

    def action_next_sort(self) -> None:
        """Sort by something else."""
        self._choose(sort=SORTS[(SORTS.index(self._choice.sort) + 1) % len(SORTS)])

    def action_group(self) -> None:
        """Put the variants of a method together, or not."""
        self._choose(grouped=not self._choice.grouped)

    def _choose(self, **changes: object) -> None:
        self._choice = replace(self._choice, **changes)  # type: ignore[arg-type]  # fields of Choice
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
        self._wanted = model
        if (view := self.study_app.view) is not None and view.paths == self._paths:
            self._look(view)

    # -- filter

    def action_filter(self) -> None:
        """Ask for words of variants."""
        pattern = self.query_one("#compare-pattern", Input)
        pattern.value = self._choice.pattern
        self.type_into(pattern)

    def action_clear_filter(self) -> None:
        """Show all variants again."""
        self.query_one("#compare-pattern").display = False
        self._part.grid.focus()
        if self._choice.pattern:
            self._choose(pattern="")

    @on(Input.Changed, "#compare-pattern")
    def _pattern_changed(self, event: Input.Changed) -> None:
        self._choose(pattern=event.value.strip())

    @on(Input.Submitted, "#compare-pattern")
    def _pattern_kept(self) -> None:
        self.query_one("#compare-pattern").display = False
        self._part.grid.focus()

    # -- elsewhere

    def action_copy_cell(self) -> None:
        """Copy the figure under the cursor; on the name of a line, the whole line."""
        if text := self._part.copied():
            self.app.copy_to_clipboard(text)
            self.app.notify(f"copied: {text.replace(chr(9), ' ')}", markup=False)

    @on(CompareGrid.Chosen)
    async def _to_monitor(self) -> None:
        trial = self._part.chosen()
        if trial is None:
            return
        await self.app.switch_mode("monitor")
        if isinstance(monitor := self.app.screen, ShowsTrial):
            monitor.go_to(trial)
