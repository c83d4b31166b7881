"""Which specs are offered to be started."""

from pathlib import Path

import pytest

from studyctl.spec import nearby
from studyctl.spec.nearby import specs_below

SPEC = '[study]\nname = "x"\n'


def write(path: Path, text: str = SPEC) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_specs_are_found_nearest_first_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDYCTL_RUNS", str(tmp_path / "runs"))
    write(tmp_path / "a" / "deep.toml")
    write(tmp_path / "z.toml", '# mine\nstudy.name = "z"\n')
    write(tmp_path / "b.toml", 'study = { name = "b" }\n')
    write(tmp_path / "pyproject.toml", '[project]\nname = "studying"\n')
    write(tmp_path / "runs" / "x" / "spec.toml")
    write(tmp_path / ".hidden" / "x.toml")
    write(tmp_path / "env" / "pyvenv.cfg", "")
    write(tmp_path / "env" / "x.toml")
    write(tmp_path / "1" / "2" / "3" / "4" / "5" / "x.toml")
    (tmp_path / "gone.toml").symlink_to(tmp_path / "nothing")
    assert specs_below(tmp_path) == [Path("b.toml"), Path("z.toml"), Path("a/deep.toml")]


def test_a_folder_of_thousands_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "MOST", 3)
    for number in range(5):
        write(tmp_path / f"{number}.toml")
    assert len(specs_below(tmp_path)) == 3
