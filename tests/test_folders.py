"""A folder is there as a whole, or as it was."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from studyctl.errors import StudyError
from studyctl.files import atomic_folder, atomic_path, read_plain, remove_leftovers, write_atomic
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
        with pytest.raises(OSError):  # noqa: PT011
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
