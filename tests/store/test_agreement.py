"""The view `agreement`: what several backends made of the same setting, held against ours."""

from pathlib import Path
from typing import Any

import pytest

from studyctl.store import results
from studyctl.store.comparison import Agreement
from studyctl.store.publish import publish
from tests.store import builder
from tests.store.builder import BACKENDS, FakeBackend, FakeStudy

RTN = "rtn-4bit-g64"
VARIANTS = ("dense", "wanda-0.5", f"{RTN}@gptqmodel", RTN, f"{RTN}@llm-compressor")


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return FakeStudy(tmp_path / "small", models=("org/alpha",), variants=VARIANTS)


def rows_of(study: FakeStudy, model: str | None = None) -> list[Agreement]:
    publish(study.paths)
    with results.open(study.paths) as published:
        return published.agreement(model)


def by_backend(study: FakeStudy) -> dict[str, Agreement]:
    return {row.backend: row for row in rows_of(study)}


def measure(study: FakeStudy, *variants: str) -> None:
    study.write_plan()
    for variant in variants:
        study.attempt(f"alpha.{variant}").run_all()


def test_each_backend_of_a_setting_is_a_row_ours_first(study: FakeStudy) -> None:
    rows = rows_of(study.write_all())
    assert [(row.setting, row.backend, row.backend_version, row.variant, row.trial_id) for row in rows] == [
        (RTN, "studyctl", "0.1.0", RTN, f"alpha.{RTN}"),
        (RTN, "gptqmodel", "4.0.0", f"{RTN}@gptqmodel", f"alpha.{RTN}@gptqmodel"),
        (RTN, "llm-compressor", "0.8.1", f"{RTN}@llm-compressor", f"alpha.{RTN}@llm-compressor"),
    ]


def test_ratios_are_held_against_ours(study: FakeStudy) -> None:
    rows = by_backend(study.write_all())
    ours, theirs = rows["studyctl"], rows["gptqmodel"]
    assert (ours.kl_ratio, ours.speedup, ours.memory_ratio) == (1.0, 1.0, 1.0)
    assert (theirs.kl_nats, theirs.compress_seconds) == (pytest.approx(0.125), 6.0)
    assert theirs.kl_ratio == pytest.approx(1 / 1.25)  # ours is nearer to dense
    assert theirs.speedup == 3.0  # ours is faster
    assert theirs.memory_ratio == 0.5  # ours needs half of it
    other = rows["llm-compressor"]
    assert (other.kl_ratio, other.speedup, other.memory_ratio) == (
        pytest.approx(1.25),
        1.5,
        pytest.approx(2.0),
    )


def test_figures_are_those_of_the_leaderboard_and_of_the_compress_step(study: FakeStudy) -> None:
    rows = by_backend(study.write_all())
    with results.open(study.paths) as published:
        standings = {row.trial_id: row for row in published.leaderboard()}
        peaks = {
            row.trial_id: step.peak_memory_bytes
            for row in rows.values()
            for step in published.steps(row.trial_id)
            if step.kind == "compress"
        }
    shared = (
        "kl_nats", "ppl_ratio", "acc_change", "bits_per_weight", "sparsity", "compress_seconds", "seed", "state", "method",
    )  # fmt: skip
    for row in rows.values():
        standing = standings[row.trial_id]
        assert [getattr(row, name) for name in shared] == [getattr(standing, name) for name in shared]
        assert row.peak_memory_bytes == peaks[row.trial_id]
    assert rows["llm-compressor"].peak_memory_bytes == 504
    assert standings[rows["llm-compressor"].trial_id].peak_memory_bytes == 1013  # of an evaluation


def test_a_setting_of_one_backend_has_no_rows(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "one", variants=("dense", "wanda-0.5", f"{RTN}@gptqmodel")).write_all()
    assert rows_of(study) == []


def test_models_are_apart(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "two", variants=VARIANTS)
    gone = (f"beta.{RTN}", f"beta.{RTN}@gptqmodel")
    study.write_plan(trials=[one for one in study.trials() if one["trial"] not in gone])
    assert {row.model for row in rows_of(study)} == {"org/alpha"}
    assert rows_of(study, "org/beta") == []
    study.write_plan()
    assert [row.backend for row in rows_of(study, "org/beta")] == ["studyctl", "gptqmodel", "llm-compressor"]


def test_without_ours_there_are_figures_and_no_ratios(study: FakeStudy) -> None:
    trials = [one for one in study.trials() if one["variant"] != RTN]
    measure(study, "dense", f"{RTN}@gptqmodel", f"{RTN}@llm-compressor")
    study.write_plan(trials=trials)
    rows = rows_of(study)
    assert [row.backend for row in rows] == ["gptqmodel", "llm-compressor"]
    assert all(row.kl_nats and row.compress_seconds and row.peak_memory_bytes for row in rows)
    assert {(row.kl_ratio, row.speedup, row.memory_ratio) for row in rows} == {(None, None, None)}


def test_what_is_not_measured_yet_has_no_figures_and_no_ratios(study: FakeStudy) -> None:
    measure(study, "dense", f"{RTN}@gptqmodel")
    rows = by_backend(study)
    assert rows["studyctl"].state == "pending"
    assert not rows["studyctl"].measured
    assert rows["gptqmodel"].measured
    assert (rows["gptqmodel"].kl_ratio, rows["gptqmodel"].speedup) == (None, None)
    assert rows["studyctl"].backend_version is None
    assert rows["studyctl"].maker == "studyctl"
    assert rows["gptqmodel"].maker == "gptqmodel 4.0.0"


def test_kl_is_compared_over_the_same_languages_only(study: FakeStudy) -> None:
    measure(study, "dense", RTN)
    theirs = study.attempt(f"alpha.{RTN}@gptqmodel")
    theirs.run_all("load", "compress", "perplexity:en", "perplexity:sw")
    row = by_backend(study)["gptqmodel"]
    assert row.kl_nats == pytest.approx(0.125)
    assert row.kl_ratio is None
    assert row.speedup == 3.0  # this part of it is finished


@pytest.mark.parametrize("zero", ["kl", "seconds", "memory"])
def test_nothing_is_divided_by_zero(study: FakeStudy, monkeypatch: pytest.MonkeyPatch, zero: str) -> None:
    monkeypatch.setitem(BACKENDS, "gptqmodel", FakeBackend("4.0.0", **{zero: 0.0}))
    monkeypatch.setitem(BACKENDS, "studyctl", FakeBackend("0.1.0", **{zero: 0.0}))
    rows = by_backend(study.write_all())
    ratio = {"kl": "kl_ratio", "seconds": "speedup", "memory": "memory_ratio"}[zero]
    assert getattr(rows["gptqmodel"], ratio) is None
    assert getattr(rows["studyctl"], ratio) is None
    others = {"kl_ratio", "speedup", "memory_ratio"} - {ratio}
    assert [getattr(rows["gptqmodel"], name) for name in others] == [1.0, 1.0]


def test_equal_seeds_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seeds(FakeStudy):
        def trials(self) -> list[dict[str, Any]]:
            return [
                one | {"trial": f"{one['trial']}-s{seed}", "seed": seed, "weights_key": f"{one['weights_key']}-s{seed}"}
                for one in super().trials()
                for seed in (0, 1)
            ]  # fmt: skip

    study = Seeds(
        tmp_path / "seeds", models=("org/alpha",), variants=("wanda-0.5", "wanda-0.5@llm-compressor")
    )
    study.write_plan()
    for seed, kl in ((0, 0.1), (1, 0.3)):
        monkeypatch.setattr(builder, "KL", kl)
        study.attempt(f"alpha.wanda-0.5-s{seed}").run_all()
        if seed == 1:
            monkeypatch.setitem(BACKENDS, "llm-compressor", FakeBackend("0.8.1", kl=2.0))
        study.attempt(f"alpha.wanda-0.5@llm-compressor-s{seed}").run_all()
    rows = rows_of(study)
    assert [(row.seed, row.backend) for row in rows] == [
        (0, "studyctl"), (0, "llm-compressor"), (1, "studyctl"), (1, "llm-compressor"),
    ]  # fmt: skip
    assert [row.kl_ratio for row in rows] == pytest.approx([1.0, 1 / 0.8, 1.0, 0.5])


def test_other_views_take_a_backend_for_one_more_variant(study: FakeStudy) -> None:
    publish(study.write_all().paths)
    with results.open(study.paths) as published:
        nearest = [(row.variant, row.trials) for row in published.ranks() if row.metric == "kl_nats_per_byte"]
        best = [row.variant for row in published.pareto() if row.measure == "ppl_ratio"]
        assert {row.variants for row in published.disagreement()} == {4}
    assert nearest[0] == (f"{RTN}@llm-compressor", 4)
    assert nearest[-1] == (f"{RTN}@gptqmodel", 4)
    assert set(best) == {"dense", RTN, f"{RTN}@gptqmodel", f"{RTN}@llm-compressor"}
