"""``studyctl logs``: events from the journals, and what libraries printed from the logs."""

import time
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.text import Text

from studyctl.contract.records import AttemptFinished, Progress, StepFailed
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail
from studyctl.printable import printed_line
from studyctl.report.lines import Lines, progress_line
from studyctl.store.holder import Pulse

FOLLOW_SECONDS = 0.5


def print_logs(paths: StudyPaths, trial: str | None, console: Console, *, follow: bool) -> None:
    """Print the events of a trial's latest attempt (without a trial: of every trial's), and follow what comes if asked.

    Raises:
        StudyError: nothing was run yet.
    """
    follower = _Follower(paths, trial, console)
    if not follower.print_new() and not follow:
        raise StudyError(
            f"nothing of {trial or f'study `{paths.name}`'} was run yet",
            hint=f"studyctl run {quote(str(paths.spec))}",
        )
    pulse = Pulse(paths)
    while follow and pulse.look() is not None:
        time.sleep(FOLLOW_SECONDS)
        follower.print_new()


class _Follower:
    """Prints what is new in the journal and log of the latest attempt, and in those of attempts that begin later."""

    def __init__(self, paths: StudyPaths, trial: str | None, console: Console) -> None:
        self.paths, self.trial, self.console = paths, trial, console
        self._tails: dict[Path, JournalTail] = {}
        self._logged: dict[Path, int] = {}
        self._lines = Lines()
        latest = {path.stem.rpartition(".")[0]: path for path in self._attempts()}
        for path in sorted(latest.values(), key=lambda path: path.stat().st_mtime):
            self._tails[path] = JournalTail(path)
        self._old = set(self._attempts()) - self._tails.keys()
        self._lost: dict[Path, JournalTail] = {}

    def _attempts(self) -> list[Path]:
        """Return the journals, oldest first."""
        paths = self.paths.journal.glob("*.jsonl")
        chosen = [path for path in paths if self.trial in (None, path.stem.rpartition(".")[0])]
        return sorted(chosen, key=lambda path: path.stat().st_mtime)

    def print_new(self) -> bool:
        """Print what is new; return whether there is anything to follow."""
        for path in self._attempts():
            if path not in self._old and path not in self._tails:
                self._tails[path] = JournalTail(path)
        for path, tail in self._tails.items():
            for record in tail.new_records():
                text = progress_line(record) if isinstance(record, Progress) else self._lines.of(record)
                if text:
                    self.console.print(Text(f"{record.at[11:19]} {text}"), soft_wrap=True)
            self._print_log(self.paths.logs / f"{path.stem}.log")
        self._print_lost()
        return bool(self._tails)

    def _print_lost(self) -> None:
        """Print what runners recorded of these attempts, whose workers are gone."""
        for path in self.paths.all_lost():
            for record in self._lost.setdefault(path, JournalTail(path)).new_records():
                journal = self.paths.attempt_journal(record.trial, record.attempt)
                text = self._lines.of(record) if isinstance(record, StepFailed | AttemptFinished) else None
                if text and journal in self._tails:
                    self.console.print(Text(f"{record.at[11:19]} {text}"), soft_wrap=True)

    def _print_log(self, path: Path) -> None:
        try:
            with path.open("rb") as log:
                log.seek(self._logged.get(path, 0))
                data = log.read()
        except FileNotFoundError:
            return
        self._logged[path] = self._logged.get(path, 0) + len(data)
        for line in data.decode(errors="replace").splitlines():
            self.console.print(Text(f"         {printed_line(line)}"), soft_wrap=True)
