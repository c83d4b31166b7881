"""Specs that build on others, and the one text that is stored of them."""

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import Problem, SpecError
from studyctl.spec.extends import merge, merged_text, move_paths, read_layers
from studyctl.spec.loading import load_spec, parse_spec, self_contained

from .specs import FULL, document

BASE = """\
# what all of our studies share
[study]
name = "base"
title = "Shared"

[[models]]
id = "models/tiny"     # a folder

[calibration]
source = "mine"
samples = 16           # few

[text.mine]
files = { calibration = "corpus/{language}.txt", perplexity = "corpus/{language}.txt" }

[evaluation.tasks]
names = ["rte"]
data = { rte = "rte.jsonl" }
include = ["pocket", "tasks"]
"""

CHILD = """\
# our study
[study]
name = "child"
extends = "base.toml"   # shared

[calibration]
languages = ["sw"]     # Swahili

[[compression]]
method = "wanda"
sparsity = 0.5
"""


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def failures(path: Path) -> list[Problem]:
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return caught.value.problems


def test_tables_are_merged_and_values_replaced(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, child=CHILD)
    spec = load_spec(tmp_path / "child.toml").spec
    assert (spec.study.name, spec.study.title, spec.study.extends) == ("child", "Shared", None)
    assert (spec.calibration.source, spec.calibration.samples, spec.calibration.languages) == (
        "mine",
        16,
        ("sw",),
    )
    assert [model.id for model in spec.models] == ["models/tiny"]


def test_a_chain(tmp_path: Path) -> None:
    middle = '[study]\nextends = "base.toml"\n[calibration]\nsamples = 32\n'
    write(tmp_path, base=BASE, middle=middle, child=CHILD.replace("base.toml", "middle.toml"))
    assert load_spec(tmp_path / "child.toml").spec.calibration.samples == 32


def test_problems_point_into_the_file_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, base=BASE.replace("= 16 ", "= 0 "), child=CHILD.replace("0.5", "5"))
    places = [(problem.file, problem.line, problem.what) for problem in failures(tmp_path / "child.toml")]
    assert places == [
        (tmp_path / "child.toml", 11, "`sparsity` must be at least 0 and less than 1, not 5"),
        (tmp_path / "base.toml", 11, "`samples` must be at least 1 and at most 100000, not 0"),
    ]


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, basis=BASE, child=CHILD)
    (problem,) = failures(tmp_path / "child.toml")
    assert (problem.file, problem.line, problem.column, problem.length) == (
        tmp_path / "child.toml",
        4,
        11,
        11,
    )
    assert problem.what.startswith("there is no spec")
    write(tmp_path, child=CHILD.replace("base.toml", "bassis.toml"))
    assert failures(tmp_path / "child.toml")[0].hint == "did you mean `basis.toml`?"


def test_a_base_that_is_no_toml(tmp_path: Path) -> None:
    write(tmp_path, base="[study]\nname = \n", child=CHILD)
    (problem,) = failures(tmp_path / "child.toml")
    assert (problem.file, problem.line) == (tmp_path / "base.toml", 2)


@pytest.mark.parametrize("base", ['[study]\nextends = "child.toml"\n', '[study]\nextends = "base.toml"\n'])
def test_a_cycle(tmp_path: Path, base: str) -> None:
    write(tmp_path, base=base, child=CHILD)
    (problem,) = failures(tmp_path / "child.toml")
    assert problem.what.startswith("the spec extends itself: `child.toml` → `base.toml` →")
    assert (problem.file, problem.line) == (tmp_path / "base.toml", 2)


def test_paths_start_at_the_file_that_they_are_written_in(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    write(tmp_path, base=BASE)
    write(tmp_path / "studies", child=CHILD.replace("base.toml", "../base.toml"))
    spec = load_spec(tmp_path / "studies" / "child.toml").spec
    assert spec.models[0].id == "../models/tiny"
    assert spec.text["mine"].files == {
        name: "../corpus/{language}.txt" for name in ("calibration", "perplexity")
    }
    assert spec.evaluation.tasks is not None
    assert spec.evaluation.tasks.data == {"rte": "../rte.jsonl"}
    assert spec.evaluation.tasks.include == ("pocket", "../tasks")


def test_the_name_of_a_field_is_no_path() -> None:
    data: dict[str, Any] = {
        "text": {"x": {"files": {"perplexity": {"ar": "a.txt", "de": {"file": "b.jsonl", "field": "body"}}}}},
        "evaluation": {"tasks": {"data": {"rte": {"test": "t.jsonl", "fewshot": "f.jsonl"}}}},
    }
    move_paths(data, Path("/here"), Path("/here/below"))
    assert data["text"]["x"]["files"]["perplexity"] == {
        "ar": "../a.txt", "de": {"file": "../b.jsonl", "field": "body"},
    }  # fmt: skip
    assert data["evaluation"]["tasks"]["data"]["rte"] == {"test": "../t.jsonl", "fewshot": "../f.jsonl"}


def test_hub_ids_and_absolute_paths_stay(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "models": [{"id": "Qwen/Qwen2.5-0.5B"}],
        "calibration": {"ids": "/data/a.npy"},
        "compression": [{"method": "wanda", "calibration": [{"ids": "b.npy"}]}],
    }
    move_paths(data, tmp_path, tmp_path / "below")
    assert data["models"] == [{"id": "Qwen/Qwen2.5-0.5B"}]
    assert data["calibration"] == {"ids": "/data/a.npy"}
    assert data["compression"][0]["calibration"] == [{"ids": "../b.npy"}]


def test_a_stored_spec_is_the_text_itself_with_its_folder() -> None:
    doc = document(FULL, "/data/studies/full.toml")
    stored = self_contained(doc)
    assert stored == f'# studyctl: relative paths start at "/data/studies"\n{FULL}'
    again = parse_spec(stored, Path("/elsewhere/spec.toml"))
    assert (again.spec, again.base) == (doc.spec, doc.base)
    assert self_contained(again) == stored


def test_folders_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted"\nnew line é'
    write(folder, full=FULL)
    doc = load_spec(folder / "full.toml")
    assert parse_spec(self_contained(doc), tmp_path / "x.toml").base == folder


def test_a_stored_spec_needs_no_base(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, child=CHILD)
    doc = load_spec(tmp_path / "child.toml")
    (tmp_path / "base.toml").unlink()
    stored = self_contained(doc)
    again = parse_spec(stored, tmp_path / "elsewhere" / "spec.toml")
    assert (again.spec, again.base) == (doc.spec, doc.base)
    for comment in ("# our study", "# Swahili", "# few", "# a folder"):
        assert comment in stored
    assert stored.index("[study]") < stored.index("[calibration]") < stored.index("[[compression]]")


KEYS = st.sampled_from(["a", "b", "c d", "é"])
VALUES = st.recursive(
    st.integers(0, 9) | st.booleans() | st.text("x\"'\n#é", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(st.sampled_from(["models", "text", "a", "b"]), VALUES, max_size=3)


@given(TABLES, TABLES)
def test_the_merged_text_holds_the_merged_data(base: dict[str, Any], over: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base.toml").write_text(tomlkit.dumps({**base, "study": {"name": "base", "title": "T"}}))
        child = {**over, "study": {"name": "child", "extends": "base.toml"}}
        layers = read_layers(folder / "child.toml", tomlkit.dumps(child))
    expected = merge({**base, "study": {"name": "base", "title": "T"}}, {**over, "study": {"name": "child"}})
    assert layers.data == expected
    assert tomlkit.parse(merged_text(layers)).unwrap() == expected


@pytest.mark.parametrize(
    ("base", "over"),
    [
        ("[a]\nx = 1\n[a.b]\ny = 2\n", "[a.b]\nz = 3\n"),
        ("a.b.y = 2\n", "[a.b]\nz = 3\n"),
        ("[a.b]\ny = 2\n", "a.b.z = 3\n"),
        ("a = { b = { y = 2 } }\n", "[a.b]\nz = 3\n"),
        ("[a.b]\ny = 2\n[a.c]\nz = 1\n", "a = { b = { z = 3 } }\n"),
        ("[[m]]\nx = 1\n[[m]]\nx = 2\n", "[a]\nb = 1\n[[n]]\ny = 1\n"),
        ("[a]\nx = 1\n[b]\ny = 1\n[a.c]\nz = 1\n", "[a.c]\nw = 1\n[b]\nv = 2\n[a]\nu = 1\n"),
    ],
)
def test_every_way_to_write_a_table(tmp_path: Path, base: str, over: str) -> None:
    study = '[study]\nextends = "base.toml"\n'
    (tmp_path / "base.toml").write_text(base)
    layers = read_layers(tmp_path / "child.toml", over + study)
    assert tomlkit.parse(merged_text(layers)).unwrap() == layers.data


def test_a_first_line_that_names_no_folder_is_a_problem_there() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f'# studyctl: relative paths start at "\\q"\n{FULL}', Path("mine.toml"))
    (problem,) = caught.value.problems
    assert (problem.what, problem.line) == ("the first line names no folder", 1)
