"""Findings: the hypotheses of a study, their verdicts, and what these rest on."""

from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.report.findings import sentence
from studyctl_tui.findings.data import Finding, Findings, read_findings
from studyctl_tui.findings.detail import detail
from studyctl_tui.findings.words import columns_for, line, missing, summary
from studyctl_tui.shared.lines import LinesView
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import View

CURSOR = "› "
READING = "reading the findings …"


class HypothesisList(OptionList):
    """A line for each hypothesis."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Next hypothesis", show=False),
        Binding("k", "cursor_up", "Hypothesis before", show=False),
        Binding("enter", "select", "Details"),
        Binding("g", "first", "First hypothesis", show=False),
        Binding("G", "last", "Last hypothesis", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(compact=True)
        self._findings: tuple[Finding, ...] = ()

    @property
    def chosen(self) -> Finding | None:
        """The finding under the cursor."""
        return self._findings[self.highlighted] if self.highlighted is not None and self._findings else None

    def show(self, findings: tuple[Finding, ...]) -> None:
        """Show findings; the cursor stays on its hypothesis."""
        before, names = ([one.result.name for one in some] for some in (self._findings, findings))
        chosen = self.chosen.result.name if self.chosen is not None else ""
        self._findings = findings
        if names != before:
            self.set_options([Option("") for _ in findings])
            self.highlighted = names.index(chosen) if chosen in names else 0
        self.draw()

    def draw(self) -> None:
        """Draw the lines for the present width; the one under the cursor in its colours alone, so that it can be read."""
        width = self.scrollable_content_region.width - len(CURSOR)
        if width > 0:
            columns = columns_for(self._findings, width)
            for place, finding in enumerate(self._findings):
                text = line(finding, columns, width)
                is_chosen = place == self.highlighted
                prompt = Content(f"{CURSOR}{text.plain}") if is_chosen else Content(" " * len(CURSOR)) + text
                self.replace_option_prompt_at_index(place, prompt)

    @on(OptionList.OptionHighlighted)
    def _moved(self) -> None:
        self.draw()

    def on_resize(self, _: events.Resize) -> None:
        """Draw for the new width."""
        self.draw()


class FindingsScreen(StudyScreen):
    """The list of hypotheses, and everything about the selected one below it."""

    NAME = "Findings"
    ABOUT = "The hypotheses of the spec: verdicts, intervals, and what they rest on."
    DEFAULT_CSS = """
    FindingsScreen .findings--line { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    FindingsScreen HypothesisList { height: auto; max-height: 40%; border: none; padding: 0 1 0 0; background: $background; }
    FindingsScreen LinesView { height: 1fr; padding: 0 0 0 1; border-top: solid $panel; }
    FindingsScreen #findings-message { padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back to the list", show=False),
        Binding("y", "copy_sentence", "Copy"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._paths: StudyPaths | None = None
        self._request: object = None
        """The study and publication that were read last."""
        self._findings: Findings | None = None
        self._trouble: StudyError | None = None
        self._detailed = ""
        """The hypothesis whose details are shown."""
        self._list, self._lines = HypothesisList(), LinesView()
        self._summary = Static(classes="findings--line", markup=False)
        self._message = Static(READING, id="findings-message", markup=False)
        self._parts = Vertical(self._summary, self._list, self._lines)

    def compose_body(self) -> ComposeResult:
        """Yield the message, and list and details, of which one is shown."""
        yield self._message
        yield self._parts

    def on_mount(self) -> None:
        """Show nothing before it is read."""
        self._parts.display = False

    # -- what it shows

    def show_view(self, view: View) -> None:
        """Read the findings when newer ones are published; start again when another study is open."""
        if view.paths != self._paths:
            self._paths, self._findings, self._trouble = view.paths, None, None
            self._draw()
        request = (view.paths, view.published_at)
        if request != self._request:
            self._request = request
            self._read(view.paths)
        if not self._parts.display:
            self._say()

    @work(thread=True, exclusive=True, group="findings")
    def _read(self, paths: StudyPaths) -> None:
        """Read what was published, in a thread."""
        findings, trouble = None, None
        try:
            findings = read_findings(paths)
        except StudyError as error:
            trouble = error
        self.app.call_from_thread(self._take_findings, paths, findings, trouble)

    def _take_findings(
        self, paths: StudyPaths, findings: Findings | None, trouble: StudyError | None
    ) -> None:
        if paths == self._paths and (trouble is not None or findings != self._findings):
            self._findings, self._trouble = findings, trouble
            self._draw()

    def _draw(self) -> None:
        findings = self._findings
        shown = findings is not None and bool(findings.hypotheses)
        self._parts.display, self._message.display = shown, not shown
        if findings is None or not shown:
            self._say()
            return
        self._summary.update(summary(findings))
        self._list.show(findings.hypotheses)
        self._draw_detail()
        if self.focused is None:
            self._list.focus()

    def _say(self) -> None:
        """Say what is missing, and what to do."""
        view = self.study_app.view
        texts = list(missing(self._findings, self._trouble, view)) if view is not None else []
        self._message.update("\n\n".join(texts) or READING)

    def _draw_detail(self) -> None:
        width, chosen = self._lines.room - 1, self._list.chosen
        if width > 0 and chosen is not None:
            self._lines.show(detail(chosen, width))

    @on(OptionList.OptionHighlighted)
    def _chosen(self) -> None:
        if (chosen := self._list.chosen) is not None and chosen.result.name != self._detailed:
            self._detailed = chosen.result.name
            self._lines.restart()
        self._draw_detail()

    def on_resize(self) -> None:
        """Draw for the new width."""
        self.call_after_refresh(self._draw_detail)

    # -- keys

    @on(OptionList.OptionSelected)
    def _enter(self) -> None:
        """Go into the details."""
        self._lines.focus()

    def action_leave(self) -> None:
        """Go back to the list."""
        self._list.focus()

    def action_copy_sentence(self) -> None:
        """Copy the verdict with its sentence."""
        if (chosen := self._list.chosen) is not None:
            text = f"{chosen.result.name}: {chosen.result.verdict}; {sentence(chosen.result)}"
            self.app.copy_to_clipboard(text)
            self.app.notify(f"copied: {text}", markup=False)
