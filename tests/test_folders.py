"""A folder is there as a whole, or as it was."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studyctl.errors import StudyError
from studyctl.files import (
    SPARE_CACHE,
    atomic_folder,
    atomic_path,
    cache_entry,
    cache_trouble,
    file_lock,
    read_plain,
    remove_leftovers,
    write_atomic,
    write_cache,
)
from studyctl.journal.files import JournalWriter

KILLED = """
import os, signal, sys
from pathlib import Path
from studyctl.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert names(target.parent) == ["er"]
    assert (target / "a").read_text() == "1"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "x") == ["a"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "x") as folder:
        (folder / "half" / "of it").write_text("1")
    assert names(tmp_path) == []


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("1")
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "x"):
        pass
    assert names(tmp_path / "x") == ["mine"]


def test_a_replaced_folder_is_whole_before_and_after(tmp_path: Path) -> None:
    target = tmp_path / "x"
    for content in ("old", "new"):
        with atomic_folder(target, replace=True) as folder:
            (folder / content).write_text(content)
            assert content == "old" or names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["x"]
    with pytest.raises(FileNotFoundError), atomic_folder(target, replace=True) as folder:
        (folder / "half" / "of it").write_text("1")
    assert names(target) == ["new"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x")], check=False, timeout=60)
    (left,) = names(tmp_path)
    assert left.startswith(".x.")
    (tmp_path / ".x.notes").mkdir()  # of somebody else
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == [".x.notes"]


FULL = """
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from studyctl.files import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_path(Path(sys.argv[1])) as path:
        save_file({"a": numpy.zeros(1000)}, path)
except OSError as error:
    print(error.strerror)
"""


def test_weights_that_do_not_fit_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """safetensors raises an error of its own, which looks like one of the weights."""
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "w")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said.stdout == "File too large\n"
    assert names(tmp_path) == []


def test_what_another_machine_writes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"from studyctl import files; files.machine = lambda: 'elsewhere'\n{KILLED}"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False, timeout=60)
    before = names(tmp_path)
    assert len(before) == 1
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == before


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement."""
    script = KILLED.replace("Path(sys.argv[1])", "Path(sys.argv[1]), replace=True").replace(
        "    os.kill",
        "    Path(sys.argv[1]).rename(str(folder).replace('new.partial', 'old.partial'))\n    os.kill",
    )
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("1")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False, timeout=60)
    assert "x" not in names(tmp_path)
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["mine"]


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_lock(tmp_path / "lock") as locked:
        assert locked

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with file_lock(tmp_path / "lock") as locked:
        assert not locked


class TestCache:
    @pytest.fixture(autouse=True)
    def _cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "old").write_text("1")
        monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("studyctl.files.tempfile.TemporaryFile", full)

    def test_why_it_cannot_be_written(self) -> None:
        assert cache_trouble() == "No space left on device"

    def test_what_is_there_is_read_and_what_is_new_goes_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(SPARE_CACHE, str(tmp_path / "spare"))
        assert cache_entry("old") == tmp_path / "cache" / "old"
        assert cache_entry("new", "one") == tmp_path / "spare" / "new" / "one"

    def test_writing_into_it_is_no_error(self, tmp_path: Path) -> None:
        write_cache(tmp_path / "cache" / "old" / "a folder cannot be here", "1")


def full(**_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x") as folder:
        remove_leftovers(tmp_path / "x")
        assert folder.is_dir()


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_get_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "plan.json", "{}")
        with atomic_path(tmp_path / "weights") as temporary:
            save_file({"a": np.zeros(2)}, temporary)
        with atomic_folder(tmp_path / "model") as folder:
            save_file({"a": np.zeros(2)}, folder / "model.safetensors")
        with JournalWriter(tmp_path / "a.1.jsonl"):
            pass
    finally:
        os.umask(before)
    made = ("plan.json", "weights", "model/model.safetensors", "a.1.jsonl")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in made] == [mode] * 4


def test_a_pipe_a_device_and_a_folder_are_no_files_of_a_study(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "endless", "folder", "loop"):
        with pytest.raises(OSError):  # noqa: PT011 - the kind differs
            read_plain(tmp_path / name)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.files.LARGEST_BYTES", 10)
    (tmp_path / "fits").write_bytes(b"0123456789")
    assert read_plain(tmp_path / "fits") == b"0123456789"
    (tmp_path / "over").write_bytes(b"0123456789A")
    with pytest.raises(OSError, match="it has 11 bytes, 10 are read"):
        read_plain(tmp_path / "over")


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "a.1.jsonl").symlink_to("mine")
    with pytest.raises(StudyError, match="cannot write"):
        JournalWriter(tmp_path / "a.1.jsonl")
    assert (tmp_path / "mine").read_text() == "precious"
