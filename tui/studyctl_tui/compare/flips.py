"""Reading the items of a variant that flipped, one at a time: what was asked, and how likely each model finds each answer."""

from collections.abc import Mapping
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.printable import printable
from studyctl.report.layout import MISSING, fixed
from studyctl.store import results
from studyctl.store.results import Flip

RIGHT, LIKELIEST = "✓", "◂"
DIRECTIONS = {"right_to_wrong": "right → wrong", "wrong_to_right": "wrong → right"}
NOT_KEPT = (
    "The study keeps no texts of this task: it was measured before version 0.3 or with `keep_texts = false`,"
    " or the folder items/ of the study was deleted."
)


class FlipsScreen(ModalScreen[None]):
    """Shows the flips of a trial, of one task or of all; begins with the first."""

    DEFAULT_CSS = """
    FlipsScreen { align: center middle; }
    FlipsScreen #flips { width: 100%; max-width: 120; height: 100%; padding: 0 1; border: round $primary; background: $surface; }
    FlipsScreen #flips-title { height: auto; text-style: bold; }
    FlipsScreen #flips-prompt { height: 1fr; }
    FlipsScreen #flips-answers { height: auto; max-height: 60%; border-top: solid $panel; }
    FlipsScreen #flips-prompt:focus, FlipsScreen #flips-answers:focus { background-tint: $foreground 4%; }
    """
    AUTO_FOCUS = "#flips-prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,right", "step(1)", "Next item"),
        Binding("p,left", "step(-1)", "Item before"),
        Binding("escape,q,f", "dismiss", "Close"),
    ]

    def __init__(
        self, paths: StudyPaths, trial: str, variant: str, task: str | None, metrics: Mapping[str, str]
    ) -> None:
        """Prepare the screen.

        Args:
            paths: files of the study.
            trial: the trial.
            variant: what it is called.
            task: the task whose flips are shown; None: all tasks.
            metrics: main metric by task.
        """
        super().__init__()
        self._paths, self._trial, self._variant, self._task_name = paths, trial, variant, task
        self._metrics = metrics
        self._flips: list[Flip] = []
        self._at = 0

    def compose(self) -> ComposeResult:
        """Yield a line about the item, its prompt, and the answers."""
        with Vertical(id="flips") as frame:
            frame.border_title = Text(f"Flips of {self._variant}")
            frame.border_subtitle = "n next  p before  tab the other half  esc close"
            yield Static("reading the items …", id="flips-title", markup=False)
            with VerticalScroll(id="flips-prompt"):
                yield Static(markup=False)
            with VerticalScroll(id="flips-answers"):
                yield Static(markup=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#flips-answers").display = False
        self._read()

    @work(thread=True)
    def _read(self) -> None:
        flips: list[Flip] = []
        nothing = "no item flipped"
        try:
            with results.open(self._paths) as reader:
                flips = reader.flips(self._trial, self._task_name)
        except StudyError as error:
            nothing = str(error)
        self.app.call_from_thread(self._take, flips, nothing)

    def _take(self, flips: list[Flip], nothing: str) -> None:
        self._flips = flips
        if flips:
            self.query_one("#flips-answers").display = True
            self._show()
        else:
            self.query_one("#flips-title", Static).update(nothing)

    def action_step(self, step: int) -> None:
        """Show the next item, or the one before; they go around."""
        if self._flips:
            self._at = (self._at + step) % len(self._flips)
            self._show()

    def _show(self) -> None:
        flip = self._flips[self._at]
        place = f"{self._at + 1} of {len(self._flips)}"
        turned = f"{DIRECTIONS[flip.direction]} by {self._metrics.get(flip.task, 'the main metric')}"
        self.query_one("#flips-title", Static).update(f"{place}: {flip.task} item {flip.item}, {turned}")
        prompt, answers = self.query_one("#flips-prompt"), self.query_one("#flips-answers")
        kept = flip.prompt is not None
        shown = Text(printable(flip.prompt or ""), "") if kept else Text(NOT_KEPT, "dim")
        prompt.query_one(Static).update(shown)
        answers.query_one(Static).update(_choices(flip) if flip.loglikelihoods else _generated(flip))
        # The question is at the end, after the examples.
        self.call_after_refresh(prompt.scroll_end, animate=False)
        answers.scroll_home(animate=False)


def _choices(flip: Flip) -> Table:
    """Return a line for each choice: whether it is right, its log-likelihoods by both models, its text."""
    dense, variant = flip.dense_loglikelihoods or [], flip.loglikelihoods or []
    texts = flip.choices or []
    table = _table("dense", "variant", f"{RIGHT} right, {LIKELIEST} most likely; nats")
    for number in range(max(len(dense), len(variant))):
        text = Text(printable(texts[number])) if number < len(texts) else Text(f"choice {number}", "dim")
        table.add_row(
            RIGHT if number == flip.gold else "",
            _likelihood(dense, number, flip.dense_predicted),
            _likelihood(variant, number, flip.predicted),
            text,
            style="bold" if number == flip.gold else "",
        )
    return table


def _likelihood(values: list[float], number: int, likeliest: int | None) -> Text:
    value = values[number] if number < len(values) else None
    return Text(f"{fixed(value, 2)}{LIKELIEST if number == likeliest else ' '}")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    table.add_column("")
    for name in columns[:-1]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(columns[-1], ratio=1, overflow="fold")
    return table


def _generated(flip: Flip) -> Table:
    """Return the right answer, and what both models generated."""
    table = _table("", "answer")
    answers = (
        (RIGHT, "right", flip.right_answer),
        ("", "dense", flip.dense_answer),
        ("", "variant", flip.answer),
    )
    for mark, who, answer in answers:
        table.add_row(mark, who, MISSING if answer is None else Text(printable(answer)))
    return table
