"""The documentation: it builds as a site without a broken link, and the commands of the tutorial run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.studies import make_model, text

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "site" / "tutorial" / "index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert not [target for target in targets if not (ROOT / target).exists()]


@pytest.mark.slow
def test_the_tutorial_from_the_folder_to_the_exported_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    make_model(folder / "model")
    for name, lines in (("de-train", text("de", 800)), ("de-test", text("de", 400))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    (folder / "quiz.csv").write_text("question,A,B,answer\nWhere?,here,there,B\nWho?,you,me,A\n")
    commands = re.findall(r"^\$ (studyctl .*)$", TUTORIAL, re.M)
    assert len(commands) > 6
    for command in commands:
        _, *arguments = shlex.split(command)
        ended = subprocess.run(
            [sys.executable, "-m", "studyctl", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    assert "gptq-4bit-g32" in (folder / "report.html").read_text()
    assert (folder / "compressed" / "config.json").is_file()
