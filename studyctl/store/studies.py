"""The studies under runs/: finding one by its name, and the state of each."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from studyctl.errors import StudyError, did_you_mean
from studyctl.files import StudyPaths, runs_folder
from studyctl.store.live import Live, Snapshot


def is_study(folder: Path) -> bool:
    """Return whether a folder holds anything of a study."""
    paths = StudyPaths(folder)
    try:
        return (
            paths.journal.is_dir() or paths.spec.is_file() or paths.plan.is_file() or paths.database.is_file()
        )
    except OSError:
        return True  # no permission to look inside: listed with the reason rather than left out


def study_names() -> list[str]:
    """Return the names of the studies under runs/.

    Raises:
        StudyError: the folder cannot be listed.
    """
    folder = runs_folder()
    try:
        return sorted(entry.name for entry in folder.iterdir() if is_study(entry)) if folder.is_dir() else []
    except OSError as error:
        raise StudyError(
            f"{folder} cannot be listed ({error.strerror})",
            hint="STUDYCTL_RUNS names another folder of studies",
        ) from error


def find_study(name: str) -> StudyPaths:
    """Return the study with this name under runs/, or in this folder.

    Raises:
        StudyError: there is none; the hint lists those that exist.
    """
    for folder in (runs_folder() / name, Path(name)):
        if folder.is_dir() and is_study(folder):
            # A link keeps its name, and `rm` deletes only the link.
            return StudyPaths(Path(os.path.abspath(folder)))
    names, folder = study_names(), runs_folder().resolve()
    guess = did_you_mean(name, names)
    others = f"studies in {folder}: {', '.join(names)}" if names else f"there are no studies in {folder}"
    elsewhere = "name one elsewhere by the path of its folder, or its folder of studies by `studyctl --runs-dir DIR` or STUDYCTL_RUNS"
    raise StudyError(f"there is no study `{name}`", hint=f"{guess} {others}; {elsewhere}".strip())


def trial_names(paths: StudyPaths) -> list[str]:
    """Return the trials of a study."""
    return [trial.trial for trial in Live(paths).refresh().trials]


def find_trial(paths: StudyPaths, text: str) -> str:
    """Return the trial that a text names: by its name, by its variant, or by the beginning of either.

    Raises:
        StudyError: there is none, or several.
    """
    trials = {trial.trial: trial.variant for trial in Live(paths).refresh().trials}
    if text in trials:
        return text
    matches = [name for name, variant in trials.items() if variant == text] or [
        name for name, variant in trials.items() if name.startswith(text) or variant.startswith(text)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StudyError(
            f"`{text}` may be any of {len(matches)} trials", hint=f"name one: {', '.join(matches[:8])}"
        )
    guess = did_you_mean(text, [*trials, *dict.fromkeys(trials.values())])
    raise StudyError(
        f"study `{paths.name}` has no trial `{text}`", hint=guess or f"trials: {', '.join(list(trials)[:8])}"
    )


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A line of ``studyctl list``."""

    study: str
    state: str
    """``running``, ``died`` (its runner died), ``failed``, ``unfinished``, ``done``, ``empty`` or ``unreadable``."""
    trials: int = 0
    done: int = 0
    failed: int = 0
    host: str = ""
    """Where its runner is, or was when it died."""
    last_sign: datetime | None = None
    """Heartbeat of the runner, or time of the last write to a journal."""
    title: str = ""
    seconds_left: float | None = None
    """The runner's estimate; None before it has one, and if no runner is alive."""
    trouble: str = ""
    """Why it cannot be read; empty if it can."""
    hint: str = ""
    """What to do about the trouble."""

    def as_dict(self) -> dict[str, object]:
        """Return the row as JSON values, for scripts."""
        return asdict(self) | {"last_sign": self.last_sign.isoformat() if self.last_sign else None}


def study_rows() -> list[StudyRow]:
    """Return a line for each study under runs/; one that cannot be read says why.

    Raises:
        StudyError: the folder of studies cannot be listed.
    """
    return list(StudyList().rows())


class _Seen(NamedTuple):
    """A study as it was at the last look."""

    stamp: tuple[int | None, ...]
    row: StudyRow
    live: Live | None
    """Of a study that runs: its journals grow."""


class StudyList:
    """The studies under runs/, polled: each time, only what has changed is read. For one thread at a time.

    A study that nobody runs costs a few ``stat`` calls per poll, and its row in memory.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def rows(self) -> Iterator[StudyRow]:
        """Yield a line for each study as soon as it is read, in the order of their names.

        A line that says the same as at the last look is the same object.

        Raises:
            StudyError: the folder of studies cannot be listed.
        """
        names = study_names()
        for gone in self._seen.keys() - set(names):
            del self._seen[gone]
        for name in names:
            yield self._look(StudyPaths(runs_folder() / name))

    def _look(self, paths: StudyPaths) -> StudyRow:
        before = self._seen.get(paths.name)
        stamp = _stamp(paths, with_journals=before is not None and before.row.trouble != "")
        if before is not None and before.live is None and before.stamp == stamp:
            return before.row
        live = before.live if before is not None and before.live is not None else Live(paths)
        row = _row(paths, live)
        if before is not None and before.row == row:
            row = before.row
        self._seen[paths.name] = _Seen(stamp, row, live if row.state == "running" else None)
        return row


def _stamp(paths: StudyPaths, *, with_journals: bool) -> tuple[int | None, ...]:
    """Return a value that changes whenever a study changes; with its journals, since one may be repaired in place."""
    looked_at = [paths.root, paths.journal, paths.plan, paths.runner]
    if with_journals:
        with suppress(OSError):  # reading the study says so
            looked_at += sorted(paths.journal.glob("*.jsonl"))
    return tuple(_changed_at(path) for path in looked_at)


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_ctime_ns  # unlike the time of modification it changes with permissions too
    except OSError:
        return None  # missing, or it cannot be read: reading the study says why


def _row(paths: StudyPaths, live: Live) -> StudyRow:
    try:
        return _read_row(paths, live.refresh())
    except StudyError as error:
        problem = error.problems[0]
        return StudyRow(paths.name, "unreadable", trouble=problem.what, hint=problem.hint)
    except Exception as error:  # whatever is in one folder, the other studies are listed
        trouble = f"{paths.root} cannot be read ({type(error).__name__}: {str(error)[:500]})"
        return StudyRow(
            paths.name, "unreadable", trouble=trouble, hint="see that it is the folder of a study"
        )


def _read_row(paths: StudyPaths, snapshot: Snapshot) -> StudyRow:
    trials, done, failed = len(snapshot.trials), snapshot.count("done"), snapshot.count("failed")
    runner = snapshot.runner
    if runner is not None and snapshot.running:
        last_sign: datetime | None = runner.heartbeat
    else:
        times = [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in paths.journal.glob("*.jsonl")]
        last_sign = max([*times, runner.heartbeat] if runner else times, default=None)
    if snapshot.running:
        state = "running"
    elif runner is not None and done + failed < trials:
        state = "died"
    elif not trials:
        state = "empty"
    else:
        state = "failed" if failed else "done" if done == trials else "unfinished"
    return StudyRow(
        study=paths.name,
        state=state,
        trials=trials,
        done=done,
        failed=failed,
        host=runner.host if runner else "",
        last_sign=last_sign,
        title=snapshot.title,
        seconds_left=runner.seconds_left if runner and snapshot.running else None,
    )
