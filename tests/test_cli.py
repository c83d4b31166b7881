"""The command line as a user meets it: streams, exit codes, what is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studyctl.store.publish import publish
from tests.store.builder import FakeStudy

HEAVY = ("torch", "transformers", "lm_eval", "datasets")


def studyctl(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studyctl", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_alone_it_explains_itself(tmp_path: Path) -> None:
    output = studyctl(cwd=tmp_path)
    assert output.returncode == 0
    assert "studyctl run pocket" in output.stdout
    assert (
        "specs that ship: backends, bits-sweep, calibration-language, gguf, paper, paper-small, pocket, pocket-full, sparsity-sweep"
        in output.stdout
    )
    assert output.stderr == ""


def test_errors_go_to_stderr_with_place_and_exit_code(tmp_path: Path) -> None:
    spec = tmp_path / "x.toml"
    spec.write_text('[study]\nname = "x"\n\n[[models]]\nid = "./nowhere"\ndtpye = "auto"\n')
    output = studyctl("validate", "x.toml", cwd=tmp_path)
    assert output.returncode == 2
    assert output.stdout == ""
    assert output.stderr == (
        "error: unknown key `dtpye`\n"
        " --> x.toml:6:1\n"
        "  |\n"
        '6 | dtpye = "auto"\n'
        "  | ^^^^^ did you mean `dtype`?\n"
        "\n"
        "1 problem in x.toml\n"
    )


def test_errors_as_json(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("")
    output = studyctl("plan", "x.toml", "--json", cwd=tmp_path)
    assert output.returncode == 2
    assert json.loads(output.stdout)["problems"][0]["what"] == "the spec is empty"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["show", "nothing"], "there is no study `nothing`"),
        (["stop", "nothing"], "there is no study `nothing`"),
        (["export", "nothing", "trial", "out"], "there is no study `nothing`"),
        (["report", "nothing", "-o", "x.html"], "there is no study `nothing`"),
        (["run", "pockte"], "there is no spec `pockte`"),
        (["plan", "nothing.toml"], "nothing.toml"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, arguments: list[str], what: str) -> None:
    output = studyctl(*arguments, cwd=tmp_path)
    assert output.returncode in (1, 2)
    assert what in output.stderr
    assert "Traceback" not in output.stderr
    assert "hint:" in output.stderr


@pytest.mark.parametrize("name", ["paper", "sparsity-sweep", "bits-sweep", "calibration-language"])
def test_specs_that_ship_validate_and_plan_without_a_network(tmp_path: Path, name: str) -> None:
    assert studyctl("validate", name, cwd=tmp_path).returncode == 0
    planned = studyctl("plan", name, "--json", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["trials"]
    assert {problem["severity"] for problem in plan["problems"]} == {"warning"}


@pytest.mark.parametrize("name", ["pocket", "pocket-full", "paper-small", "backends"])
def test_the_embedded_specs_validate(tmp_path: Path, name: str) -> None:
    assert studyctl("validate", name, cwd=tmp_path).returncode == 0


def test_the_schema_is_json(tmp_path: Path) -> None:
    assert json.loads(studyctl("schema", cwd=tmp_path).stdout)["$schema"].startswith(
        "https://json-schema.org"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["validate", "pocket"],
        ["plan", "sparsity-sweep"],
        ["list"],
        ["show", "--help"],
        ["export", "--help"],
        ["report", "--help"],
        ["sql", "--help"],
    ],
)
def test_nothing_heavy_is_imported_before_a_worker_runs(tmp_path: Path, arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from studyctl.cli import main\n"
        f"sys.argv = ['studyctl', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert "heavy: []" in done.stderr, done.stderr


@pytest.fixture
def plain_study(tmp_path: Path) -> Path:
    """A folder with a published study whose title is in Greek."""
    study = FakeStudy(tmp_path / "runs" / "small").write_all()
    for path in (study.paths.plan, study.paths.spec):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace("A small study", "Μελέτη · ✓"), "utf-8")
    publish(study.paths)
    return tmp_path


COMMANDS = (
    "schema",
    "list --json",
    "watch small --plain",
    "logs small",
    "sql small 'from leaderboard'",
)


def in_shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", command.replace("studyctl", f"{sys.executable} -m studyctl", 1)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_nobody_takes_is_no_traceback(plain_study: Path, command: str) -> None:
    full = in_shell(f"studyctl {command} > /dev/full", plain_study)
    assert (full.returncode, full.stderr) == (
        1,
        b"error: the output cannot be written: No space left on device\n\n",
    )
    head = in_shell(f"studyctl {command} | head -c 1; exit ${{PIPESTATUS[0]}}", plain_study)
    assert (head.returncode, head.stderr) == (0, b"")
    closed = in_shell(f"studyctl {command} <&- >&-", plain_study)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_encoding_without_a_character_writes_an_escape(plain_study: Path, encoding: str) -> None:
    for command in ("list", "logs small", "sql small 'from leaderboard'"):
        output = in_shell(f"studyctl {command}", plain_study, PYTHONIOENCODING=encoding)
        assert (output.returncode, output.stderr) == (0, b""), command
    printed = in_shell("studyctl list", plain_study, PYTHONIOENCODING=encoding).stdout
    assert b"\\u2713" in printed
    as_json = in_shell("studyctl list --json", plain_study, PYTHONIOENCODING=encoding).stdout
    assert json.loads(as_json)[0]["title"] == "Μελέτη · ✓"


def test_a_file_that_is_opened_never_takes_the_number_of_a_closed_stream(plain_study: Path) -> None:
    script = "from studyctl.cli.streams import prepare_streams; prepare_streams(); print(open('x', 'w').fileno(), file=open('y', 'w'))"
    subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', script],
        cwd=plain_study,
        check=True,
        timeout=60,
    )
    assert int((plain_study / "y").read_text()) > 2


def test_one_trial_is_shown_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "runs" / "small", models=("org/alpha",)).write_all()
    publish(study.paths)
    output = studyctl("show", "small", "alpha.w", cwd=tmp_path)
    assert "alpha.wanda-0.5  org/alpha  done" in output.stdout, output.stderr
    assert "no runtime gains from its zeros" in " ".join(output.stdout.split())
    row = json.loads(studyctl("show", "small", "alpha.w", "--json", cwd=tmp_path).stdout)
    assert (row["variant"], row["file_mib"]) == ("wanda-0.5", None)
