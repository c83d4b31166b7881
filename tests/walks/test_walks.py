"""The first hour of three people, typed in a terminal of 80×24, in an environment that has only the wheel."""

import json
import re
from pathlib import Path

import pytest

from tests.run.studies import make_model, make_sources, text, write_spec
from tests.tui.tmux import needs_tmux
from tests.walks.conftest import ROOT, Shell

pytestmark = [pytest.mark.slow, needs_tmux]
QUIZ = "question;A;B;answer\n" + "".join(
    f"where is boat {number};at sea;in the harbour;{'AB'[number % 2]}\n" for number in range(12)
)


def page_block(page: str, language: str, first: str) -> str:
    """Return the code block of a page of the documentation whose first line begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    return next(block for block in blocks if block.startswith(first))


def test_a_linguist_with_texts_in_two_languages_and_a_table_of_questions(shell: Shell) -> None:
    data = shell.folder / "boats"
    make_model(data / "model")
    for language in ("de", "sw"):
        for purpose, lines in (("train", 800), ("test", 400)):
            path = data / language / f"{purpose}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(text(language, lines)))
    (data / "quiz.csv").write_text(QUIZ)

    assert "study.toml" in shell.run("studyctl init boats --yes")
    planned = shell.run("studyctl plan boats/study.toml")
    assert "quiz, 12 items" in planned
    assert "✓ at sea" in planned

    # She mistypes a key in the app's editor, sees it underlined, and mends it.
    shell.open("studyctl edit boats/study.toml", "[study]")
    shell.tmux.keys("C-End", "Enter")
    shell.tmux.type("[evaluation.fidelty]")
    shell.tmux.until_shown("did you mean `fidelity`?")
    for _ in range(len("[evaluation.fidelty]") + 1):
        shell.tmux.keys("BSpace")
    shell.tmux.until(lambda seen: "did you mean" not in seen, "a spec without problems")
    shell.tmux.keys("C-s")
    shell.leave()

    # The run goes on without her terminal; she looks in, writes down a thought, and leaves.
    shell.run("studyctl run boats/study.toml --detach")
    shell.open("studyctl watch boats", "› Monitor")
    shell.tmux.until_shown("3/3 ✓")
    shell.tmux.keys("n")
    shell.tmux.until_shown("note about")
    shell.tmux.type("the baseline")
    shell.tmux.keys("Enter")
    shell.tmux.until_shown("was written")
    shell.tmux.keys("3")
    shell.tmux.until_shown("› Compare")
    shell.leave()

    shown = shell.run("studyctl show boats")
    assert "de" in shown
    assert "quiz" in shown
    dense = shell.run("studyctl sql boats \"select note from trials where variant = 'dense'\" --format csv")
    assert "the baseline" in dense
    shell.run("studyctl report boats -o boats/report.html")
    assert "quiz" in (data / "report.html").read_text()


def test_an_engineer_who_lets_a_pipeline_measure_each_change(shell: Shell) -> None:
    make_sources(shell.folder)
    spec = write_spec(shell.folder).rename(shell.folder / "mine.toml")
    spec.write_text(spec.read_text().replace('name = "small"', 'name = "mine"'))
    (shell.folder / "ci.sh").write_text(page_block("cli.md", "bash", "# ci.sh"))

    wrong = shell.run("studyctl validate mine.toml --set models.0.dtpye=float32", code=2)
    assert "did you mean `dtype`?" in wrong
    shell.run("studyctl plan mine.toml --exit-code > plan.txt", code=3)
    first = shell.run("bash ci.sh 9", step="bash ci.sh: the first push measures everything")
    assert "mine finished: 3 trials done, 0 failed" in first
    second = shell.run("bash ci.sh 9", step="bash ci.sh: nothing changed")
    assert "nothing to do" in second
    spec.write_text(spec.read_text().replace("bits = 4", "bits = 3"))
    third = shell.run("bash ci.sh -1", code=1, step="bash ci.sh: another variant, and a bound that it breaks")
    assert "mine finished: 1 trial done, 0 failed" in third
    assert "rtn-3bit-g16" in third
    events = shell.run("studyctl run mine.toml --json | tail -n 1")
    ended = json.loads(next(line for line in events.splitlines() if line.startswith("{")))
    assert (ended["kind"], ended["exit_code"]) == ("ended", 0)


def test_a_contributor_who_adds_a_method_in_a_package_of_her_own(shell: Shell) -> None:
    make_sources(shell.folder)
    package = shell.folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("settings", "prune"):
        block = page_block("extend.md", "python", f"# my_package/{name}.py")
        (package / f"{name}.py").write_text(block)
    entry = page_block("extend.md", "toml", "[project.entry-points")
    project = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    project += f'[project]\nname = "my-package"\nversion = "1.0"\n{entry}'
    (shell.folder / "pyproject.toml").write_text(project)
    spec = write_spec(shell.folder, change=('method = "wanda"', 'method = "random_prune"'))

    before = shell.run(f"studyctl validate {spec.name}", code=2)
    assert "random_prune" in before
    install = "python -m pip install -q --no-index --no-deps --no-build-isolation ."
    shell.run(install)
    shell.run(f"studyctl validate {spec.name}")
    assert "random_prune-0.5" in shell.run(f"studyctl plan {spec.name}")
    shell.run(f"studyctl run {spec.name} --quiet")
    assert "random_prune" in shell.run("studyctl show small")

    # A mistake in the method is the trial's error, with the place; mended and raised in version, it runs again.
    code = package / "prune.py"
    right = code.read_text()
    code.write_text(right.replace("weight * mask", "weight * masks"))
    settings = package / "settings.py"
    settings.write_text(settings.read_text().replace("version=1", "version=2"))
    shell.run(install)
    failed = shell.run(f"studyctl run {spec.name} --quiet", code=1)
    assert "name 'masks' is not defined" in failed
    code.write_text(right)
    shell.run(install)
    shell.run("studyctl retry small")
    assert "nothing to do" in shell.run(f"studyctl run {spec.name} --quiet")


def test_the_environment_has_nothing_of_this_checkout(environment: Path, shell: Shell) -> None:
    where = shell.run('python -c "import studyctl; print(studyctl.__file__)"')
    assert str(environment) in where.replace("\n", "")
