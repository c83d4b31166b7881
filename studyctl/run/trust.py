"""Whose a study is: acting on a stranger's can run what its spec names, so that asks first.

A study has a random id in its folder, which moves with it. The ids of a user's studies are empty files in the user's data
folder: nodes of a cluster that share it add theirs without a lock.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from uuid import uuid4

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, data_folder, write_atomic
from studyctl.store.studies import is_study

_ID = re.compile(r"[0-9a-f]{32}")


def foreign(paths: StudyPaths, spec: Path | None = None) -> list[StudyPaths]:
    """Return the studies that an action uses and that are not known to be the user's.

    Args:
        paths: the study; a new one, of which there is nothing yet, is the user's.
        spec: the spec to run; one that is stored in another study's folder comes from there.
    """
    studies = [paths]
    if spec is not None and spec.name == paths.spec.name and spec.resolve().parent != paths.root.resolve():
        neighbour = StudyPaths(spec.resolve().parent)
        if neighbour.plan.exists() or neighbour.journal.exists():  # else it is any spec with this name
            studies.append(neighbour)
    return [study for study in studies if is_study(study.root) and not _is_remembered(study)]


def require_trust(paths: StudyPaths, console: Console, *, trust: bool, spec: Path | None = None) -> None:
    """Ask before acting on a study that is not known to be the user's, and remember that it may be trusted.

    Args:
        paths: the study.
        console: where to ask.
        trust: the user says that it may be trusted.
        spec: the spec to run, if any.

    Raises:
        StudyError: the user says no, or there is no terminal to ask on.
    """
    studies = foreign(paths, spec)
    if studies and not trust:
        _ask(studies[0], console)
    if trouble := remember([paths, *studies]):
        console.print(Text(trouble), soft_wrap=True)


def remember(studies: Sequence[StudyPaths]) -> str:
    """Count studies as the user's from now on; one without an id gets one.

    Returns:
        Why they cannot be remembered; an empty string if they are.
    """
    for study in studies:
        if _is_remembered(study):
            continue
        name = _read_id(study)
        try:
            _list().mkdir(parents=True, exist_ok=True)
            (_list() / (new := name or uuid4().hex)).touch()
            if not name:
                write_atomic(study.id, new)
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            return f"{study.name} cannot be remembered as yours ({why}): acting on it later needs `--trust`"
    return ""


def question(study: StudyPaths) -> str:
    """Return what to know before acting on a study of somebody else."""
    return (
        f"{study.root} was not made by you, or by an earlier studyctl. Acting on it can run what its spec names; "
        f"`studyctl plan {quote(str(study.spec))}` lists that."
    )


def _ask(study: StudyPaths, console: Console) -> None:
    if not (console.is_terminal and sys.stdin.isatty()):
        raise StudyError(question(study), hint="`--trust` acts on it, now and later")
    console.print(Text(question(study)), soft_wrap=True)
    try:
        agreed = Confirm.ask(Text("Trust it, now and later?"), console=console, default=False)
    except EOFError:
        agreed = False
    if not agreed:
        raise StudyError("nothing was done")


def _read_id(paths: StudyPaths) -> str:
    """Return the id of a study; an empty string if it has none."""
    try:
        if not paths.id.is_file():
            return ""
        with paths.id.open("rb") as file:
            name = file.read(64).decode(errors="replace").strip()
    except OSError:
        return ""
    return name if _ID.fullmatch(name) else ""


def _is_remembered(paths: StudyPaths) -> bool:
    name = _read_id(paths)
    try:
        return bool(name) and (_list() / name).exists()
    except OSError:  # no permission to look into the home
        return False


def _list() -> Path:
    return data_folder() / "studies"
