"""The problems of a spec's text while it is typed, then what it would run.

Checking takes milliseconds, planning may take a minute (models are looked up). Both happen in threads. One plan is made
at a time; an answer on a text that is not the newest is dropped.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from studyctl.errors import Problem, StudyError
from studyctl.spec.loading import Document, parse_spec
from studyctl_tui.spec.plan import PlanPane
from studyctl_tui.spec.problems import ProblemList, counted

if TYPE_CHECKING:
    from studyctl.plan.preview import Preview

CHECK_SECONDS = 0.3
"""How long typing must pause before the text is checked."""
PANES = ("problems", "plan")

T = TypeVar("T")


class SpecPanes(Vertical):
    """Problems and plan: one of them at a time in a narrow terminal, both in a wide one."""

    DEFAULT_CSS = """
    SpecPanes {
        & #pane-tabs, & .pane-title { height: 1; padding: 0 1; background: $panel; color: $foreground; }
        &.-problems #plan, &.-plan #problems { display: none; }
        & .pane-title { display: none; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,right", "other", "Problems or plan", show=False),
    ]

    class Checked(Message):
        """Problems of the newest text were found, or none."""

    def __init__(self) -> None:
        super().__init__(id="panes", classes="-problems")
        self.problems: Sequence[Problem] = ()
        """Of the newest text that was checked, and of its plan."""
        self.document: Document | None = None
        """The newest text, if it is checked and nothing is wrong with it."""
        self._text, self._path = "", Path()
        self._timer: Timer | None = None
        self._to_plan: Document | None = None
        self._planning = False

    def compose(self) -> ComposeResult:
        """Yield both panes."""
        yield Static(id="pane-tabs", markup=False)
        yield Static("Problems", classes="pane-title", markup=False)
        yield ProblemList()
        yield Static("Plan", classes="pane-title", markup=False)
        yield PlanPane()

    def on_mount(self) -> None:
        """Draw the names of the panes."""
        self._draw_names()

    # -- which pane

    @property
    def shown(self) -> str:
        """The pane that a narrow terminal shows."""
        return PANES[self.has_class("-plan")]

    def turn_to(self, pane: str) -> None:
        """Show a pane in a narrow terminal."""
        self.set_class(pane == "problems", "-problems")
        self.set_class(pane == "plan", "-plan")
        self._draw_names()

    def action_other(self) -> None:
        """Turn to the other pane; the focus follows if it is in one of them."""
        focused = self.has_focus_within
        self.turn_to(PANES[self.shown == "problems"])
        if focused:
            self.focus_pane()

    def focus_pane(self) -> None:
        """Put the focus on the pane that is shown."""
        self.query_one(f"#{self.shown}").focus()

    def on_click(self, event: events.Click) -> None:
        """Turn to the pane whose name was clicked."""
        if event.widget is self.query_one("#pane-tabs"):
            self.turn_to(PANES[event.x > len(self._names()[0])])

    def _names(self) -> tuple[str, str]:
        problems = f" Problems {counted(self.problems)} ".replace("  ", " ")
        return problems, f" Plan{' …' if self._planning else ''} "

    def _draw_names(self) -> None:
        names = Text()
        for pane, name in zip(PANES, self._names(), strict=True):
            names.append(name, "reverse bold" if pane == self.shown else "")
            names.append(" ")
        names.append("F9", "dim")
        self.query_one("#pane-tabs", Static).update(names)
        titles = self.query(".pane-title").results(Static)
        for title, name in zip(titles, self._names(), strict=True):
            title.update(Text(name.strip(), "bold"))

    # -- problems

    def refuse(self, problems: Sequence[Problem], path: Path) -> None:
        """Show why a file cannot be edited."""
        self._text, self._path, self.document, self._to_plan = "", path, None, None
        self.query_one(PlanPane).say("")
        self._show(problems, "")

    def check(self, text: str, path: Path, *, at_once: bool = False) -> None:
        """Check a text when nobody has typed for a moment."""
        self._text, self._path, self.document, self._to_plan = text, path, None, None
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(0.001 if at_once else CHECK_SECONDS, lambda: self._check(text, path))

    @work(exclusive=True, group="check")
    async def _check(self, text: str, path: Path) -> None:
        document, problems = await asyncio.to_thread(checked, text, path)
        if text != self._text or not self.app.is_running:
            return
        self.document = document
        if document is None:
            self.query_one(PlanPane).say("shown when nothing is wrong with the text")
        self._show(problems, "✓ nothing is wrong with the text")
        self.plan_again()

    def next_problem(self, cursor: tuple[int, int], step: int) -> Problem | None:
        """Return the next problem of this file after a place, or the last one before it, wrapping at the ends."""
        places = {
            (item.line, item.column or 1): item
            for item in self.problems
            if item.line and item.file == self._path
        }
        if not places:
            return None
        if step > 0:
            return places[min([place for place in places if place > cursor] or places)]
        return places[max([place for place in places if place < cursor] or places)]

    def _show(self, problems: Sequence[Problem], nothing: str) -> None:
        self.problems = problems
        self.query_one(ProblemList).show(problems, self._path, nothing)
        self._draw_names()
        self.post_message(self.Checked())

    # -- plan

    def plan_again(self) -> None:
        """Plan the newest text, if nothing is wrong with it."""
        self._to_plan = self.document
        if self._to_plan is not None and not self._planning:
            self._planning = True
            self._draw_names()
            self._plan()

    @work(group="plan", exclusive=True)
    async def _plan(self) -> None:
        """Make plans until the newest text has one. Typing meanwhile only changes which text is to be planned."""
        pane = self.query_one(PlanPane)
        while (document := self._to_plan) is not None:
            pane.say("planning: what the spec names is looked up …")
            preview, problems = await _in_background(partial(planned, document))
            if not self.app.is_running:
                return  # the panes lose their widgets one by one
            if document is not self._to_plan:
                continue  # another text is the newest by now
            self._to_plan = None
            if preview is None:
                pane.say("no plan could be made")
            else:
                pane.show(preview)
            self._show(problems, "✓ nothing is wrong with the text, and its plan can run")
        self._planning = False
        self._draw_names()


def checked(text: str, path: Path) -> tuple[Document | None, Sequence[Problem]]:
    """Return a text as a document, or what is wrong with it."""
    try:
        return parse_spec(text, path), ()
    except StudyError as error:
        return None, error.problems
    except Exception as error:  # text must never be lost to a fault of the checks
        return None, [_fault("checking", error, path)]


def planned(document: Document) -> tuple["Preview | None", Sequence[Problem]]:
    """Return the plan of a document, and its problems."""
    from studyctl.plan.preview import preview  # takes a third of a second: the first screen does without

    try:
        plan = preview(document)
    except StudyError as error:
        return None, error.problems
    except Exception as error:  # text must never be lost to a fault of the planner
        return None, [_fault("planning", error, document.path)]
    return plan, plan.problems


def _fault(what: str, error: Exception, path: Path) -> Problem:
    return Problem(
        f"{what} failed: {type(error).__name__}: {error}", path, hint="this is a fault of studyctl"
    )


async def _in_background(function: Callable[[], T]) -> T:
    """Await a function in a thread that does not keep the app from ending: a look-up may take a minute to fail."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def answer(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def run() -> None:
        result = function()
        with suppress(RuntimeError):  # the app has ended
            loop.call_soon_threadsafe(answer, result)

    threading.Thread(target=run, daemon=True, name="plan").start()
    return await future
