"""Profiles: where a study's workers run. A spec says what is measured, and is published; a profile has account names and paths.

``--on hpc`` reads ``profiles/hpc.toml``, then ``~/.config/studyctl/profiles/hpc.toml``; a path is read as it is.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BeforeValidator, Field, ValidationError

from studyctl.errors import Problem, SpecError, did_you_mean
from studyctl.spec.extends import read_text
from studyctl.spec.keys import described_by
from studyctl.spec.loading import MOST_PROBLEMS, span_of
from studyctl.spec.messages import Finding, findings
from studyctl.spec.models import Name, Size, Table, Text
from studyctl.spec.positions import Loc, Place
from studyctl.spec.syntax import read_toml

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def _seconds(value: object) -> object:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('must be a time such as "4 h" or "10 min"')
    return float(match[1]) * _SECONDS[match[2]]


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""Written as a number and a unit: ``"90 s"``, ``"10 min"``, ``"4 h"``, ``"2 d"``."""


class Executor(StrEnum):
    """What starts workers."""

    LOCAL = "local"
    SLURM = "slurm"
    COMMAND = "command"
    DASK = "dask"


class WorkerTable(Table):
    """What each worker gets."""

    device: Literal["cpu", "cuda"] = Field("cuda", description="what the study is planned for")
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None,
        description='what `dtype = "auto"` means there; bfloat16 on `cuda` and float32 on `cpu`, unless it is said here',
    )
    gpus: int = Field(
        1, ge=1, le=1, description="GPUs of a worker; each runs one trial at a time, on one GPU"
    )
    gpu_memory: Size | None = Field(
        None, description='memory of a GPU, such as `"80 GiB"`, for `plan` on a machine without it'
    )
    cpus: int = Field(4, ge=1, le=1024, description="CPU cores of a worker")
    memory: Size | None = Field(None, description='main memory of a worker, such as `"48 GiB"`')
    time: Seconds | None = Field(None, description='time limit of an allocation, such as `"4 h"`')
    idle: Seconds = Field(
        600.0, description="a worker leaves when there was nothing for it for so long, or no runner"
    )
    setup: tuple[Text, ...] = Field(
        (), strict=False, description="lines of shell that run before a worker, such as `module load cuda`"
    )
    python: str = Field(
        "", description="the interpreter of workers; empty: the one that the runner has, by its path"
    )
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of workers")


class SlurmTable(Table):
    """What ``sbatch`` is asked for, beside what a worker gets."""

    partition: str = Field("", description="partition; empty: the site's default")
    account: str = Field("", description="account; empty: the user's default")
    options: dict[Name, str] = Field(
        default_factory=dict, description='any other long option of sbatch, such as `qos = "normal"`'
    )


class CommandTable(Table):
    """How another scheduler, or ssh, starts, lists and ends workers."""

    submit: Text = Field(
        description="command that starts the worker in the file `{script}`, and prints the job's id as its last word"
    )
    list: str = Field(
        "",
        description="command that prints the ids of the user's jobs that wait or run, first on each line; without it, a worker that never begins is not noticed",
    )
    cancel: str = Field("", description="command that ends the job `{id}`")


class DaskTable(Table):
    """A Dask cluster that exists: dask-kubernetes, dask-gateway, dask-jobqueue and the like."""

    address: Text = Field(description="address of its scheduler, such as `tls://…:8786`")


class Profile(Table):
    """Where workers run."""

    executor: Executor = Field(
        Executor.LOCAL, strict=False, description="`local`, `slurm`, `command` or `dask`: what starts workers"
    )
    max_workers: int = Field(8, ge=1, le=10_000, description="how many workers there are at most")
    driver: Literal["here", "job"] = Field(
        "here",
        description="where the runner works: here, or as a job of one CPU, for sites that end long processes on login nodes",
    )
    host: str = Field(
        "", description="name or address by which workers reach the runner; empty: this machine's own name"
    )
    worker: WorkerTable = Field(default_factory=WorkerTable, description="what each worker gets")
    slurm: SlurmTable = Field(default_factory=SlurmTable, description='for `executor = "slurm"`')
    command: CommandTable | None = Field(None, description='for `executor = "command"`')
    dask: DaskTable | None = Field(None, description='for `executor = "dask"`')


@dataclass(frozen=True)
class ProfileFile:
    """A profile with the file that it was read from."""

    name: str
    path: Path
    profile: Profile
    places: Place

    def problem(self, what: str, loc: Loc, hint: str = "") -> Problem:
        """Return a problem at a place of the file."""
        return span_of(self.path, self.places, Finding(what, loc)).problem(what, hint=hint)


def profile_folders() -> list[Path]:
    """Return the folders that profiles are looked for in, in order."""
    return [Path("profiles"), Path(platformdirs.user_config_dir("studyctl")) / "profiles"]


def load_profile(name: str) -> ProfileFile | None:
    """Read a profile; None for ``local``, unless there is a file of this name.

    Args:
        name: of a file in :func:`profile_folders`, or a path.

    Raises:
        SpecError: there is none, or with everything that is wrong with it.
    """
    path = _path_of(name)
    if path is None:
        return None
    data, places = read_toml(read_text(path), path)
    try:
        profile = Profile.model_validate(data)
    except ValidationError as error:
        with described_by(Profile):
            mistakes = findings(error.errors()[:MOST_PROBLEMS], data)
        raise SpecError(
            [span_of(path, places, item).problem(item.what, item.note, item.hint) for item in mistakes]
        ) from None
    file = ProfileFile(path.stem, path, profile, places)
    table = {Executor.COMMAND: profile.command, Executor.DASK: profile.dask}.get(profile.executor, profile)
    if table is None:
        what = f"executor `{profile.executor}` needs the table `[{profile.executor}]`"
        raise SpecError(file.problem(what, ("executor",)))
    return file


def cluster_profile(name: str) -> ProfileFile | None:
    """Read the profile of this name; None if there is no name, or its workers run on this machine.

    Raises:
        SpecError: there is none, or with everything that is wrong with it.
    """
    file = load_profile(name) if name else None
    return file if file is not None and file.profile.executor is not Executor.LOCAL else None


def _path_of(name: str) -> Path | None:
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    places = [folder / f"{name}.toml" for folder in profile_folders()]
    for place in places:
        if place.exists():
            return place
    if name == Executor.LOCAL:
        return None
    names = sorted({path.stem for folder in profile_folders() for path in folder.glob("*.toml")})
    hint = f"{did_you_mean(name, names)} write {places[0]} (docs/cluster.md)".lstrip()
    raise SpecError(f"there is no profile `{name}`: looked for {' and '.join(map(str, places))}", hint)
