"""Workers that a scheduler starts: asking for them, listing those that wait, ending them."""

import re
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import msgspec

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths, read_plain, write_atomic
from studyctl.signals import last_lines
from studyctl.spec.profiles import CommandTable, Executor, ProfileFile
from studyctl.store.holder import Waiting
from studyctl.workers.pool import MOST_FALSE_STARTS

LIST_SECONDS = 30.0
"""How often the scheduler is asked what waits: sites do not like more."""
FIRST_LIST_SECONDS = 5.0
"""After how long it is asked about what was just submitted: a worker that cannot begin is gone by then."""
COMMAND_SECONDS = 60.0
WARN_SECONDS = 120
"""How long ahead of its time limit a job gets USR2."""


class Scheduler(ABC):
    """What starts jobs on other machines."""

    def __init__(self, file: ProfileFile) -> None:
        self.file = file

    @abstractmethod
    def submit(self, script: Path) -> str:
        """Submit a script and return the job's id.

        Raises:
            StudyError: the scheduler refuses it.
        """

    @abstractmethod
    def listed(self) -> dict[str, str] | None:
        """Return the user's jobs that wait or run, each with the reason why it waits; None: that cannot be asked now."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """End a job."""

    @property
    def can_list(self) -> bool:
        """Return whether it can be asked for the user's jobs at all."""
        return True

    def header(self, log: Path, name: str, *, is_worker: bool = True) -> list[str]:
        """Return the lines at the beginning of a script that tell the scheduler what the job needs: a worker, or the runner."""
        return []


class Slurm(Scheduler):
    """``sbatch``, ``squeue`` and ``scancel``; not ``sacct``, which is slow and not everywhere."""

    def header(self, log: Path, name: str, *, is_worker: bool = True) -> list[str]:
        """Return the ``#SBATCH`` lines."""
        worker, slurm = self.file.profile.worker, self.file.profile.slurm
        options: dict[str, str] = {"job-name": name, "output": str(log), "ntasks": "1", "no-requeue": ""}
        if is_worker:
            options["cpus-per-task"] = str(worker.cpus)
            options["signal"] = f"B:USR2@{WARN_SECONDS}"
            if worker.device == "cuda":
                options["gres"] = f"gpu:{worker.gpus}"
            if worker.memory is not None:
                options["mem"] = f"{worker.memory >> 20}M"
            if worker.time is not None:
                options["time"] = str(max(1, round(worker.time / 60)))
        options |= {key: value for key in ("partition", "account") if (value := getattr(slurm, key))}
        options |= slurm.options
        return [
            f"#SBATCH --{key}{'=' if value else ''}{shlex.quote(value) if value else ''}"
            for key, value in options.items()
        ]

    def submit(self, script: Path) -> str:
        """Submit a script."""
        return _run(["sbatch", "--parsable", str(script)], self.file).partition(";")[0]

    def listed(self) -> dict[str, str] | None:
        """Ask ``squeue`` for the user's jobs."""
        try:
            lines = _run(["squeue", "--noheader", "--me", "--format=%i|%T|%r"], self.file).splitlines()
        except StudyError:
            return None
        jobs = (line.strip().split("|", 2) for line in lines)
        return {
            job: "" if state == "RUNNING" else f"{state.lower()}: {reason}" for job, state, reason in jobs
        }

    def cancel(self, job: str) -> None:
        """End a job."""
        _run(["scancel", job], self.file)


class Command(Scheduler):
    """Commands of the profile: any other scheduler, or ssh."""

    @property
    def _table(self) -> CommandTable:
        assert self.file.profile.command is not None
        return self.file.profile.command

    def submit(self, script: Path) -> str:
        """Run ``submit``; the last word that it prints is the job's id."""
        words = _run(_filled(self._table.submit, script=str(script)), self.file).split()
        return words[-1] if words else ""

    @property
    def can_list(self) -> bool:
        """Return whether the profile has ``list``."""
        return bool(self._table.list)

    def listed(self) -> dict[str, str] | None:
        """Run ``list``; the first word of each line is an id, and the rest is shown as the reason."""
        try:
            lines = _run(_filled(self._table.list), self.file).splitlines()
        except StudyError:
            return None
        parts = (line.split(None, 1) for line in lines if line.strip())
        return {job: " ".join(rest).strip() for job, *rest in parts}

    def cancel(self, job: str) -> None:
        """Run ``cancel``."""
        if self._table.cancel:
            _run(_filled(self._table.cancel, id=job), self.file)


def scheduler_of(file: ProfileFile) -> Scheduler | None:
    """Return what starts workers for a profile; None: nothing, they are there."""
    kinds: dict[Executor, type[Scheduler]] = {Executor.SLURM: Slurm, Executor.COMMAND: Command}
    kind = kinds.get(file.profile.executor)
    return kind(file) if kind is not None else None


def _filled(command: str, **values: str) -> list[str]:
    """Return the words of a command, with its placeholders replaced."""
    return [
        re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), word)
        for word in shlex.split(command)
    ]


def _run(command: list[str], file: ProfileFile) -> str:
    """Run a command of a scheduler and return what it prints.

    Raises:
        StudyError: it is not installed, fails, or does not answer.
    """
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        what = f"executor `{file.profile.executor}`: there is no command `{command[0]}` on this machine"
        raise StudyError(file.problem(what, ("executor",), "run it where jobs are submitted")) from None
    except subprocess.TimeoutExpired:
        raise StudyError(f"`{command[0]}` did not answer within {COMMAND_SECONDS:.0f} s") from None
    if ended.returncode:
        lines = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        raise StudyError(_refused(command, "; ".join(lines[:3]) or f"exit code {ended.returncode}", file))
    return ended.stdout.strip()


def _refused(command: list[str], reason: str, file: ProfileFile) -> Problem:
    """Return a problem at the key that a scheduler complains of, if it names one of the profile's."""
    places = {
        "partition": ("slurm", "partition"),
        "account": ("slurm", "account"),
        "gres": ("worker", "gpus"),
        "time": ("worker", "time"),
        "memory": ("worker", "memory"),
    }
    loc = next((loc for word, loc in places.items() if word in reason.lower()), (str(file.profile.executor),))
    return file.problem(f"`{command[0]}` failed: {reason}", loc, f"{file.path} says what workers ask for")


class Allocation(msgspec.Struct):
    """A worker that was asked for."""

    name: str
    """Of the worker."""
    job: str
    """Id of the job at the scheduler."""
    reached: bool = False
    """Whether the worker has reached a runner."""
    reason: str = ""


class Allocations:
    """Keeps as many workers asked for as there is work; a later runner takes over what was asked for."""

    def __init__(self, paths: StudyPaths, scheduler: Scheduler, say: Callable[[str], None]) -> None:
        self._paths, self._scheduler, self._say = paths, scheduler, say
        self._profile = scheduler.file.profile
        self._next_list = 0.0
        self._false_starts = 0
        self._all: dict[str, Allocation] = {}
        try:
            earlier = msgspec.json.decode(read_plain(paths.allocations), type=list[Allocation])
        except (FileNotFoundError, msgspec.DecodeError):
            return
        if not scheduler.can_list:
            return  # which of them live is not known; those that do join all the same
        # Those that live look for this runner; until they find it, they count as waiting.
        listed = scheduler.listed()
        self._all = {
            one.name: Allocation(one.name, one.job) for one in earlier if listed is None or one.job in listed
        }
        if self._all:
            say(f"{len(self._all)} workers of an earlier run are taken over")

    @property
    def waiting(self) -> list[Waiting]:
        """Return the workers that have not reached a runner."""
        return [
            Waiting(name=one.name, job=one.job, reason=one.reason)
            for one in self._all.values()
            if not one.reached
        ]

    def provide(self, workers: int) -> None:
        """Ask for workers until there are so many, those that wait included.

        Raises:
            StudyError: the scheduler refuses, or worker after worker ended before it reached the runner.
        """
        asked: list[str] = []
        while len(self._all) < min(workers, self._profile.max_workers):
            name = uuid4().hex[:8]
            script = self._paths.workers / f"{name}.sh"
            self._paths.workers.mkdir(parents=True, exist_ok=True)
            write_atomic(script, worker_script(self._paths, self._scheduler, name))
            self._all[name] = Allocation(name, self._scheduler.submit(script))
            asked.append(self._all[name].job)
            self._save()
            self._next_list = time.monotonic() + FIRST_LIST_SECONDS
        if asked:
            asked_for = "a worker" if len(asked) == 1 else f"{len(asked)} workers"
            self._say(f"asked {self._profile.executor} for {asked_for}: {', '.join(asked)}")

    def reached(self, name: str) -> None:
        """Take note that a worker has reached the runner."""
        self._false_starts = 0
        if (allocation := self._all.get(name)) is not None and not allocation.reached:
            allocation.reached = True
            self._save()

    def ended(self, name: str) -> None:
        """Take note that a worker that had reached the runner is gone."""
        if self._all.pop(name, None) is not None:
            self._save()

    def tick(self) -> None:
        """Ask the scheduler now and then what became of the workers that wait.

        Raises:
            StudyError: worker after worker ended before it reached the runner.
        """
        if time.monotonic() >= self._next_list and any(not one.reached for one in self._all.values()):
            self.look()

    def look(self) -> None:
        """Ask the scheduler what became of the workers that wait."""
        self._next_list = time.monotonic() + LIST_SECONDS
        listed = self._scheduler.listed() if self._scheduler.can_list else None
        if listed is None:
            return
        for name, allocation in list(self._all.items()):
            if allocation.reached:
                continue  # Dask knows whether it lives
            if allocation.job in listed:
                if allocation.reason != listed[allocation.job]:
                    allocation.reason = listed[allocation.job]
                    self._say(f"  job {allocation.job}: {allocation.reason or 'starts'}")
                continue
            del self._all[name]
            self._save()
            self._false_start(allocation)

    def refused(self, name: str, why: str) -> None:
        """Take note that the runner refused a worker.

        Raises:
            StudyError: so it did with the ones before.
        """
        if (allocation := self._all.pop(name, None)) is not None:
            self._save()
            self._false_start(allocation, why)

    def _false_start(self, allocation: Allocation, why: str = "") -> None:
        self._false_starts += 1
        if self._false_starts >= MOST_FALSE_STARTS:
            raise StudyError(self._never_began(allocation, why))

    def _never_began(self, allocation: Allocation, why: str) -> Problem:
        log = self._paths.worker_log(allocation.name)
        what = f"{self._false_starts} workers in a row ended before they reached the runner"
        if why:
            what = f"{self._false_starts} workers in a row were refused: {why}"
            return self._scheduler.file.problem(what, ("worker",), f"see {log}")
        printed = last_lines(log)[-6:] if log.exists() else []
        if not printed:
            hint = f"there is no log {log}: is {self._paths.root} a folder that all nodes share?"
            return self._scheduler.file.problem(what, ("executor",), hint)
        lines = "".join(f"\n  {line}" for line in printed)
        return self._scheduler.file.problem(
            f"{what}; the last one printed:{lines}", ("worker",), f"see {log}"
        )

    def close(self) -> None:
        """End the jobs of workers that have not reached the runner; the others were told to leave."""
        waiting = [one.job for one in self._all.values() if not one.reached]
        self._all.clear()
        self._save()
        for job in waiting:
            self._scheduler.cancel(job)

    def _save(self) -> None:
        write_atomic(self._paths.allocations, msgspec.json.encode(list(self._all.values())))


def worker_script(paths: StudyPaths, scheduler: Scheduler, name: str) -> str:
    """Return the script that starts a worker."""
    root, worker = paths.root.resolve(), scheduler.file.profile.worker
    log = StudyPaths(root).worker_log(name)
    command = [worker.python or sys.executable, "-P", "-m", "studyctl", "worker", str(root), "--name", name]
    command += ["--idle", f"{worker.idle:g}"]
    return script_of(scheduler, scheduler.header(log, f"studyctl-{paths.name}"), command, log)


def script_of(scheduler: Scheduler, header: list[str], command: list[str], log: Path) -> str:
    """Return a shell script: what the scheduler is told, the profile's ``setup`` and ``environment``, and the command."""
    worker = scheduler.file.profile.worker
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = ["#!/bin/bash", *header, ""]
    if not header:  # nobody else keeps what it prints
        lines.append(f"exec >>{shlex.quote(str(log))} 2>&1")
    lines += ["set -e", *worker.setup]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in worker.environment.items()]
    return "\n".join([*lines, f"exec {shlex.join(command)}", ""])
