"""``evaluation.fidelity.activations`` adds steps of its own, and nothing else changes."""

import math
from pathlib import Path

import pytest
from rich.console import Console
from transformers import MixtralConfig, MixtralForCausalLM

from studyctl.contract.steps import StepId, StepKind
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.plan.planner import make_plan
from studyctl.plan.preview import preview
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from tests.run.studies import SIZES, write_spec
from tests.run.test_converge import finished, rows, run

ASKED = ("[evaluation.fidelity]", "[evaluation.fidelity]\nactivations = true")
TRIALS = ("tiny-dense", "tiny-rtn-4bit-g16", "tiny-wanda-0.5")


def table(paths: StudyPaths, name: str = "activations") -> list[dict[str, object]]:
    return rows(paths, f"select * from {name} order by all")


def others(paths: StudyPaths) -> list[list[dict[str, object]]]:
    """Return the keys of all other steps, and their results."""
    query = "select trial_id, step, key, weights_hash from steps where kind not in ('activations', 'load') order by all"
    return [
        rows(paths, query),
        *(table(paths, name) for name in ("perplexity", "fidelity", "tasks", "layers")),
    ]


def test_added_to_a_finished_study_only_it_is_measured(
    workplace: Path, console: Console, tmp_path: Path
) -> None:
    paths = run(write_spec(workplace), console).paths
    before, results = finished(paths), others(paths)
    spec = write_spec(workplace, change=ASKED)
    (reason,) = {todo.reason for todo in preview(load_spec(spec)).comparison.todo}
    assert reason == "new activations:en, activations:de"
    assert run(spec, console).code == ExitCode.DONE
    new = finished(paths)
    for step in before:
        new.remove(step)
    assert sorted(new) == [f"{trial} activations:{language}" for trial in TRIALS for language in ("de", "en")]
    assert others(paths) == results

    # Two variants, two languages, two blocks; four windows of which 31 tokens are scored.
    measured = table(paths)
    assert len(measured) == 2 * 2 * 2
    for row in measured:
        signal, noise = float(str(row["signal"])), float(str(row["noise"]))
        assert row["snr_db"] == pytest.approx(10 * math.log10(signal / noise))
        assert row["relative_error"] == pytest.approx(math.sqrt(noise / signal))
        assert (row["tokens"], 0 < noise < signal) == (4 * 31, True)
    (mean, *_) = rows(paths, "select * from activation_snr where variant = 'wanda-0.5' and language = 'en'")
    of_blocks = [row for row in measured if (row["variant"], row["language"]) == ("wanda-0.5", "en")]
    assert mean["snr_db"] == pytest.approx(sum(float(str(row["snr_db"])) for row in of_blocks) / 2)
    assert (mean["blocks"], mean["worst_block"]) == (2, 1)

    # Nothing is left to do, and without the key nothing runs again.
    for again in (spec, write_spec(workplace)):
        outcome = run(again, console).outcome
        assert outcome is not None
        assert outcome.attempts == 0
    assert table(paths) == []
    assert others(paths) == results

    # A study that asked for it from the beginning has the same figures.
    spec = write_spec(workplace, change=ASKED)
    started = run_study(spec, Selection(), console, root=StudyPaths(tmp_path / "new"))
    assert table(started.paths) == measured


def test_a_lost_reference_is_made_again(workplace: Path, console: Console) -> None:
    spec = write_spec(workplace, change=ASKED)
    paths = run(spec, console, Selection(only=("dense", "rtn*"))).paths
    kept = sorted((paths.cache / "dense").glob("*.?.safetensors"))
    assert len(kept) == 2 * 4, "two languages, a file a window"
    kept[0].unlink()
    kept[5].write_bytes(b"torn")
    run(spec, console)
    assert sorted((paths.cache / "dense").glob("*.?.safetensors")) == kept
    assert rows(paths, "select count(*) as n from activations") == [{"n": 8}]


def test_no_more_than_the_first_eight_windows(workplace: Path) -> None:
    spec = write_spec(workplace, change=ASKED)
    for windows, asked in ((4, 4), (20, 8), (0, 8)):
        spec.write_text(spec.read_text().replace("windows = 4", f"windows = {windows}"))
        steps = make_plan(load_spec(spec)).models[0].steps
        spans = {step.windows for step in steps if step.kind is StepKind.ACTIVATIONS}
        assert spans == {(0, asked)}
        spec = write_spec(workplace, change=ASKED)


def test_more_windows_later_leave_it_alone(workplace: Path, console: Console) -> None:
    spec = write_spec(workplace, change=ASKED)
    text = spec.read_text()
    for windows in (8, 12):
        spec.write_text(text.replace("windows = 4", f"windows = {windows}"))
        paths = run(spec, console, Selection(only=("rtn*",))).paths
    steps = [step.split()[1] for step in finished(paths)]
    assert steps.count("perplexity:en") == 2
    assert steps.count("activations:en") == 1
    assert {row["tokens"] for row in table(paths)} == {8 * 31}


def test_an_estimate_includes_it(workplace: Path) -> None:
    without, asked = (
        preview(load_spec(write_spec(workplace, change=change))) for change in (("", ""), ASKED)
    )
    states = 2 * 4 * 32 * 32 * 4  # two languages, windows, tokens, channels, float32
    # The logits' references hold one state a token, the activations' one for each of the two blocks.
    assert asked.estimate.disk_bytes - without.estimate.disk_bytes == 2 * states
    assert asked.estimate.seconds > without.estimate.seconds
    assert {StepId(StepKind.ACTIVATIONS, "en"), StepId(StepKind.ACTIVATIONS, "de")} <= {
        step.id for todo in asked.comparison.todo for step in todo.steps
    }


def test_experts(workplace: Path, console: Console) -> None:
    config = MixtralConfig(**SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8})
    MixtralForCausalLM(config).save_pretrained(workplace / "tiny")
    paths = run(write_spec(workplace, change=ASKED), console, Selection(only=("rtn*",))).paths
    assert [row["block"] for row in table(paths)] == [0, 1] * 2
    assert all(0 < float(str(row["relative_error"])) < 1 for row in table(paths))
