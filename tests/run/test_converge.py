"""``studyctl run`` brings the stored results up to date, and does nothing else."""

from pathlib import Path

from rich.console import Console

from studyctl.contract.records import StepFinished
from studyctl.contract.steps import StepKind
from studyctl.errors import ExitCode
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.plan.estimate import peak_bytes
from studyctl.plan.planner import make_plan
from studyctl.run.selection import Selection
from studyctl.run.start import Started, run_study
from studyctl.spec.loading import load_spec
from studyctl.store.query import run_sql
from tests.run.studies import make_model, write_spec

EVERYTHING = Selection()


def rows(paths: StudyPaths, query: str) -> list[dict[str, object]]:
    result: list[dict[str, object]] = run_sql(paths, query).to_pylist()
    return result


def finished(paths: StudyPaths) -> list[str]:
    """Return ``trial step`` of every step that was ever finished, but ``load``."""
    records = [record for path in sorted(paths.journal.glob("*.jsonl")) for record in read_journal(path)]
    return [
        f"{one.trial} {one.step}"
        for one in records
        if isinstance(one, StepFinished) and one.step.kind is not StepKind.LOAD
    ]


def run(spec: Path, console: Console, selection: Selection = EVERYTHING) -> Started:
    return run_study(spec, selection, console)


def check_memory(paths: StudyPaths, spec: Path) -> None:
    """The estimate is an upper bound of what each trial used, and not more than twice that."""
    plan = make_plan(load_spec(spec))
    bounds = {trial.id: peak_bytes(plan, trial)[0] for trial in plan.trials}
    used = run_sql(paths, "select trial_id, peak_memory_bytes from trials").to_pylist()
    assert {row["trial_id"] for row in used} == bounds.keys()
    for row in used:
        bound = bounds[row["trial_id"]]
        assert bound / 2 <= row["peak_memory_bytes"] <= bound, row["trial_id"]


def test_a_study_is_brought_up_to_date_step_by_step(workplace: Path, console: Console) -> None:
    first = run(write_spec(workplace), console)
    paths = first.paths
    assert first.code == ExitCode.DONE
    assert rows(paths, "select variant, state from trials order by variant") == [
        {"variant": "dense", "state": "done"},
        {"variant": "rtn-4bit-g16", "state": "done"},
        {"variant": "wanda-0.5", "state": "done"},
    ]
    assert len(finished(paths)) == 3 * 3 + 2  # three evaluations each, and two compressions
    assert rows(paths, "select count(*) as n from items") == [{"n": 3 * 12}]
    check_memory(paths, workplace / "small.toml")
    assert not list((paths.cache / "weights").glob("*")), "weights of trials that are done are kept elsewhere"

    # Again: nothing is done.
    again = run(write_spec(workplace), console)
    assert again.code == ExitCode.DONE
    assert again.outcome is not None
    assert again.outcome.attempts == 0

    # A language more: that language only, on the weights that were kept.
    before = finished(paths)
    run(write_spec(workplace, change=('["en", "de"]', '["en", "de", "sw"]')), console)
    new = finished(paths)[:]
    for step in before:
        new.remove(step)
    assert sorted(new) == [
        "tiny-dense perplexity:sw",
        "tiny-rtn-4bit-g16 perplexity:sw",
        "tiny-wanda-0.5 perplexity:sw",
    ]
    assert rows(paths, "select count(*) as n from perplexity") == [{"n": 9}]

    # Other calibration: what depends on it, all of that, nothing else.
    before = finished(paths)
    run(write_spec(workplace, change=("samples = 4", "samples = 5")), console)
    assert {step.split()[0] for step in finished(paths)[len(before) :]} <= {
        "tiny-wanda-0.5",
        "tiny-rtn-4bit-g16",
        "tiny-dense",
    }
    new = finished(paths)[:]
    for step in before:
        new.remove(step)
    assert sorted(new) == [
        f"tiny-wanda-0.5 {step}" for step in ("compress", "perplexity:de", "perplexity:en", "task:boats")
    ]
    # The tables show what the spec asks for now.
    assert rows(paths, "select count(*) as n from perplexity") == [{"n": 6}]


def test_a_broken_model_does_not_stop_the_others(workplace: Path, console: Console) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = make_model(workplace / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    both = '[[models]]\nid = "./broken"\ndtype = "float32"\n\n[[models]]\nid = "./tiny"'
    started = run(write_spec(workplace, change=('[[models]]\nid = "./tiny"', both)), console)
    assert started.code == ExitCode.FAILED
    states = rows(started.paths, "select distinct model, state from trials order by model")
    assert states == [{"model": "./broken", "state": "failed"}, {"model": "./tiny", "state": "done"}]
    errors = rows(started.paths, "select error from trials where model = './broken'")
    assert all("model.layers.0.mlp.up_proj.weight" in str(row["error"]) for row in errors)
    assert "up_proj" in console.file.getvalue()  # type: ignore[attr-defined]


def test_only_a_part_can_be_run(workplace: Path, console: Console) -> None:
    started = run(write_spec(workplace), console, Selection(only=("rtn*",)))
    assert started.code == ExitCode.DONE
    states = rows(started.paths, "select variant, state from trials order by variant")
    assert {row["variant"]: row["state"] for row in states} == {
        "dense": "pending",
        "rtn-4bit-g16": "done",
        "wanda-0.5": "pending",
    }
    # Fidelity needs the dense model's hidden states, whether its trial was asked for or not.
    assert rows(started.paths, "select count(*) as n from fidelity") == [{"n": 2}]


def test_only_several_parts_can_be_run(workplace: Path, console: Console) -> None:
    started = run(write_spec(workplace), console, Selection(only=("dense", "rtn*")))
    states = rows(started.paths, "select variant from trials where state = 'done' order by variant")
    assert [row["variant"] for row in states] == ["dense", "rtn-4bit-g16"]


def test_a_damaged_dense_reference_is_made_again(workplace: Path, console: Console) -> None:
    paths = run(write_spec(workplace), console, Selection(only=("dense",))).paths
    (reference, *_) = sorted((paths.cache / "dense").glob("*.safetensors"))
    data = bytearray(reference.read_bytes())
    data[-20] ^= 0xFF
    reference.write_bytes(data)
    run(write_spec(workplace), console)
    kl = rows(paths, "select min(kl_nats) as least, max(kl_nats) as most from fidelity")
    assert 0 < float(str(kl[0]["least"])) <= float(str(kl[0]["most"])) < 1


def test_what_is_not_available_here_is_said_and_the_rest_runs(workplace: Path, console: Console) -> None:
    more = '[[compression]]\nmethod = "sparsegpt"\nbackend = "llm-compressor"\nsparsity = 0.5\n\n[text.mine]'
    started = run(write_spec(workplace, change=("[text.mine]", more)), console, Selection(only=("*0.5*",)))
    assert started.code == ExitCode.FAILED
    assert "1 not available here" in started.message
    assert rows(started.paths, "select variant from trials where state = 'done'") == [
        {"variant": "wanda-0.5"}
    ]
