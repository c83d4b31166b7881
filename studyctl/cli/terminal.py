"""Opening the terminal app from a command."""

import gc
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
    """Return whether the app can be shown: all streams are a terminal, and not a dumb one."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return not dumb and all(stream is not None and stream.isatty() for stream in streams)


def need_terminal(what: str, instead: str) -> None:
    """Raise an error if there is no terminal; its hint says what to use instead."""
    if not on_a_terminal():
        raise StudyError(f"{what} needs a terminal", hint=instead)


def open_app(screen: str, *, study: "StudyPaths | None" = None, spec: Path | None = None) -> None:
    """Run the terminal app, print its last message, and exit with its code."""
    gc.disable()  # until the app is shown, which enables it: almost no object made before that is garbage
    try:
        from studyctl_tui.shared.view import Watcher

        watcher = Watcher(study) if study is not None else None
        if watcher is not None:
            watcher.begin()  # reads while the app is imported
        from studyctl_tui.app import StudyApp

        app = StudyApp(screen, study=study, spec=spec, watcher=watcher)
        if message := app.run():
            stderr().print(message, soft_wrap=True, markup=False)
        if app.return_code:
            raise typer.Exit(app.return_code)
    finally:
        gc.enable()
