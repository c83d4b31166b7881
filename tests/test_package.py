"""What a wheel puts into people's environments."""

import zipfile
from pathlib import Path

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
