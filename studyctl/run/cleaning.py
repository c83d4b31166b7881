"""``studyctl gc`` and ``studyctl rm``."""

import shutil
from pathlib import Path
from shlex import quote

from rich.console import Console

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.run.hold import hold
from studyctl.units import bytes_text

_CONTENT = {
    "dense": "dense references: computed again when fidelity needs them",
    "weights": "weights of unfinished trials: compressed again when a step needs them",
    "kept": "weights of finished trials: compressed again for steps that are added",
    "gguf": "files that llama.cpp runs: written again when they are to be timed",
    "spare": "converted models and tokens that the user's cache cannot take: made again",
    "chunks": "finished chunks of unfinished tasks: scored again when the task goes on",
}


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder; links count nothing and are not followed."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def _delete(path: Path) -> None:
    """Delete a file or folder, of a link only the link: it may lead out of the study."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clean(paths: StudyPaths, console: Console, *, yes: bool) -> None:
    """Show what can be deleted from a study without losing a result, and delete it if ``yes``.

    Raises:
        HeldError: the study is being run.
    """
    caches = [paths.cache] if paths.cache.is_symlink() else sorted(paths.cache.glob("*"))
    exports = [] if paths.weights.is_symlink() else sorted(paths.weights.glob(".*.partial"))
    databases = sorted(
        paths.root.glob(f".{paths.database.name}.*")
    )  # of publishers that were killed, here or elsewhere
    left = (*caches, *exports, *databases)
    sizes = {path: size for path in left if (size := _size(path)) or path.is_symlink()}
    if not sizes:
        console.print(f"{paths.name}: nothing to delete")
        return
    with hold(paths):
        for path, size in sizes.items():
            if path.is_symlink():
                content = f"a link to {path.readlink()}, which is left as it is"
            elif path in databases:
                content = "a publication that was interrupted"
            else:
                unfinished = "an export that was interrupted" if path.suffix == ".partial" else "cache"
                content = _CONTENT.get(path.name, unfinished)
            line = f"{bytes_text(size):>10}  {path.name}  ({content})"
            console.print(line, soft_wrap=True, markup=False)
            if yes:
                _delete(path)
    total = bytes_text(sum(sizes.values()))
    console.print(
        f"{total} deleted" if yes else f"{total} can be deleted: studyctl gc {quote(paths.name)} --yes"
    )


def remove(paths: StudyPaths, console: Console, *, yes: bool) -> None:
    """Delete a study with all of its results if ``yes``; other files in its folder are left, and so is what a link leads to.

    Raises:
        StudyError: without ``yes`` (says what would be lost), or the folder has no results.
        HeldError: the study is being run.
    """
    if not (paths.journal.exists() or paths.plan.exists() or paths.database.exists()):
        raise StudyError(
            f"{paths.root} holds no results: it is not deleted", hint="delete it yourself if it is not needed"
        )
    linked = paths.root.is_symlink()
    if linked:
        study = f"the link {paths.root}; the study stays in {paths.root.readlink()}"
    else:
        attempts, size = len(list(paths.journal.glob("*.jsonl"))), sum(map(_size, _ours(paths)))
        study = f"{paths.root}: {attempts} attempts, {bytes_text(size)}"
    if not yes:
        loss = "" if linked else ", with every result"
        raise StudyError(f"this deletes {study}{loss}", hint=f"studyctl rm {quote(paths.name)} --yes")
    left: list[str] = []
    with hold(paths):
        for path in [paths.root] if linked else _ours(paths):
            _delete(path)
        if not linked and not (left := sorted(path.name for path in paths.root.iterdir())):
            paths.root.rmdir()
    console.print(f"deleted {study}", soft_wrap=True, markup=False)
    if left:
        console.print(f"left, as no study has such files: {', '.join(left)}", soft_wrap=True, markup=False)


def _ours(paths: StudyPaths) -> list[Path]:
    """Return what is directly in a study's folder and part of a study, or of a write that was interrupted."""
    names = [own.name for own in paths.entries()]
    return [
        path
        for path in paths.root.iterdir()
        if any(path.name == name or path.name.startswith((f"{name}.", f".{name}.")) for name in names)
    ]
