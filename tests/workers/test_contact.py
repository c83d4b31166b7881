"""The file by which workers find their runner."""

from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="workers on other machines need studyctl[cluster]")

from studyctl.errors import StudyError
from studyctl.workers.contact import Contact, new_security, read_contact, write_contact


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_contact(tmp_path / "cluster.json", Contact("tls://127.0.0.1:1", "token", *new_security()))
    return tmp_path / "cluster.json"


def test_only_its_owner_can_read_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    contact = read_contact(path)
    assert contact is not None
    assert contact.security.require_encryption
    assert "PRIVATE KEY" in contact.key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_one_that_others_could_have_written_or_read_is_not_used(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(StudyError, match="is not yours alone"):
        read_contact(path)


def test_none_and_a_torn_one_mean_no_runner(path: Path) -> None:
    path.write_text(path.read_text()[:40])
    assert read_contact(path) is None
    path.unlink()
    assert read_contact(path) is None
