"""The environments of the backends: made in the user's cache, checked by compressing a tiny model, listed, removed.

A folder counts when ``synced.json`` is in it, which is written last: whatever was interrupted before is made anew. A kernel lock keeps
two processes from making the same one, and is free as soon as its process is gone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from studyctl.backends.catalog import BACKENDS, GPU_SIZE_BYTES, Backend
from studyctl.backends.exchange import call_driver, clean_environment
from studyctl.contract.methods import METHODS
from studyctl.errors import StudyError, did_you_mean
from studyctl.files import cache_folder, write_atomic
from studyctl.gpus import visible_gpus
from studyctl.signals import how_it_ended, last_lines
from studyctl.units import bytes_text

CHECK = Path(__file__).parent / "tiny_model.py"
"""Makes a tiny random model, inside an environment."""
GUARD = Path(__file__).parent / "guard.py"
"""Runs a step that ends with us."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """What is known of a backend's environment, without looking into it."""

    backend: Backend
    folder: Path
    state: str
    """``synced``, ``outdated`` (made for other versions), ``unfinished`` or ``missing``."""
    size_bytes: int | None
    """On disk; None where it is not synced."""

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return _python(self.folder)


def find_backend(name: str) -> Backend:
    """Return a backend by its name.

    Raises:
        StudyError: there is none of this name.
    """
    if name not in BACKENDS:
        near = did_you_mean(name, BACKENDS)
        raise StudyError(
            f"there is no backend `{name}`" + (f": {near}" if near else ""),
            hint=f"there are {', '.join(BACKENDS)}",
        )
    return BACKENDS[name]


def environment(backend: Backend) -> Environment:
    """Return what is known of a backend's environment."""
    folder = _folder(backend)
    try:
        about = json.loads((folder / "synced.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Environment(backend, folder, "unfinished" if folder.exists() else "missing", None)
    state = "synced" if about["pins"] == backend.pins_key and _python(folder).exists() else "outdated"
    return Environment(backend, folder, state, about["bytes"])


def sync(backend: Backend, tell: Tell) -> bool:
    """Make a backend's environment, or find that it is there.

    Args:
        backend: whose.
        tell: hears of every step.

    Returns:
        Whether there was something to do.

    Raises:
        StudyError: somebody else makes or uses it, there is no room, a package cannot be installed, or what was installed does not
            compress a tiny model; the last line of the package's own output is in the message, and all of it in a log.
    """
    if environment(backend).state == "synced":
        return False
    with _held(backend):
        if environment(backend).state == "synced":  # by whom we waited for
            return False
        folder, log = _folder(backend), log_file(backend)
        begun = time.monotonic()
        try:
            _remove(backend, folder)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"")
            _check_room(backend, backend.size_bytes)
            _install(backend, folder, log, tell)
            tell("checking it on a tiny model")
            versions = _check(backend, folder, log)
            size = _size(folder)
            about = {"pins": backend.pins_key, "bytes": size, "versions": versions}
            write_atomic(folder / "synced.json", json.dumps(about, indent=2) + "\n")
        except OSError as error:
            raise StudyError(
                f"{backend.name}: {folder} cannot be written: {error.strerror or error}",
                hint="make room or make the folder writable, and sync again (STUDYCTL_CACHE moves it)",
            ) from error
        tell(f"synced in {time.monotonic() - begun:.0f} s, {bytes_text(size)}")
    return True


def remove(backend: Backend) -> bool:
    """Delete a backend's environment; return whether there was one.

    Raises:
        StudyError: somebody makes or uses it.
    """
    with _held(backend):
        folder = _folder(backend)
        existed = folder.exists()
        _remove(backend, folder)
        log_file(backend).unlink(missing_ok=True)
    return existed


def log_file(backend: Backend) -> Path:
    """Return the file of what installing and checking printed."""
    return cache_folder() / "backends" / f"{backend.name}.log"


def _folder(backend: Backend) -> Path:
    return cache_folder() / "backends" / backend.name


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _remove(backend: Backend, folder: Path) -> None:
    """Delete a folder, its mark first: what is left of a removal that was interrupted is unfinished."""
    if not folder.exists():
        return
    python = str(_python(folder))
    running = psutil.process_iter(["cmdline"])
    users = [str(one.pid) for one in running if (one.info["cmdline"] or [""])[0] == python]
    if users:
        raise StudyError(
            f"{backend.name} is compressing a variant in {folder} (process {', '.join(users)})",
            hint="wait until that has ended, or stop its study",
        )
    (folder / "synced.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


@contextmanager
def _held(backend: Backend) -> Iterator[None]:
    path = cache_folder() / "backends" / f"{backend.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise StudyError(
            f"{backend.name} is being synced or removed by another process", hint="wait until that has ended"
        ) from error
    except OSError as error:
        raise StudyError(
            f"{path.parent} cannot be written: {error.strerror or error}",
            hint="STUDYCTL_CACHE names another folder",
        ) from error


def _check_room(backend: Backend, needed: int) -> None:
    free = psutil.disk_usage(str(cache_folder())).free
    if free < needed:
        raise StudyError(
            f"{backend.name} takes {bytes_text(needed)} and {bytes_text(free)} are free in {cache_folder()}",
            hint="make room, or name a folder on another disk by STUDYCTL_CACHE",
        )


def _install(backend: Backend, folder: Path, log: Path, tell: Tell) -> None:
    """Install the exact versions, with uv where it is, else with pip."""
    uv = shutil.which("uv")
    tell(f"making the environment with {'uv' if uv else 'venv and pip'}")
    if uv:
        _run([uv, "venv", "--python", sys.executable, str(folder)], backend, log)
        install = [uv, "pip", "install", "--python", str(_python(folder))]
    else:
        _run([sys.executable, "-m", "venv", str(folder)], backend, log)
        install = [str(_python(folder)), "-I", "-m", "pip", "install", "--disable-pip-version-check"]
    pins = ["-r", str(backend.requirements)]
    environment = clean_environment() | dict(backend.build_environment)
    pin = f"torch=={backend.pins['torch']}"
    torch = _torch_of_uv(uv, pin, backend, log) if uv else _torch_of_pip(install, pin, backend, log)
    is_for_gpu = _is_for_gpu(torch)
    needed = GPU_SIZE_BYTES if is_for_gpu else backend.size_bytes
    _check_room(backend, needed)
    tell(
        f"installing {backend.package} {backend.version} and what it needs, "
        f"with torch for a {'GPU' if is_for_gpu else 'CPU'} (about {bytes_text(needed)})"
    )
    if not backend.build_isolation:
        _run([*install, "setuptools<81", "wheel"], backend, log, environment)  # later ones lack pkg_resources
        pins = ["--no-build-isolation", *pins]
    _run([*install, *pins], backend, log, environment)


def _torch_of_uv(uv: str, pin: str, backend: Backend, log: Path) -> list[str]:
    """Return what uv would install for this version of torch, by its indexes: a pin a line, and what its settings add."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, found = Path(scratch) / "torch.txt", Path(scratch) / "pins.txt"
        asked.write_text(f"{pin}\n")
        place = ["--python", str(_python(_folder(backend))), "--output-file", str(found)]
        _run([uv, "pip", "compile", *place, str(asked)], backend, log)
        return found.read_text("utf-8").splitlines()


def _torch_of_pip(install: Sequence[str], pin: str, backend: Backend, log: Path) -> list[str]:
    """Return which build of torch pip would install, by its indexes, and what that needs."""
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "report.json"
        _run([*install, "--dry-run", "--no-deps", "--report", str(found), pin], backend, log)
        (wheel,) = json.loads(found.read_text("utf-8"))["install"]
    about = wheel["metadata"]
    needed = map(Requirement, about.get("requires_dist", []))
    names = [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"torch=={about['version']}", *map(canonicalize_name, names)]


def _is_for_gpu(lines: Iterable[str]) -> bool:
    """Whether a build of torch comes with a GPU's libraries: as packages, or in it, as its label says."""
    return any(re.match(r"(nvidia|cuda)-|torch==[^+\s]*\+(?!cpu)", line) for line in lines)


def _run(
    command: Sequence[str], backend: Backend, log: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run a step with its output in the log.

    Raises:
        StudyError: it failed; says its last line.
    """
    with log.open("ab") as printed:
        code, _ = _guarded(command, environment or clean_environment(), printed, stdout=printed)
    if code:
        raise StudyError(
            f"{backend.name} could not be installed: {_reason(log, code)}",
            hint=f"all that was printed is in {log}; `studyctl backends sync {backend.name}` begins anew",
        )


def _guarded(
    command: Sequence[str], environment: Mapping[str, str], printed: IO[bytes], stdout: IO[bytes] | int
) -> tuple[int, str]:
    """Run a command that ends with us, however we end; return its exit code, and what it printed where that is a pipe."""
    with subprocess.Popen(
        [sys.executable, "-I", str(GUARD), *command],
        stdin=subprocess.PIPE,  # closed when this ends or is left: then the guard ends the command
        stdout=stdout,
        stderr=printed,
        env=environment,
        text=True,
        encoding="utf-8",
    ) as process:
        said = process.stdout.read() if process.stdout is not None else ""
        return process.wait(), said


def _reason(log: Path, code: int) -> str:
    """Return why a step ended with an exit code: the last line that names an error, else the last of all."""
    said = last_lines(log)
    errors = [line for line in said if line.lower().startswith("error")]
    return how_it_ended("its process", code, errors or said)


def _check(backend: Backend, folder: Path, log: Path) -> dict[str, str]:
    """Compress a tiny random model by the first method that runs on this machine; where none does, import the package.

    Returns:
        The versions that the adapter tells.
    """
    device = (visible_gpus() or ["cpu"])[0]
    with tempfile.TemporaryDirectory() as scratch:
        methods = [name for name, row in backend.abilities.items() if device.partition(":")[0] in row.devices]
        make = [str(_python(folder)), "-I", str(CHECK), scratch]
        with log.open("ab") as printed:
            code, made = _guarded(make, clean_environment(network=False), printed, stdout=subprocess.PIPE)
        if code:
            raise _unusable(backend, _reason(log, code), log)
        facts = json.loads(made)
        task = _tiny_task(methods[0], facts, device, Path(scratch) / "out") if methods else None
        outcome = call_driver(_python(folder), backend.adapter, task, log=log)
    if outcome.failure is not None:
        raise _unusable(backend, outcome.failure, log)
    return outcome.versions


def _tiny_task(method: str, facts: Mapping[str, object], device: str, out: Path) -> dict[str, object]:
    given = {"sparsity": 0.5} if method in ("wanda", "sparsegpt") else {"bits": 4, "group_size": 32}
    settings = METHODS[method].settings.model_validate({"method": method, **given})
    return {
        **facts,
        "method": method,
        "options": settings.model_dump(mode="json"),
        "dtype": "float32",
        "device": device,
        "threads": 1,
        "out": str(out),
        "network": False,
    }


def _unusable(backend: Backend, what: str, log: Path) -> StudyError:
    return StudyError(
        f"{backend.name} was installed and does not work: {what}",
        hint=f"all that was printed is in {log}; `studyctl backends sync {backend.name}` begins anew",
    )


def _size(folder: Path) -> int:
    return sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names)
