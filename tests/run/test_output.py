"""The command line beside people and programs: what a run prints, exit codes, values that are set, what `on_finish` learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studyctl.errors import ExitCode, SpecError
from studyctl.spec.changes import changed
from studyctl.spec.loading import load_spec
from tests.run.studies import write_spec


def studyctl(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studyctl", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        input=stdin,
    )


@pytest.mark.slow
def test_a_run_in_a_pipeline(workplace: Path) -> None:
    """One study from its first plan to its logs: each command is what a script would call."""
    spec = str(write_spec(workplace, execution='on_finish = "env > learnt.txt"'))
    one = ("--set", "evaluation.perplexity.languages=['en']")
    assert studyctl("plan", spec, *one, "--exit-code").returncode == ExitCode.TO_DO

    ended = studyctl("run", spec, *one, "--json")
    assert ended.returncode == ExitCode.DONE, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "run"
    assert kinds[-1] == "ended"
    assert events[0]["trials"] == 3
    finished = [event for event in events if event["kind"] == "step_finished"]
    assert {(event["trial"], event["step"]["kind"]) for event in finished} >= {
        ("tiny-dense", "perplexity"), ("tiny-wanda-0.5", "compress"), ("tiny-rtn-4bit-g16", "task"),
    }  # fmt: skip
    assert (events[-1]["exit_code"], events[-1]["done"], events[-1]["failed"]) == (0, 3, {})
    assert Path(events[-1]["database"]).is_file()

    learnt = dict(line.split("=", 1) for line in Path("learnt.txt").read_text().splitlines() if "=" in line)
    assert (learnt["STUDYCTL_STUDY"], learnt["STUDYCTL_EXIT_CODE"]) == ("small", "0")
    assert (learnt["STUDYCTL_DONE"], learnt["STUDYCTL_FAILED"], learnt["STUDYCTL_FAILED_TRIALS"]) == (
        "3",
        "0",
        "",
    )
    assert Path(learnt["STUDYCTL_DATABASE"]).is_file()

    assert studyctl("plan", spec, *one, "--exit-code").returncode == ExitCode.DONE
    languages = studyctl(
        "sql", "small", "-", "--format", "csv", stdin="select distinct language from perplexity"
    )
    assert languages.stdout == "language\nen\n"

    quiet = studyctl("run", spec, "--quiet")  # German, as the file says
    assert quiet.stdout == ""
    assert quiet.stderr.splitlines()[-1] == "small finished: 3 trials done, 0 failed"
    assert "perplexity" not in quiet.stderr

    logs = studyctl("logs", "small").stdout
    for trial in ("tiny-dense", "tiny-wanda-0.5", "tiny-rtn-4bit-g16"):
        assert f"✓ {trial}" in logs

    elsewhere = studyctl("--runs-dir", "other", "list", "--json")
    assert json.loads(elsewhere.stdout) == []
    assert [row["study"] for row in json.loads(studyctl("list", "--json", STUDYCTL_RUNS="runs").stdout)] == [
        "small"
    ]


def test_a_run_says_what_the_plan_warns_of(workplace: Path) -> None:
    shared = ("--set", "text.mine.files=text/{language}/test.jsonl", "--only", "dense")
    spec = str(write_spec(workplace))
    assert (
        "warning: `--set text.mine.files=text/{language}/test.jsonl`: calibration and perplexity share"
        in studyctl("run", spec, *shared).stderr
    )
    assert "warning" not in studyctl("run", spec, *shared, "--quiet").stderr


def test_forms_of_output_exclude_one_another(workplace: Path) -> None:
    ended = studyctl("run", str(write_spec(workplace)), "--quiet", "--json")
    assert ended.returncode == ExitCode.BAD_SPEC
    assert "exclude one another" in ended.stdout + ended.stderr


TEXT = """# a study
[study]
name = "x"  # its name
[[models]]
id = "a"
[[models]]
id = "b"
[evaluation.perplexity]
source = "pocket"
languages = ["en"]
"""


class TestSet:
    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ("study.name=other", 'name = "other"  # its name'),
            ('study.name="other"', 'name = "other"  # its name'),
            ("models.1.dtype=float32", 'dtype = "float32"'),
            ("models.0.id = org/c", 'id = "org/c"'),
            ("evaluation.perplexity.windows=4", "windows = 4"),
            ('evaluation.perplexity.languages=["de", "sw"]', 'languages = ["de", "sw"]'),
            ("execution.on_finish=", 'on_finish = ""'),
        ],
    )
    def test_a_value_is_set_and_all_else_stays(self, change: str, line: str) -> None:
        made = changed(TEXT, [change]).splitlines()
        assert line in made
        before = TEXT.splitlines()
        assert len(set(before) - set(made)) <= 1
        assert "# a study" in made

    def test_a_place_in_a_list_is_set(self) -> None:
        made = changed(TEXT.replace("[study]", "[study]\nseeds = [1, 2]"), ["study.seeds.1=3"])
        assert "seeds = [1, 3]" in made

    @pytest.mark.parametrize("change", ["study.name", "=x", ".name=x", "models.2.id=c", "study.name.first=x"])
    def test_what_leads_nowhere_is_refused(self, change: str) -> None:
        with pytest.raises(SpecError, match="--set"):
            changed(TEXT, [change])

    def test_a_wrong_key_is_found_like_one_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.toml").write_text(TEXT)
        with pytest.raises(SpecError, match="unknown key `dtpye`") as caught:
            load_spec(tmp_path / "x.toml", ["models.0.dtpye=auto"])
        assert caught.value.problems[0].note == "did you mean `dtype`?"

    def test_a_file_that_is_no_toml_is_said_to_be_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.toml").write_text("[study\n")
        with pytest.raises(SpecError, match="header is not closed"):
            load_spec(tmp_path / "x.toml", ["study.name=x"])
