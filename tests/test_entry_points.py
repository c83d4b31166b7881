"""Methods of installed packages: the page's example runs as a study, and packages that are broken are named."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.conftest import workplace
from tests.run.studies import write_spec
from tests.spec.specs import MINIMAL, refused

__all__ = ["workplace"]

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()
SETTINGS, PRUNE = (
    re.search(rf"```python\n# my_package/{name}.py[^\n]*\n(.*?)```", PAGE, re.S)[1]  # type: ignore[index]
    for name in ("settings", "prune")
)


def install(
    folder: Path, entry: str = "random_prune = my_package.settings:METHOD", settings: str = SETTINGS
) -> Path:
    """Lay out a package as pip would."""
    site = folder / "site"
    (site / "my_package").mkdir(parents=True)
    for name, text in (("__init__", ""), ("settings", settings), ("prune", PRUNE)):
        (site / "my_package" / f"{name}.py").write_text(text)
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[studyctl.methods]\n{entry}\n")
    return site


def studyctl(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        [sys.executable, "-m", "studyctl", *arguments], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_the_method_of_the_page_runs_once_for_each_seed(workplace: Path) -> None:
    site = install(workplace)
    spec = write_spec(workplace, change=('method = "wanda"', 'method = "random_prune"'))
    spec.write_text(spec.read_text().replace('name = "small"', 'name = "small"\nseeds = [0, 1]'))
    ended = studyctl(site, "run", str(spec), "--set", "evaluation.perplexity.languages=['en']")
    assert ended.returncode == 0, ended.stderr
    query = "select seed, sparsity, weights_hash from trials join steps using (trial_id) where kind = 'compress' and trials.method = 'random_prune' order by 1"
    rows = json.loads(studyctl(site, "sql", "small", query, "--format", "json").stdout)
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.03) for row in rows)
    assert rows[0]["weights_hash"] != rows[1]["weights_hash"]
    again = studyctl(site, "run", str(spec), "--set", "evaluation.perplexity.languages=['en']")
    assert "nothing to do" in again.stderr


def test_the_schema_for_editors_has_the_method(workplace: Path) -> None:
    schema = json.loads(studyctl(install(workplace), "schema").stdout)
    spec = MINIMAL + '[[compression]]\nmethod = "random_prune"\n'
    assert refused(f"{spec}sparsity = [0.3, 0.5]\n", schema) == []
    assert [place for place, _ in refused(f"{spec}sparsity = 2\n", schema)] == ["compression[0].sparsity"]
    assert [place for place, _ in refused(f"{spec}bits = 4\n", schema)] == ["compression[0].bits"]


def test_the_schema_takes_options_of_any_type(workplace: Path) -> None:
    """Of a package, without descriptions: a union of numbers stays one, and gives a message for each of its types."""
    options = (
        "strength: int | float = 1.0\n    mode: Literal['all'] | float = 'all'\n    anything: object = None"
    )
    line = 'method: Literal["random_prune"] = "random_prune"'
    settings = SETTINGS.replace(line, f"{line}\n    {options}")
    assert settings != SETTINGS
    schema = json.loads(studyctl(install(workplace, settings=settings), "schema").stdout)
    spec = MINIMAL + '[[compression]]\nmethod = "random_prune"\nsparsity = 0.5\n'
    for right in ("strength = [1, 0.5]", "strength = 2", 'mode = ["all", 0.5]', "mode = 1", "anything = 'x'"):
        assert refused(f"{spec}{right}\n", schema) == [], right
    for wrong in ("strength = 'x'", "mode = 'none'"):
        assert {place for place, _ in refused(f"{spec}{wrong}\n", schema)} == {
            f"compression[0].{wrong.split()[0]}"
        }


@pytest.mark.parametrize(
    ("entry", "settings", "error"),
    [
        ("random_prune = my_package.settings:METHOD", "import nothing_like_it", "cannot be imported: No module named"),
        ("random_prune = my_package.settings:METHOD", "METHOD = 1", "is no studyctl.contract.methods.Method"),
        ("wanda = my_package.settings:METHOD", SETTINGS, "has a method `wanda`, and there is one already"),
    ],
)  # fmt: skip
def test_a_package_that_is_broken_is_named(workplace: Path, entry: str, settings: str, error: str) -> None:
    ended = studyctl(install(workplace, entry, settings), "validate", str(write_spec(workplace)))
    assert ended.returncode == 1
    assert error in ended.stderr
    assert "my-package" in ended.stderr
    assert "Traceback" not in ended.stderr
