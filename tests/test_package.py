"""What a wheel puts into people's environments, and what an sdist gives those who package studyctl."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_two_packages_of_this_projects_name_with_their_data(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "studyctl",
        "studyctl_tui",
    }
    assert {
        "studyctl/cli/__init__.py",
        "studyctl/py.typed",
        "studyctl/specs/pocket.toml",
        "studyctl/store/views.sql",
        "studyctl/pocket/tasks/pocket_yesno.jsonl",
        "studyctl_tui/app.py",
        "studyctl_tui/studyctl.tcss",
    } <= names


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this project, as who packages it has it."""
    folder = tmp_path_factory.mktemp("sdist")
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(folder))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = (path for path in folder.iterdir() if path.is_dir())
    return inside


def test_an_sdist_holds_what_the_repository_holds(unpacked: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert not [name for name in tracked if not (unpacked / name).is_file()]


@pytest.mark.slow
def test_the_tests_of_an_sdist_are_found_and_run_there(unpacked: Path) -> None:
    """The whole suite is collected, and those run that read files beside the packages."""
    paths = os.pathsep.join(map(str, (unpacked, unpacked / "tui")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    read_files = [
        "tests/test_words.py",
        "tests/test_docs.py",
        "tests/test_readme.py",
        "tests/spec/test_spec_reference.py",
    ]
    read_files += ["tests/store/test_reference.py", "tests/pocket"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "--assert=plain", "-p", "no:cacheprovider", *arguments],
            cwd=unpacked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for arguments in (["--collect-only"], ["-k", "not tutorial_from", *read_files])
    ]  # fmt: skip
    printed = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(printed)
