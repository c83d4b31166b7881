"""``studyctl gc`` and ``studyctl rm``."""

import shutil
from pathlib import Path

from rich.console import Console

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.run.hold import hold
from studyctl.units import bytes_text

_CONTENT = {
    "dense": "dense references: computed again when fidelity needs them",
    "weights": "weights of unfinished trials: compressed again when a step needs them",
    "spare": "converted models and tokens that the user's cache cannot take: made again",
    "chunks": "finished chunks of unfinished tasks: scored again when the task goes on",
}


def _size(folder: Path) -> int:
    """Return the bytes of the files in a folder, without links."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def clean(paths: StudyPaths, console: Console, *, yes: bool) -> None:
    """Show what can be deleted from a study without losing a result, and delete it if ``yes``.

    Raises:
        HeldError: the study is being run.
    """
    folders = [*sorted(paths.cache.glob("*")), *sorted(paths.weights.glob(".*.partial"))]
    sizes = {folder: size for folder in folders if folder.is_dir() and (size := _size(folder))}
    databases = sorted(
        paths.root.glob(f".{paths.database.name}.*")
    )  # of publishers that were killed, here or elsewhere
    sizes |= {file: file.lstat().st_size for file in databases}
    if not sizes:
        console.print(f"{paths.name}: nothing to delete")
        return
    with hold(paths):
        for folder, size in sizes.items():
            partial = "an export that was interrupted" if folder.suffix == ".partial" else "cache"
            content = _CONTENT.get(
                folder.name, "a publication that was interrupted" if folder in databases else partial
            )
            console.print(f"{bytes_text(size):>10}  {folder.name}  ({content})", soft_wrap=True)
            if yes:
                if folder in databases:
                    folder.unlink()
                else:
                    shutil.rmtree(folder)
    total = bytes_text(sum(sizes.values()))
    console.print(f"{total} deleted" if yes else f"{total} can be deleted: studyctl gc {paths.name} --yes")


def remove(paths: StudyPaths, console: Console, *, yes: bool) -> None:
    """Delete a study with all of its results if ``yes``.

    Raises:
        StudyError: without ``yes``; says what would be lost.
        HeldError: the study is being run.
    """
    attempts = len(list(paths.journal.glob("*.jsonl")))
    study = f"{paths.root}: {attempts} attempts, {bytes_text(_size(paths.root))}"
    if not yes:
        raise StudyError(f"this deletes {study}, with every result", hint=f"studyctl rm {paths.name} --yes")
    with hold(paths):
        shutil.rmtree(paths.root)
    console.print(f"deleted {study}", soft_wrap=True)
