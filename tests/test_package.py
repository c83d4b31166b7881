"""What a wheel puts into people's environments, and what an sdist gives those who package studyctl."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import policy
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_a_wheel_holds_two_packages_of_this_projects_name_with_their_data(wheel: Path) -> None:
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
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser(policy=policy.default).parsebytes(archive.read(name))


def test_an_index_can_sort_the_package(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    assert {
        "Environment :: Console",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    } <= {*classifiers}
    oldest = metadata["Requires-Python"].removeprefix(">=")
    versions = [
        name.rpartition(" ")[2]
        for name in classifiers
        if name.startswith("Programming Language :: Python :: 3.")
    ]
    assert versions[0] == oldest
    assert {"pruning", "quantization"} <= {*metadata["Keywords"].split(",")}
    assert "Project-URL" not in metadata  # there is no public page yet


def test_the_description_leads_nowhere_that_is_only_in_the_repository(metadata: Message) -> None:
    """Links into the repository keep their text alone: there is no public address that they could be completed with."""
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    tokens = MarkdownIt().enable("table").parse(text)
    inner = [child for token in tokens for child in token.children or ()]
    targets = [token.attrs.get("href") or token.attrs.get("src") for token in (*tokens, *inner)]
    assert not [target for target in targets if target is not None and not str(target).startswith("https://")]
    assert "docs/own-data.md" in text
    readme = MarkdownIt().enable("table").parse((ROOT / "README.md").read_text())
    for kind in ("heading_open", "fence", "table_open", "bullet_list_open"):
        assert sum(token.type == kind for token in tokens) == sum(token.type == kind for token in readme), (
            kind
        )


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of this project, as who packages it has it."""
    folder = tmp_path_factory.mktemp("sdist")
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(folder))
    with tarfile.open(sdist) as archive:
        # As tarfile's documentation has it for Python before 3.11.4.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)
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
