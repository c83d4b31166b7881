"""Workers that a scheduler starts: asking for them, listing those that wait, ending them."""

import re
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from studyctl.errors import Problem, StudyError
from studyctl.files import StudyPaths, read_plain, write_atomic
from studyctl.signals import last_lines
from studyctl.spec.positions import Loc
from studyctl.spec.profiles import CommandTable, Executor, ProfileFile
from studyctl.store.holder import Waiting
from studyctl.workers.pool import MOST_FALSE_STARTS

LIST_SECONDS = 30.0
"""How often the scheduler is asked what waits: sites do not like more."""
FIRST_LIST_SECONDS = 5.0
"""After how long it is asked about what was just submitted: a worker that cannot begin is gone by then."""
COMMAND_SECONDS = 60.0
SILENT_SECONDS = 30.0
"""How long a worker that may have begun is waited for before the user is told."""
WARN_SECONDS = 120
"""How long ahead of its time limit a job gets USR2."""
SUBMITTED = "submitted"
"""Why a worker waits as long as its scheduler gives no reason."""
NODES = "`sinfo -o '%n %c %m %G %l'` says what each node has: cores, MiB, GPUs, time"


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
    def listed(self) -> dict[str, str]:
        """Return the user's jobs that wait or run, each with the reason why it waits.

        Raises:
            StudyError: that cannot be asked now.
        """

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
        lines = [
            f"#SBATCH --{key}{'=' if value else ''}{shlex.quote(value) if value else ''}"
            for key, value in options.items()
        ]
        # With a short limit USR2 comes before the worker listens.
        return [*lines, "trap '' USR2"] if is_worker else lines

    def submit(self, script: Path) -> str:
        """Submit a script."""
        return self._run("sbatch", "--parsable", str(script)).partition(";")[0]

    def listed(self) -> dict[str, str]:
        """Ask ``squeue`` for the user's jobs."""
        lines = self._run("squeue", "--noheader", "--me", "--format=%i|%T|%r").splitlines()
        jobs = (line.strip().split("|", 2) for line in lines)
        return {
            job: "" if state == "RUNNING" else f"{state.lower()}: {reason}" for job, state, reason in jobs
        }

    def cancel(self, job: str) -> None:
        """End a job."""
        self._run("scancel", job)

    def _run(self, *command: str) -> str:
        return _run(list(command), self.file, ("executor",), "Slurm's commands are on its login nodes")


class Command(Scheduler):
    """Commands of the profile: any other scheduler, or ssh."""

    @property
    def _table(self) -> CommandTable:
        assert self.file.profile.command is not None
        return self.file.profile.command

    def submit(self, script: Path) -> str:
        """Run ``submit``; the last word that it prints is the job's id."""
        words = self._run("submit", script=str(script)).split()
        return words[-1] if words else ""

    @property
    def can_list(self) -> bool:
        """Return whether the profile has ``list``."""
        return bool(self._table.list)

    def listed(self) -> dict[str, str]:
        """Run ``list``; the first word of each line is an id, and the rest is shown as the reason."""
        lines = self._run("list").splitlines()
        parts = (line.split(None, 1) for line in lines if line.strip())
        return {job: " ".join(rest).strip() or SUBMITTED for job, *rest in parts}

    def cancel(self, job: str) -> None:
        """Run ``cancel``."""
        if self._table.cancel:
            self._run("cancel", id=job)

    def _run(self, key: Literal["submit", "list", "cancel"], **values: str) -> str:
        hint = "a script in this folder is `./NAME`, and `chmod +x NAME` lets it be run"
        return _run(_filled(getattr(self._table, key), **values), self.file, ("command", key), hint)


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


def _run(command: list[str], file: ProfileFile, loc: Loc, hint: str) -> str:
    """Run a command of a scheduler and return what it prints.

    Args:
        command: its words.
        file: the profile.
        loc: what it is run for.
        hint: what to do if it cannot be run here at all.

    Raises:
        StudyError: it cannot be run, fails, or does not answer.
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
    except OSError as error:
        what = f"`{command[0]}` cannot be run on this machine: {error.strerror}"
        raise StudyError(file.problem(what, loc, hint)) from None
    except subprocess.TimeoutExpired:
        what = f"`{command[0]}` did not answer within {COMMAND_SECONDS:.0f} s"
        raise StudyError(file.problem(what, loc)) from None
    if ended.returncode:
        lines = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        reasons = (re.sub(rf"^{re.escape(command[0])}: (error: )?", "", line) for line in lines[:3])
        raise StudyError(_refused(command, "; ".join(reasons) or f"exit code {ended.returncode}", file, loc))
    return ended.stdout.strip()


def _refused(command: list[str], reason: str, file: ProfileFile, loc: Loc) -> Problem:
    """Return a problem at the key that a scheduler complains of, if it names one of the profile's; else at the place of the command."""
    places: dict[str, tuple[Loc, str]] = {
        "partition": (("slurm", "partition"), "`sinfo -s` lists the partitions"),
        "account": (("slurm", "account"), '`sacctmgr show assoc user="$USER"` lists your accounts'),
        "qos": (("slurm", "options"), ""),
        "option": (("slurm", "options"), ""),
        "gres": (("worker", "gpus"), NODES),
        "cpu": (("worker", "cpus"), NODES),
        "time limit": (("worker", "time"), "`sinfo -o '%P %l'` says what each partition allows"),
        "memory": (("worker", "memory"), NODES),
    }
    place = (loc, "")
    if file.profile.executor is Executor.SLURM:
        place = next((place for word, place in places.items() if word in reason.lower()), place)
    hint = place[1] or f"{file.path} says what workers ask for"
    return file.problem(f"`{command[0]}` failed: {reason}", place[0], hint)


class Allocation(msgspec.Struct):
    """A worker that was asked for."""

    name: str
    """Of the worker."""
    job: str
    """Id of the job at the scheduler."""
    reached: bool = False
    """Whether the worker has reached a runner."""
    reason: str = SUBMITTED
    """Why it waits; empty: it waits no more."""


class Allocations:
    """Keeps as many workers asked for as there is work; a later runner takes over what was asked for."""

    def __init__(self, paths: StudyPaths, scheduler: Scheduler, say: Callable[[str], None]) -> None:
        self._paths, self._scheduler, self._say = StudyPaths(paths.root.resolve()), scheduler, say
        self._profile = scheduler.file.profile
        self._next_list = 0.0
        self._false_starts = 0
        self._begun: dict[str, float] = {}
        """Since when workers that have not reached the runner may run, by the monotonic clock."""
        self._notices: set[str] = set()
        """What the user was told once."""
        self._all: dict[str, Allocation] = {}
        try:
            earlier = msgspec.json.decode(read_plain(paths.allocations), type=list[Allocation])
        except (FileNotFoundError, msgspec.DecodeError):
            return
        if not scheduler.can_list:
            return  # which of them live is not known; those that do join all the same
        # Those that live look for this runner; until they find it, they count as waiting.
        listed = self._listed()
        if listed is None:
            listed = {one.job: SUBMITTED for one in earlier}
        self._all = {
            one.name: Allocation(one.name, one.job, reason=listed[one.job])
            for one in earlier
            if one.job in listed
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
        self._notices.discard("silent")
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
        if self._scheduler.can_list:
            listed = self._listed()
        else:
            listed = {one.job: SUBMITTED for one in self._all.values()}
        if listed is None:
            return
        for name, allocation in list(self._all.items()):
            if allocation.reached:
                continue  # Dask knows whether it lives
            if allocation.job not in listed:
                del self._all[name]
                self._save()
                self._false_start(allocation)
                continue
            reason = listed[allocation.job]
            if allocation.reason != reason:
                allocation.reason = reason
                self._say(f"  job {allocation.job}: {reason or 'starts'}")
            if reason in ("", SUBMITTED):
                self._miss(allocation)

    def _listed(self) -> dict[str, str] | None:
        """Return what the scheduler lists; None, and a word to the user once: it cannot be asked."""
        try:
            listed = self._scheduler.listed()
        except StudyError as error:
            self._say_once("list", f"! what became of the workers is not known: {error}")
            return None
        self._notices.discard("list")
        return listed

    def _miss(self, allocation: Allocation) -> None:
        """Tell the user of a worker that may run, if it has not reached the runner for a while."""
        since = self._begun.setdefault(allocation.name, time.monotonic())
        if time.monotonic() - since < SILENT_SECONDS:
            return
        log = self._paths.worker_log(allocation.name)
        if not log.exists():
            why = f"there is no {log}: it still waits, or {self._paths.root} is not a folder that all nodes share"
        else:
            why = f"{log} ends: {' '.join(last_lines(log)[-1:]) or 'nothing'}"
        self._say_once("silent", f"! job {allocation.job} has not reached the runner: {why}")

    def _say_once(self, about: str, text: str) -> None:
        if about not in self._notices:
            self._notices.add(about)
            self._say(text)

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
        if not log.exists():
            hint = f"there is no log {log}: is {self._paths.root} a folder that all nodes share?"
            return self._scheduler.file.problem(what, ("executor",), hint)
        lines = "".join(f"\n  {line}" for line in last_lines(log)[-6:]) or " nothing"
        return self._scheduler.file.problem(
            f"{what}; the last one printed:{lines}", ("worker",), f"see {log}"
        )

    def close(self) -> None:
        """End the jobs of workers that have not reached the runner; the others were told to leave."""
        waiting = [one.job for one in self._all.values() if not one.reached]
        self._all.clear()
        self._save()
        for job in waiting:
            try:
                self._scheduler.cancel(job)
            except StudyError as error:  # its worker finds no runner, and leaves
                self._say(f"! job {job} could not be cancelled: {error}")

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
