"""The paths of a study's files, and atomic writes: a crash leaves the old file or folder, or the new one, never a mixture."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import platformdirs

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Numbers of the errors of a disk that takes nothing more."""
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""Numbers of the errors of a disk without locks."""
RUNS = "STUDYCTL_RUNS"
"""Variable that names the folder of studies."""
SPARE_CACHE = "STUDYCTL_SPARE_CACHE"
"""Variable that a worker sets for itself: the folder for what the user's cache cannot take."""


@cache
def machine() -> str:
    """Return a name for everywhere that process ids mean the same as here: this machine until it is started again, or a container.

    It is no host name: many machines are called ``localhost``.
    """
    parts: list[object] = [socket.gethostname()]
    with suppress(OSError):  # only Linux tells
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        parts = [boot, Path("/proc/self/ns/pid").stat().st_ino]
    return digest(parts)[:8]


def _temporary_name(path: Path) -> str:
    """Return how the names of temporary files begin that this process makes next to ``path``."""
    return f".{path.name}.{machine()}-{os.getpid()}."


LARGEST_BYTES = 1 << 30
"""A file of a study that is larger is not read: ten times the plan of 100,000 trials."""


def open_plain(path: Path) -> BinaryIO:
    """Open a file of a study for reading.

    A study may come from somebody else: a pipe, which would block, and a device, which may never end, are refused.

    Raises:
        OSError: it is no plain file, larger than :data:`LARGEST_BYTES`, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_BYTES:
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISREG(status.st_mode):
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, {LARGEST_BYTES:,} are read", str(path))
    kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
    raise OSError(kind, "it is not a plain file", str(path))


def read_plain(path: Path) -> bytes:
    """Return the content of a file of a study; see :func:`open_plain`."""
    with open_plain(path) as file:
        return file.read()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success it is synced and takes the name of ``path``.

    Raises:
        OSError: the folder cannot be written, or the disk is full; ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_temporary_name(path)}{uuid4().hex[:8]}.tmp")
    temporary.touch(exist_ok=False)
    mode = (
        temporary.stat().st_mode
    )  # what the umask leaves; safetensors replaces the file by one that only its owner reads
    try:
        with _errors_of_rust():
            yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def _errors_of_rust() -> Iterator[None]:
    """Turn errors of the operating system that a library in Rust raises as its own (safetensors) into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replace the content of ``path`` with ``data``, or leave it as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder next to ``path``; on success it is synced and takes the name of ``path``.

    Args:
        path: the folder to make; missing or empty.
        replace: replace a folder that is not empty.

    Raises:
        OSError: the parent cannot be written, the disk is full, or ``path`` is not empty; ``path`` is as it was.
    """
    if not replace and (path.is_file() or (path.exists() and any(path.iterdir()))):
        raise FileExistsError(errno.EEXIST, "it exists already and is not empty", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, old = (path.with_name(f"{_temporary_name(path)}{kind}.partial") for kind in ("new", "old"))
    temporary.mkdir()
    try:
        with _errors_of_rust():
            yield temporary
        open_to_umask(temporary)
        for entry in temporary.iterdir():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if replace and path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists():
            if path.exists():
                shutil.rmtree(old)
            else:  # the new one could not take its place
                old.rename(path)
    sync_folder(path.parent)


def open_to_umask(folder: Path) -> None:
    """Give the files in a new folder the permissions that the umask leaves: safetensors lets only their owner read them."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def remove_leftovers(path: Path) -> None:
    """Delete what processes of this machine left that were killed while writing ``path``.

    What another machine writes is never touched: nobody here can tell whether its process lives.
    """
    import psutil  # takes 10 ms

    pattern = re.compile(rf"\.{re.escape(path.name)}\.{machine()}-(\d+)\.(.+)")
    for left in path.parent.iterdir():
        match = pattern.fullmatch(left.name)
        if match and not left.is_symlink() and not psutil.pid_exists(int(match[1])):
            if match[2] == "old.partial" and not path.exists():
                left.rename(path)  # killed between two renames
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def digest(value: object) -> str:
    """Return the hash of a JSON-serialisable value, as 20 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def cache_folder() -> Path:
    """Return the folder of converted models, tokenised text and backends' environments (``STUDYCTL_CACHE`` moves it)."""
    override = os.environ.get("STUDYCTL_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("studyctl"))


def data_folder() -> Path:
    """Return the folder of what studyctl remembers about the user (``XDG_DATA_HOME`` moves it)."""
    return Path(platformdirs.user_data_dir("studyctl"))


def cache_trouble() -> str:
    """Return why the user's cache cannot be written; empty if it can."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache_folder()).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def cache_entry(*names: str) -> Path:
    """Return the path of something in the user's cache; where a worker can keep it instead, if that cannot be written."""
    entry, spare = cache_folder().joinpath(*names), os.environ.get(SPARE_CACHE)
    return Path(spare).joinpath(*names) if spare and not entry.exists() and cache_trouble() else entry


def write_cache(path: Path, data: str | bytes) -> None:
    """Keep something in the user's cache if it can be written: else it only costs time again, and ``plan`` warns of it."""
    with suppress(OSError):
        write_atomic(path, data)


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Hold a kernel's lock on a file, if its disk has locks; yield whether it does.

    Args:
        path: the file; made if it is missing.
        timeout: seconds to wait for it; negative: without end.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be written.
    """
    from filelock import FileLock  # few commands lock

    lock = FileLock(path, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class StudyPaths:
    """Every path in a study's folder. Their names are written nowhere else."""

    root: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.root.name

    @property
    def id(self) -> Path:
        """A random id, by which a user's own studies are told from those of others."""
        return self.root / "id"

    @property
    def spec(self) -> Path:
        """The spec of the last run, self-contained."""
        return self.root / "spec.toml"

    @property
    def plan(self) -> Path:
        """Every trial that the spec asks for, with its keys: states and tables can be shown without access to the sources."""
        return self.root / "plan.json"

    @property
    def database(self) -> Path:
        """The published DuckDB file."""
        return self.root / "study.duckdb"

    @property
    def runner(self) -> Path:
        """About the runner: host, process, heartbeat, running attempts."""
        return self.root / "runner.json"

    @property
    def lock(self) -> Path:
        """Locked (by the kernel, where it can) as long as a runner lives."""
        return self.root / "runner.lock"

    @property
    def lease(self) -> Path:
        """Who holds the study, with a count that rises as long as they live."""
        return self.root / "runner.lease"

    @property
    def runner_log(self) -> Path:
        """Output of a detached runner."""
        return self.logs / "runner.log"

    @property
    def journal(self) -> Path:
        """Folder of the journals and their Parquet parts: the results; all else is derived from them."""
        return self.root / "journal"

    def lost(self, token: str) -> Path:
        """What the runner that holds the study by this token recorded of attempts whose workers are gone."""
        return self.journal / "lost" / f"{token}.jsonl"

    def all_lost(self) -> list[Path]:
        """Return what every runner recorded of attempts whose workers are gone."""
        return sorted(self.lost("").parent.glob("*.jsonl"))

    @property
    def hypotheses(self) -> Path:
        """Journal of when each hypothesis was first recorded."""
        return self.root / "hypotheses.jsonl"

    @property
    def notes(self) -> Path:
        """Journal of the notes about trials."""
        return self.root / "notes.jsonl"

    @property
    def items(self) -> Path:
        """Folder of the texts of tasks' items, once for all trials; without them, flips are numbers only."""
        return self.root / "items"

    @property
    def logs(self) -> Path:
        """Folder of the logs, one per attempt."""
        return self.root / "logs"

    @property
    def contact(self) -> Path:
        """How workers on other machines reach the runner; with the key that lets them, so only its owner can read it."""
        return self.root / "cluster.json"

    @property
    def workers(self) -> Path:
        """Folder of the scripts and logs of workers on other machines."""
        return self.root / "workers"

    @property
    def allocations(self) -> Path:
        """The workers that a scheduler was asked for."""
        return self.workers / "allocations.json"

    def worker_log(self, name: str) -> Path:
        """What a worker on another machine printed outside of attempts."""
        return self.workers / f"{name}.log"

    @property
    def control(self) -> Path:
        """Folder of requests to the runner."""
        return self.root / "control"

    @property
    def cache(self) -> Path:
        """Dense references, weights, and task chunks in progress; all of it can be deleted."""
        return self.root / "cache"

    @property
    def spare_cache(self) -> Path:
        """What belongs into the user's cache, if that cannot be written."""
        return self.cache / "spare"

    @property
    def speed(self) -> Path:
        """Folder of the sessions in which files were timed: a journal each."""
        return self.root / "speed"

    @property
    def weights(self) -> Path:
        """Exported variants (``keep_weights``)."""
        return self.root / "weights"

    def entries(self) -> list[Path]:
        """Every path above that is directly in the study's folder."""
        properties = (value for value in vars(type(self)).values() if isinstance(value, property))
        values = [value.__get__(self) for value in properties]
        return [value for value in values if isinstance(value, Path) and value.parent == self.root]

    def exported(self, trial: str) -> Path:
        """The exported weights of one trial (``keep_weights``)."""
        return self.weights / trial

    def attempt_journal(self, trial: str, attempt: int) -> Path:
        """The journal file of one attempt."""
        return self.journal / f"{trial}.{attempt}.jsonl"

    def attempt_log(self, trial: str, attempt: int) -> Path:
        """The log file of one attempt."""
        return self.logs / f"{trial}.{attempt}.log"

    def part(self, trial: str, attempt: int, name: str) -> Path:
        """A Parquet part of one attempt; ``name`` is that of the task whose items it holds."""
        return self.journal / f"{trial}.{attempt}.{name}.parquet"

    def item_texts(self, key: str) -> Path:
        """The texts of a task's items, a Parquet file."""
        return self.items / f"{key}.parquet"

    def trial_weights(self, weights_key: str) -> Path:
        """The compressed weights of a trial in progress."""
        return self.cache / "weights" / f"{weights_key}.safetensors"

    def kept_weights(self, weights_key: str) -> Path:
        """The compressed weights of a finished trial, for steps that are added later."""
        return self.cache / "kept" / f"{weights_key}.safetensors"

    def find_weights(self, weights_key: str) -> Path | None:
        """Return where the compressed weights of a trial are, in progress or finished; None: nowhere."""
        places = self.trial_weights(weights_key), self.kept_weights(weights_key)
        return next((path for path in places if path.exists()), None)

    def deployed(self, weights_key: str, weights_hash: str | None) -> Path:
        """The GGUF file of a trial's weights; of the dense model, which has no hash, that of its key."""
        return self.cache / "gguf" / f"{weights_key}.{(weights_hash or 'dense')[:12]}.gguf"

    def packed_weights(self, weights_key: str) -> Path:
        """The packed checkpoint that another package made for a trial in progress."""
        return self.cache / "weights" / f"{weights_key}.packed"

    def resumable_blocks(self, weights_key: str, attempt: int) -> Path:
        """The finished blocks of a compression in progress; another attempt takes them over by a new name."""
        return self.cache / "weights" / f"{weights_key}.{attempt}.blocks"

    def all_resumable_blocks(self, weights_key: str) -> list[Path]:
        """Return the folders of finished blocks of every attempt at a compression."""
        return sorted(self.cache.glob(f"weights/{weights_key}.*.blocks"))

    def resumable_chunks(self, trial: str, key: str) -> Path:
        """Folder of the finished chunks of a task in progress, in a file for each attempt."""
        return self.cache / "chunks" / f"{trial}.{key}"

    def all_weights(self) -> frozenset[str]:
        """Return the keys of all compressed weights here, of trials in progress or finished."""
        folders = self.trial_weights("").parent, self.kept_weights("").parent
        return frozenset(path.stem for folder in folders for path in folder.glob("*.safetensors"))

    def dense_reference(self, key: str) -> Path:
        """The final hidden states of the dense model on one text."""
        return self.cache / "dense" / f"{key}.safetensors"


def runs_folder() -> Path:
    """Return the folder that holds the studies: ``runs`` in the working directory (:data:`RUNS` moves it)."""
    return Path(os.environ.get(RUNS, "runs"))
