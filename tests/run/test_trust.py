"""Acting on a study that somebody else made asks first; one's own never asks."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.errors import ExitCode, StudyError
from studyctl.files import StudyPaths
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.run.trust import foreign, remember, require_trust
from tests.run.studies import write_spec
from tests.store.builder import FakeStudy


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a user who has no study yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def received(tmp_path: Path, home: Path) -> StudyPaths:
    """A study that another user made."""
    paths = FakeStudy(tmp_path / "received").write_all().paths
    shutil.rmtree(home)
    assert paths.id.is_file()
    return paths


def act(paths: StudyPaths, console: Console, *, trust: bool = False, spec: Path | None = None) -> None:
    require_trust(paths, console, trust=trust, spec=spec)


def test_a_new_study_is_ones_own_from_then_on(tmp_path: Path, console: Console) -> None:
    paths = StudyPaths(tmp_path / "new")
    act(paths, console)
    FakeStudy(paths.root).write_all()
    assert not foreign(paths)
    act(paths, console)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_wherever_it_is_moved_or_copied(tmp_path: Path, console: Console) -> None:
    paths = FakeStudy(tmp_path / "mine").write_all().paths
    shutil.copytree(paths.root, tmp_path / "copied")
    paths.root.rename(tmp_path / "moved")
    act(StudyPaths(tmp_path / "copied"), console)
    act(StudyPaths(tmp_path / "moved"), console)


def test_without_a_terminal_a_received_study_is_refused(received: StudyPaths, console: Console) -> None:
    with pytest.raises(StudyError, match="was not made by you, or by an earlier studyctl") as caught:
        act(received, console)
    assert caught.value.problems[0].hint == "`--trust` acts on it, now and later"
    act(received, console, trust=True)
    act(received, console)


@pytest.mark.parametrize("content", [b"", b"../../etc/passwd", b"\xff" * 32, b"0" * 31, b"A" * 32, b"."])
def test_an_id_that_is_none_proves_nothing(
    received: StudyPaths, console: Console, home: Path, content: bytes
) -> None:
    (home / "studyctl" / "studies").mkdir(parents=True)
    received.id.write_bytes(content)
    with pytest.raises(StudyError, match="was not made by you"):
        act(received, console)
    act(received, console, trust=True)
    act(received, console)


@pytest.mark.parametrize(("answer", "agrees"), [("y", True), ("n", False), ("", False), (None, False)])
def test_on_a_terminal_it_asks(
    received: StudyPaths, monkeypatch: pytest.MonkeyPatch, answer: str | None, agrees: bool
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr("sys.stdin", io.StringIO("" if answer is None else f"{answer}\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    if agrees:
        act(received, terminal)
        assert not foreign(received)
    else:
        with pytest.raises(StudyError, match="nothing was done"):
            act(received, terminal)
        assert foreign(received)
    assert f"studyctl plan {received.spec}" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_a_home_that_cannot_be_written_says_so_and_stops_nothing(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/nohome")
    act(StudyPaths(tmp_path / "new"), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "new cannot be remembered as yours (/proc/nohome" in said
    assert said.count("--trust") == 1


def test_a_stored_spec_that_names_ones_own_study_is_not_run(
    tmp_path: Path, received: StudyPaths, console: Console
) -> None:
    received.spec.write_text("")
    mine = FakeStudy(tmp_path / "mine").write_all().paths
    assert [study.root for study in foreign(mine, received.spec)] == [received.root]
    with pytest.raises(StudyError, match="received was not made by you"):
        act(mine, console, spec=received.spec)
    assert foreign(mine, mine.spec) == []


def test_any_spec_may_be_called_like_a_stored_one(tmp_path: Path, console: Console) -> None:
    spec = tmp_path / "project" / "spec.toml"
    spec.parent.mkdir()
    spec.write_text("")
    act(StudyPaths(tmp_path / "project" / "runs" / "new"), console, spec=spec)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_run_lists_what_runs_code_before_it_asks(workplace: Path, console: Console, home: Path) -> None:
    spec = write_spec(workplace, execution='on_finish = "touch FINISHED"')
    assert run_study(spec, Selection(only=("dense",)), console).code == ExitCode.DONE
    assert (workplace / "FINISHED").exists()
    first = console.file.getvalue().splitlines()[0]  # type: ignore[attr-defined]
    assert first == "runs code: on_finish, at the end: touch FINISHED"
    (workplace / "FINISHED").unlink()
    shutil.rmtree(home)
    with pytest.raises(StudyError, match="was not made by you"):
        run_study(spec, Selection(), console)
    assert not (workplace / "FINISHED").exists()
    assert remember([StudyPaths(workplace / "runs" / "small")]) == ""
    assert run_study(spec, Selection(only=("dense",)), console).code == ExitCode.DONE


def test_a_module_beside_the_user_is_not_imported(workplace: Path, console: Console) -> None:
    (workplace / "safetensors.py").write_text("open('IMPORTED', 'w')")
    run_study(write_spec(workplace), Selection(only=("dense",)), console, detach=False)
    assert not (workplace / "IMPORTED").exists()
