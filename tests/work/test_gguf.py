"""A study of variants in llama.cpp's blocks: their embedding is restored between variants, kept, and taken up again."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.llama import FOLDER, find_llama
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from tests.run.studies import write_spec
from tests.run.test_converge import rows, run

BLOCKS = (
    '[[compression]]\nmethod = "wanda"\nsparsity = 0.5\n',
    '[[compression]]\nmethod = "gptq"\ngrid = ["gguf:Q4_0", "gguf:Q4_K_M"]\n',
)
HASH = "select weights_hash from steps where variant = '{}' and step = 'compress'"


def test_a_variant_after_another_gets_the_weights_that_it_gets_alone(
    workplace: Path, console: Console
) -> None:
    alone = shutil.copytree(workplace, workplace / "alone", ignore=shutil.ignore_patterns("alone"))
    both = run(write_spec(workplace, change=BLOCKS), console)
    assert both.code == ExitCode.DONE
    for variant in (
        "gptq-Q4_K_M",
        "rtn-4bit-g16",
    ):  # the one changes the embedding, the other must have the dense one
        spec = write_spec(alone, change=BLOCKS)
        only = run_study(
            spec, Selection(only=(f"tiny-{variant}",)), console, root=StudyPaths(alone / "runs" / variant)
        )
        for query in (
            HASH.format(variant),
            f"select language, perplexity from perplexity where variant = '{variant}'",
        ):
            assert rows(both.paths, query) == rows(only.paths, query)


def test_a_step_that_is_added_is_measured_on_the_kept_embedding(workplace: Path, console: Console) -> None:
    spec = write_spec(workplace, change=BLOCKS)
    full = spec.read_text()
    whole = run_study(spec, Selection(), console, root=StudyPaths(workplace / "whole"))
    spec.write_text(full.replace('"en", "de"', '"en"'))
    assert run(spec, console).code == ExitCode.DONE
    spec.write_text(full)
    later = run(spec, console)
    query = "select variant, language, kl_nats from fidelity where variant like 'gptq-%' order by all"
    assert rows(later.paths, query) == rows(whole.paths, query)
    compressed = "select sum(attempts) as attempts from trials where variant = 'gptq-Q4_0'"
    assert rows(later.paths, compressed) == [{"attempts": 2}]
    assert len(rows(later.paths, "from warnings")) == len(rows(whole.paths, "from warnings"))


class TestLlamaCpp:
    VARIANT = ('method = "wanda"\nsparsity = 0.5', 'method = "gguf"\ntype = "Q4_0"\nimatrix = "calibration"')

    def test_its_variants_are_measured_like_any_other(self, workplace: Path, console: Console) -> None:
        if find_llama() is None:
            pytest.skip(f"llama.cpp is not here; {FOLDER} names its folder")
        started = run(write_spec(workplace, change=self.VARIANT), console)
        assert started.code == ExitCode.DONE
        (row,) = rows(
            started.paths, "select bits_per_weight, method from trials where variant = 'gguf-Q4_0-imatrix'"
        )
        assert row == {"bits_per_weight": 4.5, "method": "gguf"}

    def test_without_the_library_they_are_left_out(
        self, workplace: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(FOLDER, raising=False)
        if find_llama() is not None:
            pytest.skip("llama_cpp is installed")
        started = run(write_spec(workplace, change=self.VARIANT), console)
        assert rows(started.paths, "select variant from trials where state = 'done' order by all") == [
            {"variant": "dense"},
            {"variant": "rtn-4bit-g16"},
        ]

    def test_another_build_than_the_plans_is_refused(
        self, workplace: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if find_llama() is None:
            pytest.skip(f"llama.cpp is not here; {FOLDER} names its folder")
        monkeypatch.setattr("studyctl.run.jobs.llama_build", lambda: "another")
        started = run(write_spec(workplace, change=self.VARIANT), console)
        (row,) = rows(started.paths, "select error from trials where variant = 'gguf-Q4_0-imatrix'")
        assert "another one here than where the study was planned" in str(row["error"])
