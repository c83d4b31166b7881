"""Opening the terminal app from a command."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from studyctl.cli.arguments import stderr
from studyctl.errors import StudyError

if TYPE_CHECKING:
    from studyctl.files import StudyPaths


def on_a_terminal() -> bool:
    """Return whether the app can be drawn: it reads keys from stdin, and asks for more than a dumb terminal has."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return not dumb and all(stream is not None and stream.isatty() for stream in streams)


def need_terminal(what: str, instead: str) -> None:
    """Refuse what only a terminal can show, and say what to call instead."""
    if not on_a_terminal():
        raise StudyError(f"{what} needs a terminal", hint=instead)


def open_app(screen: str, *, study: "StudyPaths | None" = None, spec: Path | None = None) -> None:
    """Run the terminal app, say what it left to say, and end as it ended."""
    from gc import disable, enable  # `gc` is one of our commands

    disable()  # the app has it enabled once it stands: almost all that is made before that stays
    try:
        _run_app(screen, study, spec)
    finally:
        enable()


def _run_app(screen: str, study: "StudyPaths | None", spec: Path | None) -> None:
    from studyctl_tui.shared.view import Watcher

    watcher = Watcher(study) if study is not None else None
    if watcher is not None:
        watcher.begin()  # reads while the app is imported
    from studyctl_tui.app import StudyApp

    shown = StudyApp(screen, study=study, spec=spec, watcher=watcher)
    if said := shown.run():
        stderr().print(said, soft_wrap=True, markup=False)
    if shown.return_code:
        raise typer.Exit(shown.return_code)
