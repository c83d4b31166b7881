"""The environments of the backends: made in the user's cache, checked by compressing a tiny model, listed, removed.

A folder is complete if it contains ``synced.json``, which is written last; an incomplete one is made again. A kernel lock keeps
two processes from making the same environment; it is released when its process ends.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from filelock import Timeout

from studyctl.backends.catalog import BACKENDS, GPU_SIZE_BYTES, Backend
from studyctl.backends.exchange import call_driver, clean_environment
from studyctl.contract.methods import METHODS
from studyctl.errors import StudyError, did_you_mean
from studyctl.files import cache_folder, file_lock, write_atomic
from studyctl.gpus import visible_gpus
from studyctl.signals import how_it_ended, last_lines
from studyctl.units import bytes_text

CHECK = Path(__file__).parent / "tiny_model.py"
"""Script that makes a tiny random model, inside an environment."""
GUARD = Path(__file__).parent / "guard.py"
"""Script that runs a command, which ends when this process ends."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """The state of a backend's environment."""

    backend: Backend
    folder: Path
    state: str
    """``synced``, ``outdated`` (made for other versions), ``unfinished`` or ``missing``."""
    size_bytes: int | None
    """On disk; None where it is not synced."""

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    @property
    def log(self) -> Path:
        """Return the log of installing and checking."""
        return self.folder.with_name(f"{self.folder.name}.log")


def find_backend(name: str) -> Backend:
    """Return a backend by its name.

    Raises:
        StudyError: there is no such backend.
    """
    if name not in BACKENDS:
        near = did_you_mean(name, BACKENDS)
        raise StudyError(
            f"there is no backend `{name}`" + (f": {near}" if near else ""),
            hint=f"there are {', '.join(BACKENDS)}",
        )
    return BACKENDS[name]


def environment(backend: Backend) -> Environment:
    """Return a backend's environment as it is now."""
    missing = Environment(backend, cache_folder() / "backends" / backend.name, "missing", None)
    try:
        about = json.loads((missing.folder / "synced.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return replace(missing, state="unfinished") if missing.folder.exists() else missing
    is_synced = about["pins"] == backend.pins_key and missing.python.exists()
    return replace(missing, state="synced" if is_synced else "outdated", size_bytes=about["bytes"])


def sync(backend: Backend, report: Report) -> bool:
    """Make a backend's environment unless it is synced.

    Args:
        backend: the backend.
        report: is called with a line at the beginning of every part, and at the end.

    Returns:
        Whether there was something to do.

    Raises:
        StudyError: another process makes or uses it, there is no space, a package cannot be installed, or the installed package does
            not compress a tiny model; the message has the last line of its output, the log all of it.
    """
    if environment(backend).state == "synced":
        return False
    with _locked(backend):
        target = environment(backend)
        if target.state == "synced":  # by another process meanwhile
            return False
        begun = time.monotonic()
        _delete(target)
        free = psutil.disk_usage(str(cache_folder())).free
        if free < backend.size_bytes:
            raise StudyError(
                f"{backend.name} takes {bytes_text(backend.size_bytes)} and {bytes_text(free)} are free in {cache_folder()}",
                hint="make room, or name a folder on another disk by STUDYCTL_CACHE",
            )
        target.log.write_bytes(b"")
        _install(target, report)
        report("checking it on a tiny model")
        versions = _check(target)
        size = sum(
            (Path(place) / name).lstat().st_size
            for place, _, names in os.walk(target.folder)
            for name in names
        )
        about = {"pins": backend.pins_key, "bytes": size, "versions": versions}
        write_atomic(target.folder / "synced.json", json.dumps(about, indent=2) + "\n")
        report(f"synced in {time.monotonic() - begun:.0f} s, {bytes_text(size)}")
    return True


def remove(backend: Backend) -> bool:
    """Delete a backend's environment; return whether there was one.

    Raises:
        StudyError: another process makes or uses it.
    """
    with _locked(backend):
        target = environment(backend)
        _delete(target)
        target.log.unlink(missing_ok=True)
    return target.state != "missing"


def _delete(target: Environment) -> None:
    """Delete an environment, ``synced.json`` first, so that an interrupted removal leaves an unfinished one."""
    if target.state == "missing":
        return
    processes = psutil.process_iter(["cmdline"])
    users = [str(user.pid) for user in processes if (user.info["cmdline"] or [""])[0] == str(target.python)]
    if users:
        raise StudyError(
            f"{target.backend.name} is compressing a variant in {target.folder} (process {', '.join(users)})",
            hint="wait until that has ended, or stop its study",
        )
    (target.folder / "synced.json").unlink(missing_ok=True)
    shutil.rmtree(target.folder)


@contextmanager
def _locked(backend: Backend) -> Iterator[None]:
    path = cache_folder() / "backends" / f"{backend.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path, timeout=0):
            yield
    except Timeout as error:
        raise StudyError(
            f"{backend.name} is being synced or removed by another process", hint="wait until that has ended"
        ) from error
    except OSError as error:
        raise StudyError(
            f"{path.parent} cannot be written: {error.strerror or error}",
            hint="make room or make it writable, or name another folder by STUDYCTL_CACHE",
        ) from error


def _install(target: Environment, report: Report) -> None:
    """Install the exact versions, with uv if there is one, else with pip."""
    backend, python = target.backend, str(target.python)
    uv = shutil.which("uv")
    report(f"making the environment with {'uv' if uv else 'venv and pip'}")
    make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    _run([*make, str(target.folder)], target, "could not be installed")
    report(
        f"installing {backend.package} {backend.version} and what it needs "
        f"(about {bytes_text(backend.size_bytes)}, or {bytes_text(GPU_SIZE_BYTES)} with torch for a GPU)"
    )
    install = (
        [uv, "pip", "install", "--python", python]
        if uv
        else [python, "-I", "-m", "pip", "install", "--disable-pip-version-check"]
    )
    variables = clean_environment() | dict(backend.build_environment)
    if not backend.build_isolation:
        # Later versions have no pkg_resources.
        _run([*install, "setuptools<81", "wheel"], target, "could not be installed", variables)
        install.append("--no-build-isolation")
    _run([*install, "-r", str(backend.requirements)], target, "could not be installed", variables)


def _run(
    command: Sequence[str], target: Environment, failure: str, variables: Mapping[str, str] | None = None
) -> None:
    """Run a command that ends when this process does, however that ends, with its output in the log.

    Raises:
        StudyError: it failed; the message has its last line that begins with "error", else its last line.
    """
    with (
        target.log.open("ab") as printed,
        subprocess.Popen(
            [sys.executable, "-I", str(GUARD), *command],
            stdin=subprocess.PIPE,  # closed when this process or block ends: then the guard ends the command
            stdout=printed,
            stderr=printed,
            env=variables or clean_environment(),
        ) as process,
    ):
        code = process.wait()
    if code:
        lines = last_lines(target.log)
        errors = [line for line in lines if line.lower().startswith("error")]
        raise _failure(target, f"{failure}: {how_it_ended('its process', code, errors or lines)}")


def _failure(target: Environment, what: str) -> StudyError:
    name = target.backend.name
    return StudyError(
        f"{name} {what}",
        hint=f"all that was printed is in {target.log}; `studyctl backends sync {name}` begins again",
    )


def _check(target: Environment) -> dict[str, str]:
    """Compress a tiny random model by the first method that runs on this machine; if there is none, import the package.

    Returns:
        The versions that the adapter reports.
    """
    device = (visible_gpus() or ["cpu"])[0]
    abilities = target.backend.abilities.items()
    method = next((name for name, row in abilities if device.partition(":")[0] in row.devices), None)
    with tempfile.TemporaryDirectory() as scratch:
        task = None
        if method is not None:
            make = [str(target.python), "-I", str(CHECK), scratch]
            _run(make, target, "was installed and does not work", clean_environment(network=False))
            options = {"sparsity": 0.5} if method in ("wanda", "sparsegpt") else {"bits": 4, "group_size": 32}
            settings = METHODS[method].settings.model_validate({"method": method, **options})
            task = json.loads((Path(scratch) / "task.json").read_text("utf-8")) | {
                "method": method,
                "options": settings.model_dump(mode="json"),
                "dtype": "float32",
                "device": device,
                "threads": 1,
                "out": str(Path(scratch) / "out"),
                "network": False,
            }
        outcome = call_driver(target.python, target.backend.adapter, task, log=target.log)
    if outcome.failure is not None:
        raise _failure(target, f"was installed and does not work: {outcome.failure}")
    return outcome.versions
