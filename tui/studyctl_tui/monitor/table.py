"""The trials of a study as a table of which only the visible lines are ever drawn, and of those only what changed."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from studyctl.contract.records import Noted
from studyctl.store.live import LiveTrial
from studyctl.store.results import Standing
from studyctl_tui.monitor.cells import ROLES, Part, columns_for, gap_of, header, line
from studyctl_tui.monitor.list import TrialList


class TrialsTable(ScrollView, can_focus=True, inherit_bindings=False):
    """A header and one line a trial; posts :class:`Selected` when the cursor comes to another trial."""

    DEFAULT_CSS = """
    TrialsTable {
        height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-gutter: stable;
        scrollbar-size-vertical: 1; scrollbar-background: $background;
        & > .trials--header { text-style: bold; background: $panel; }
        & > .trials--plain { color: $foreground; }
        & > .trials--muted { text-style: dim; }
        & > .trials--running { color: $primary; }
        & > .trials--good { color: $success; }
        & > .trials--bad { color: $error; }
        & > .trials--warn { color: $warning; }
        & > .trials--cursor {
            background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; text-style: bold;
        }
        &:focus > .trials--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "trials--header",
        "trials--cursor",
        *(f"trials--{role}" for role in ROLES),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Trial before", show=False),
        Binding("down,j", "move(1)", "Next trial", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "end(0)", "First trial", show=False),
        Binding("end,G", "end(-1)", "Last trial", show=False),
    ]

    class Selected(Message):
        """The cursor is on another trial."""

        def __init__(self, trial: str, *, by_hand: bool) -> None:
            super().__init__()
            self.trial = trial
            self.by_hand = by_hand
            """Whether a person moved it."""

    def __init__(self) -> None:
        super().__init__()
        self.list = TrialList()
        self._columns: dict[str, int] = {}
        self._gap = 1
        self._place = 0
        """Where the selected trial was listed last: when it is not any more, its neighbour is selected."""
        self._drawn: dict[int, list[Part]] = {}
        """Parts of the lines that are on the screen, by their place in the list."""

    # -- what it shows

    def take(
        self, trials: Sequence[LiveTrial], standings: Mapping[str, Standing], notes: Mapping[str, Noted]
    ) -> None:
        """Show trials as they are now; draw the visible lines that differ, as far as they differ."""
        names, top = self.list.names, self.scroll_offset.y
        if self.list.take(trials, standings, notes):
            if names != self.list.names:
                self._lay_out()
            self.redraw()
            return
        for place in range(top, min(len(self.list), top + self.size.height - 1)):
            old = self._drawn.get(place)
            if old is not None and (new := self._parts(place)) != old:
                self._refresh_line(place, _last_difference(old, new))

    def redraw(self) -> None:
        """Show the list in its new order; the cursor stays with its trial."""
        trials = self.list
        self.virtual_size = Size(self.size.width, len(trials) + 1)
        self._drawn.clear()
        if len(trials) and trials.selected is not None and trials.place_of(trials.selected) is None:
            self.select(trials.row(min(self._place, len(trials) - 1)).trial.trial)
        self._keep_visible()
        self.refresh()

    def select(self, trial: str, *, by_hand: bool = False) -> None:
        """Put the cursor on a trial that is listed."""
        before = self.list.selected
        if trial == before or self.list.place_of(trial) is None:
            return
        self.list.selected = trial
        for name in (before, trial):
            self.redraw_trial(name)
        self._keep_visible()
        self.post_message(self.Selected(trial, by_hand=by_hand))

    def redraw_trial(self, trial: str | None) -> None:
        """Draw one line again."""
        if (place := self.list.place_of(trial)) is not None:
            self._refresh_line(place, self.size.width)

    def _parts(self, place: int) -> list[Part]:
        row = self.list.row(place)
        cursor, marked = row.trial.trial == self.list.selected, row.trial.trial in self.list.marked
        return line(row, self._columns, self._gap, cursor=cursor, marked=marked)

    def _refresh_line(self, place: int, width: int) -> None:
        self.refresh(Region(0, place + 1 - self.scroll_offset.y, width, 1))

    # -- drawing

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        self._gap = gap_of(width)
        self._columns = columns_for(width, self.list.names)

    def on_resize(self) -> None:
        """Lay out for the new width."""
        self._lay_out()
        self.redraw()

    def notify_style_update(self) -> None:
        """Draw with the new colours."""
        super().notify_style_update()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw a line of the screen."""
        width = self.scrollable_content_region.width
        style = self.visual_style.rich_style
        place = self.scroll_offset.y + y - 1
        if y == 0:
            style = self._style("header")
            text = header(self._columns, self._gap, self.list.sort, reverse=self.list.reverse)
            segments = [Segment(text, style)]
        elif place >= len(self.list):
            segments = []
        else:
            parts = self._drawn[place] = self._parts(place)
            if self.list.row(place).trial.trial == self.list.selected:
                style = self._style("cursor")
                segments = [Segment("".join(text for text, _ in parts), style)]
            else:
                segments = [Segment(text, self._style(role)) for text, role in parts]
        return Strip(segments).adjust_cell_length(width, style)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"trials--{name}")

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Forget lines that are not on the screen any more."""
        super().watch_scroll_y(old_value, new_value)
        self._drawn.clear()

    def _keep_visible(self) -> None:
        place = self.list.place_of(self.list.selected)
        rows = self.size.height - 1
        if place is None or rows < 1:
            return
        self._place = place
        top = self.scroll_offset.y
        if (new_top := min(max(top, place - rows + 1), place)) != top:
            self.scroll_to(y=new_top, animate=False, force=True)

    # -- keys and mouse

    def action_move(self, by: int) -> None:
        """Move the cursor."""
        self._go((self.list.place_of(self.list.selected) or 0) + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by what the screen holds."""
        self.action_move(by * max(1, self.size.height - 2))

    def action_end(self, place: int) -> None:
        """Move the cursor to the first or last trial."""
        self._go(place % max(1, len(self.list)))

    def _go(self, place: int) -> None:
        if len(self.list):
            place = min(max(0, place), len(self.list) - 1)
            self.select(self.list.row(place).trial.trial, by_hand=True)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        place = self.scroll_offset.y + event.y - 1
        if event.y and place < len(self.list):
            self._go(place)


def _last_difference(old: Sequence[Part], new: Sequence[Part]) -> int:
    """Return how many cells from the left must be drawn again."""
    before, after = ("".join(text for text, _ in parts) for parts in (old, new))
    if before == after or len(before) != len(after) or [role for _, role in old] != [role for _, role in new]:
        return max(len(before), len(after)) * 2
    end = len(after)
    while before[end - 1] == after[end - 1]:
        end -= 1
    return cell_len(after[:end])
