"""``studyctl backends`` as a user meets it; no environment is really made."""

import json
import os
from pathlib import Path

import pytest

from studyctl.backends.catalog import BACKENDS, GPU_SIZE_BYTES
from tests.backends.fakes import FakeUv, make_environment
from tests.test_cli import studyctl

COLUMNS = 80


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an environment of each state."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STUDYCTL_CACHE", str(folder))
    make_environment("gptqmodel")
    about = make_environment("llm-compressor").parent / "synced.json"
    about.write_text(json.dumps({"pins": "of another studyctl", "bytes": 1 << 30}))
    (folder / "backends" / "auto-gptq").mkdir()
    return folder


@pytest.mark.usefixtures("cache")
class TestTheList:
    def test_says_what_each_can_do_and_whether_it_is_there(self, tmp_path: Path) -> None:
        output = studyctl("backends", cwd=tmp_path, COLUMNS="")
        assert output.returncode == 0
        lines = {line.split()[0]: line.rstrip() for line in output.stdout.splitlines()}
        for name, version, methods, devices, state in (
            ("autoawq", "0.2.9", "awq", "cpu, cuda", "○ not synced"),
            ("auto-gptq", "0.7.1", "gptq", "cuda", "◐ unfinished"),
            ("gptqmodel", "7.6.0", "gptq, rtn", "cpu, cuda", "● synced"),
            (
                "llm-compressor",
                "0.14.0.1",
                "gptq, rtn, awq (cuda), sparsegpt, wanda",
                "cpu, cuda",
                "◐ outdated",
            ),
        ):
            told = [cell.strip() for cell in lines[name].split("  ") if cell.strip()]
            assert told[:5] == [name, version, methods, devices, state]
        assert lines["autoawq"].endswith("~2.4 GiB"), "what it would take"
        assert lines["gptqmodel"].endswith(" 1.2 KiB"), "what it takes"
        assert "`studyctl backends sync [NAME]...` makes what is not synced" in output.stdout
        assert "each takes 5.0 GiB" in output.stdout
        assert output.stderr == ""

    def test_fits_into_a_terminal(self, tmp_path: Path) -> None:
        output = studyctl("backends", cwd=tmp_path, COLUMNS=str(COLUMNS)).stdout
        assert max(map(len, output.splitlines())) <= COLUMNS
        assert "…" not in output
        for name, backend in BACKENDS.items():
            assert name in output
            for method in backend.abilities:
                assert method in output

    def test_is_there_for_scripts(self, tmp_path: Path, cache: Path) -> None:
        found = {
            row["backend"]: row for row in json.loads(studyctl("backends", "--json", cwd=tmp_path).stdout)
        }
        assert found.keys() == BACKENDS.keys()
        assert found["gptqmodel"] == {
            "backend": "gptqmodel",
            "package": "gptqmodel",
            "version": "7.6.0",
            "methods": {"gptq": ["cpu", "cuda"], "rtn": ["cpu", "cuda"]},
            "state": "synced",
            "folder": str(cache / "backends" / "gptqmodel"),
            "size_bytes": 1234,
            "expected_size_bytes": BACKENDS["gptqmodel"].size_bytes,
            "expected_size_bytes_with_gpu": GPU_SIZE_BYTES,
        }
        assert {name: row["state"] for name, row in found.items()} == {
            "autoawq": "missing",
            "auto-gptq": "unfinished",
            "gptqmodel": "synced",
            "llm-compressor": "outdated",
        }
        assert found["llm-compressor"]["methods"]["awq"] == ["cuda"]
        assert found["autoawq"]["size_bytes"] is None


@pytest.mark.parametrize("command", ["sync", "remove"])
def test_an_unknown_name_is_told_before_anything_is_done(tmp_path: Path, cache: Path, command: str) -> None:
    output = studyctl("backends", command, "gptqmodel", "autogptq", cwd=tmp_path)
    assert output.returncode == 1
    assert output.stdout == ""
    assert "error: there is no backend `autogptq`: did you mean `auto-gptq`?" in output.stderr
    assert "hint: there are autoawq, auto-gptq, gptqmodel, llm-compressor" in output.stderr
    assert (cache / "backends" / "gptqmodel" / "synced.json").exists()


class TestSync:
    def test_has_nothing_to_do_where_all_is_there(self, tmp_path: Path, cache: Path) -> None:
        output = studyctl("backends", "sync", "gptqmodel", cwd=tmp_path)
        assert (output.returncode, output.stdout, output.stderr) == (0, "", "gptqmodel: synced already\n")

    def test_tries_every_one_and_tells_all_that_failed(self, tmp_path: Path, cache: Path) -> None:
        uv = FakeUv(tmp_path / "path")
        uv.order(fail="pip", say="error: no network")
        path = f"{uv.folder}{os.pathsep}{os.environ['PATH']}"
        output = studyctl("backends", "sync", "autoawq", "gptqmodel", "auto-gptq", cwd=tmp_path, PATH=path)
        assert output.returncode == 1
        assert output.stdout == ""
        assert "autoawq: making the environment with uv\n" in output.stderr
        assert "gptqmodel: synced already\n" in output.stderr
        for name in ("autoawq", "auto-gptq"):
            assert f"error: {name} could not be installed: error: no network" in output.stderr
            assert f"`studyctl backends sync {name}` begins again" in output.stderr
        assert "Traceback" not in output.stderr


class TestRemove:
    def test_says_what_it_did(self, tmp_path: Path, cache: Path) -> None:
        output = studyctl("backends", "remove", "gptqmodel", "autoawq", cwd=tmp_path)
        assert output.returncode == 0
        assert output.stderr == "gptqmodel: removed\nautoawq: there was nothing to remove\n"
        assert not (cache / "backends" / "gptqmodel").exists()

    def test_wants_a_name(self, tmp_path: Path, cache: Path) -> None:
        output = studyctl("backends", "remove", cwd=tmp_path)
        assert output.returncode == 2
        assert (cache / "backends" / "gptqmodel").exists()


def test_listing_and_syncing_need_no_torch(tmp_path: Path, cache: Path) -> None:
    from tests.test_cli import test_nothing_heavy_is_imported_before_a_worker_runs as check

    check(tmp_path, ["backends"])
    check(tmp_path, ["backends", "sync", "gptqmodel"])
