"""The studies under runs/: finding one by name, how each stands."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from studyctl.errors import StudyError, did_you_mean
from studyctl.files import StudyPaths, runs_folder
from studyctl.store.holder import living_runner, read_holder
from studyctl.store.live import Live


def _is_study(folder: Path) -> bool:
    paths = StudyPaths(folder)
    return paths.journal.is_dir() or paths.spec.is_file() or paths.database.is_file()


def study_names() -> list[str]:
    """Return the names of the studies under runs/."""
    folder = runs_folder()
    return sorted(entry.name for entry in folder.iterdir() if _is_study(entry)) if folder.is_dir() else []


def find_study(name: str) -> StudyPaths:
    """Return the study of a name under runs/, or of a folder.

    Raises:
        StudyError: there is none; names those that are there.
    """
    for folder in (runs_folder() / name, Path(name)):
        if folder.is_dir() and _is_study(folder):
            return StudyPaths(folder.resolve())
    names = study_names()
    guess = did_you_mean(name, names)
    there = (
        f"studies here: {', '.join(names)}" if names else f"there are no studies in {runs_folder().resolve()}"
    )
    raise StudyError(f"there is no study `{name}`", hint=f"{guess} {there}".strip())


def trial_names(paths: StudyPaths) -> list[str]:
    """Return the trials of a study."""
    return [trial.trial for trial in Live(paths).refresh().trials]


def find_trial(paths: StudyPaths, beginning: str) -> str:
    """Return the trial of which this is the name or the unambiguous beginning.

    Raises:
        StudyError: there is none, or several.
    """
    names = trial_names(paths)
    if beginning in names:
        return beginning
    found = [name for name in names if name.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise StudyError(f"`{beginning}` is the beginning of {len(found)} trials", hint=", ".join(found[:8]))
    guess = did_you_mean(beginning, names)
    raise StudyError(
        f"study `{paths.name}` has no trial `{beginning}`", hint=guess or f"trials: {', '.join(names[:8])}"
    )


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A line of ``studyctl list``."""

    study: str
    state: str
    """``running``, ``done``, ``failed``, ``unfinished`` or ``empty``."""
    trials: int
    done: int
    failed: int
    host: str
    last_sign: datetime | None
    """Heartbeat of the runner, or the last record of a journal."""

    def as_dict(self) -> dict[str, object]:
        """Return it for scripts."""
        return asdict(self) | {"last_sign": self.last_sign.isoformat() if self.last_sign else None}


def study_rows() -> list[StudyRow]:
    """Return a line for each study under runs/."""
    return [_row(StudyPaths(runs_folder() / name)) for name in study_names()]


def _row(paths: StudyPaths) -> StudyRow:
    runner = living_runner(paths)
    snapshot = Live(paths).refresh()
    trials, done, failed = len(snapshot.trials), snapshot.count("done"), snapshot.count("failed")
    holder = runner or read_holder(paths)
    state = "running" if runner else _resting_state(trials, done, failed)
    return StudyRow(paths.name, state, trials, done, failed, holder.host if holder else "", _last_sign(paths))


def _resting_state(trials: int, done: int, failed: int) -> str:
    if not trials:
        return "empty"
    return "failed" if failed else "done" if done == trials else "unfinished"


def _last_sign(paths: StudyPaths) -> datetime | None:
    times = [path.stat().st_mtime for path in (paths.runner, *paths.journal.glob("*.jsonl")) if path.exists()]
    return datetime.fromtimestamp(max(times), UTC) if times else None
