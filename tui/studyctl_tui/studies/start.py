"""Starting a study: choose a spec, see what it would run, say yes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from studyctl.errors import StudyError
from studyctl.spec.bundled import bundled_folder, bundled_names, spec_path
from studyctl.spec.nearby import specs_below
from studyctl_tui.shared.dialogs import Ask, Choice, Dialog
from studyctl_tui.spec.plan import printed

START, EDIT = "start", "edit"
"""What :class:`PlanDialog` answers."""
_WIDEST = 110
_EDGES = 14
"""Characters of a dialog and its surroundings that are not text."""


class ChooseSpec(Dialog[Path | None]):
    """Lists the specs that ship and those below the working directory; a path can be typed, too."""

    DEFAULT_CSS = """
    ChooseSpec .title { text-style: bold; margin-bottom: 1; }
    ChooseSpec OptionList { height: auto; max-height: 50vh; padding: 0; background: transparent; }
    ChooseSpec OptionList, ChooseSpec OptionList:focus { border: none; }
    ChooseSpec .trouble { color: $error; height: auto; }
    """
    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close"),
        Binding("down", "move(1)", "Next", show=False),
        Binding("up", "move(-1)", "Previous", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._specs: list[tuple[str, str]] = []
        """Name as it can be typed, and where it is from."""

    def compose(self) -> ComposeResult:
        """Yield the field and the list."""
        with Vertical(classes="dialog"):
            yield Static("Start a study", classes="title")
            yield Input(placeholder="a name, a part of one, or the path of a spec", compact=True)
            yield Static(classes="trouble", markup=False)
            yield OptionList()

    def on_mount(self) -> None:
        """Show what ships at once, and the files a moment later."""
        self._take([])
        self._find()

    @work
    async def _find(self) -> None:
        self._take(await asyncio.to_thread(_local_specs))

    def _take(self, files: Sequence[Path]) -> None:
        self._specs = [(str(path), "") for path in files]
        self._specs += [(name, "ships with studyctl") for name in bundled_names()]
        self._show()

    @on(Input.Changed)
    def _show(self) -> None:
        words = self.query_one(Input).value.lower().split()
        width = max((len(name) for name, _ in self._specs), default=0)
        options = self.query_one(OptionList)
        options.clear_options()
        for name, origin in self._specs:
            if all(word in name.lower() for word in words):
                options.add_option(Option(Text.assemble(f"{name:{width}}  ", (origin, "dim")), id=name))
        options.highlighted = 0 if options.option_count else None
        self.query_one(".trouble", Static).update("")

    def action_move(self, by: int) -> None:
        """Move in the list while the field has the focus."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = ((options.highlighted or 0) + by) % options.option_count

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(event.option_id or "")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        options = self.query_one(OptionList)
        typed = event.value.strip()
        if options.highlighted is not None and not Path(typed).is_file():
            typed = options.get_option_at_index(options.highlighted).id or typed
        self._choose(typed)

    def _choose(self, name: str) -> None:
        try:
            path = spec_path(str(Path(name).expanduser()))
            if not path.is_file():
                raise StudyError(f"{path} is not there")
        except StudyError as error:
            self.query_one(".trouble", Static).update(str(error))
        else:
            self.dismiss(path)


def _local_specs() -> list[Path]:
    """Return the specs below the working directory that do not ship with studyctl."""
    shipped = bundled_folder().resolve()
    return [path for path in specs_below(Path()) if path.resolve().parent != shipped]


class PlanDialog(Ask):
    """Shows what a spec would run and what that takes; answers :data:`START`, :data:`EDIT` or nothing."""

    DEFAULT_CSS = "PlanDialog .dialog { width: 118; }"

    def __init__(self, spec: Path, only_study: str = "") -> None:
        """Prepare the dialog.

        Args:
            spec: the file.
            only_study: the study that it must be of; empty: any.
        """
        super().__init__(f"Start {only_study or spec}", Text("looking up what it names …"), ())
        self.spec = spec
        self.study = only_study
        """The study that the spec is of, once it is read."""

    def on_mount(self) -> None:
        """Begin to plan."""
        self._plan()

    @work
    async def _plan(self) -> None:
        width = min(_WIDEST, self.app.size.width - _EDGES)
        body, self.study, startable = await asyncio.to_thread(_planned, self.spec, self.study, width)
        choices = [Choice("s", "Start it, in the background", START)] if startable else []
        self.show(body, [*choices, Choice("e", "Open the spec in the editor", EDIT)])


def _planned(spec: Path, only_study: str, width: int) -> tuple[Text, str, bool]:
    """Plan a spec; return the plan or what is wrong, the name of its study, and whether there is anything to run."""
    # Planning is imported when it is asked for: the app starts without it.
    from studyctl.plan.preview import preview
    from studyctl.report.plan import draw_plan
    from studyctl.report.problems import draw
    from studyctl.spec.loading import load_spec

    study = only_study
    try:
        document = load_spec(spec)
        study = document.spec.study.name
        if only_study not in ("", study):
            hint = f"rename the folder to `{study}`, or start from the spec that made it"
            raise StudyError(f"{spec} is of the study `{study}`, not of `{only_study}`", hint=hint)
        plan = preview(document)
    except StudyError as error:
        problems = error.problems
        return printed(lambda console: draw(problems, console), width), study, False
    body = printed(lambda console: draw_plan(plan, console, console), width)
    return body, study, bool(plan.comparison.todo) and not plan.errors
