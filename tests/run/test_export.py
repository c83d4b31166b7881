"""``studyctl export`` and ``keep_weights``: folders that load, and errors that say what to do."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from studyctl.contract.exports import Embeddings, ExportFormat
from studyctl.contract.plan import read_plan
from studyctl.contract.records import StepFailed, StepFinished
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import ExitCode, SpecError, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.index import read_stored
from studyctl.plan.compare import compare
from studyctl.plan.planner import make_plan
from studyctl.reporter import SilentReporter
from studyctl.run.cleaning import clean
from studyctl.run.export import _make_job, export_trial
from studyctl.run.hold import hold, write_heartbeat
from studyctl.run.selection import Selection
from studyctl.run.start import run_study
from studyctl.spec.loading import load_spec
from studyctl.store.query import run_sql
from studyctl.work.attempt import Attempt
from studyctl.work.engine import Engine
from studyctl.workers.pool import PoolState
from tests.run.studies import write_spec
from tests.work.test_attempt import FakeChannel

RTN, WANDA, DENSE = "tiny-rtn-4bit-g16", "tiny-wanda-0.5", "tiny-dense"
KEEP = "keep_weights = true"


@pytest.fixture(scope="module")
def kept(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study, run with ``keep_weights``; not to be changed."""
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    command = [sys.executable, "-m", "studyctl", "run", str(write_spec(folder, execution=KEEP))]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture
def workplace(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the test is at work."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    spec = StudyPaths(tmp_path / "runs" / "small").spec  # names the folder that its paths are relative to
    spec.write_text(spec.read_text().replace(str(kept), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def paths(workplace: Path) -> StudyPaths:
    return StudyPaths(workplace / "runs" / "small")


def steps_done(paths: StudyPaths) -> list[str]:
    """Return ``trial step`` of every step that was ever finished, but ``load``."""
    records = [record for path in sorted(paths.journal.glob("*.jsonl")) for record in read_journal(path)]
    return [
        f"{one.trial} {one.step}"
        for one in records
        if isinstance(one, StepFinished) and one.step.kind is not StepKind.LOAD
    ]


def to_run(workplace: Path, paths: StudyPaths) -> list[tuple[str, tuple[str, ...]]]:
    plan = make_plan(load_spec(workplace / "small.toml"))
    todo = compare(plan, read_stored(paths), read_plan(paths), paths.all_weights()).todo
    return [(one.trial.id, tuple(map(str, one.steps))) for one in todo]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights that plain transformers computes with."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model(torch.arange(8)[None])
    return {name: value for name, value in model.state_dict().items() if name.endswith("proj.weight")}


# -- keep_weights


def test_every_variant_is_exported_as_a_step_of_its_trial(workplace: Path, paths: StudyPaths) -> None:
    for trial in (DENSE, RTN, WANDA):
        assert steps_done(paths).count(f"{trial} export") == 1
        assert sorted(path.name for path in paths.exported(trial).iterdir()) == [
            "README.md", "config.json", "generation_config.json", "model.safetensors", "studyctl.json",
            "tokenizer.json", "tokenizer_config.json",
        ]  # fmt: skip
        content = b"".join(path.read_bytes() for path in paths.exported(trial).iterdir())
        assert b"where is boat" not in content, "test sets leak"
    asked = "select distinct state from stages where stage = 'export'"
    assert run_sql(paths, asked).to_pylist() == [{"state": "done"}]
    assert to_run(workplace, paths) == []
    dense, pruned = tensors(paths.exported(DENSE)), tensors(paths.exported(WANDA))
    name = "model.layers.1.mlp.up_proj.weight"
    assert (pruned[name] == 0).float().mean() == 0.5
    assert torch.equal(pruned[name][pruned[name] != 0], dense[name][pruned[name] != 0])
    assert tensors(paths.exported(RTN)).keys() == dense.keys()
    tokenizer = AutoTokenizer.from_pretrained(paths.exported(RTN))
    assert (
        tokenizer("mashua ndogo").input_ids == AutoTokenizer.from_pretrained("tiny")("mashua ndogo").input_ids
    )


def test_the_card_has_the_figures_of_the_tables(paths: StudyPaths) -> None:
    card = (paths.exported(RTN) / "README.md").read_text()
    query = f"select language, perplexity, ppl_ratio, top1 from perplexity_vs_dense where trial_id = '{RTN}'"
    rows = run_sql(paths, query).to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert f"| {row['language']} | {row['perplexity']:.1f} | ×{row['ppl_ratio']:.3f} " in card
    about = json.loads((paths.exported(RTN) / "studyctl.json").read_text())
    (hashes,) = run_sql(
        paths, f"select distinct weights_hash from stages where trial_id = '{RTN}' and stage = 'compress'"
    ).to_pylist()
    assert about["weights_hash"] == hashes["weights_hash"]
    assert f"`{about['weights_hash']}`" in card
    assert about["bits_per_weight"] == 4 + 20 / 16


def test_an_export_that_was_deleted_is_made_again_and_nothing_else(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    before = steps_done(paths)
    interrupted = paths.weights / f".{RTN}.1.new.partial"
    interrupted.mkdir()
    (interrupted / "model.safetensors").write_text("a part")
    clean(paths, console, yes=True)
    assert not interrupted.exists()
    assert paths.exported(RTN).is_dir(), "gc leaves exports"
    first = (paths.exported(RTN) / "model.safetensors").read_bytes()
    shutil.rmtree(paths.exported(RTN))
    assert to_run(workplace, paths) == [(RTN, ("compress", "export"))], (
        "gc deleted the weights that were kept"
    )
    assert run_study(workplace / "small.toml", Selection(), console).code == ExitCode.DONE
    new = steps_done(paths)
    for step in before:
        new.remove(step)
    assert new == [f"{RTN} compress", f"{RTN} export"]
    assert (paths.exported(RTN) / "model.safetensors").read_bytes() == first
    assert not list((paths.cache / "weights").glob("*"))


def test_other_weights_take_the_place_of_the_export_and_the_old_ones_are_missed(
    workplace: Path, paths: StudyPaths
) -> None:
    assert to_run(workplace, paths) == []
    about = paths.exported(WANDA) / "studyctl.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps(content | {"weights_key": "of another calibration"}))
    assert to_run(workplace, paths) == [(WANDA, ("export",))]


def test_without_keep_weights_nothing_is_asked_for(workplace: Path, paths: StudyPaths) -> None:
    shutil.rmtree(paths.weights)
    write_spec(workplace)
    assert to_run(workplace, paths) == []
    plan = make_plan(load_spec(workplace / "small.toml"))
    assert plan.notes == []
    assert all(step.kind is not StepKind.EXPORT for trial in plan.trials for step in trial.steps)


# -- studyctl export


def studyctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studyctl", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_trial_is_exported_also_while_its_study_is_run(workplace: Path, paths: StudyPaths) -> None:
    before = sorted(paths.journal.iterdir())
    with hold(paths):
        write_heartbeat(paths, datetime.now(UTC), PoolState())
        ended = studyctl("export", "small", "tiny-rtn", "out/rtn")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{workplace / 'out' / 'rtn'}\n"
    assert "small is being run" in ended.stderr
    assert "packed at 4 bits" in ended.stderr
    mine, kept = tensors(workplace / "out" / "rtn"), tensors(paths.exported(RTN))
    assert all(torch.equal(mine[name], kept[name]) for name in kept)
    assert (workplace / "out" / "rtn" / "README.md").read_text() == (
        paths.exported(RTN) / "README.md"
    ).read_text()
    assert sorted(paths.journal.iterdir()) == before, "it is no attempt at the trial"
    assert not list((paths.cache / "weights").glob("*"))


def test_ctrl_c_leaves_nothing(workplace: Path, paths: StudyPaths) -> None:
    command = [sys.executable, "-m", "studyctl", "export", "small", WANDA, "out"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not paths.attempt_log(WANDA, 0).exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED, printed
    assert "nothing was written" in printed
    assert not [path for path in workplace.iterdir() if path.name.startswith((".out", "out"))]


@pytest.mark.parametrize("is_gone", [True, False])
def test_weights_are_written_although_what_they_were_measured_on_is_gone(
    workplace: Path, paths: StudyPaths, console: Console, is_gone: bool
) -> None:
    measured = (paths.exported(WANDA) / "README.md").read_text()
    if is_gone:
        shutil.rmtree(workplace / "tasks")
        for text in workplace.glob("text/*/test.jsonl"):
            text.unlink()
    else:
        (workplace / "tasks" / "boats.yaml").write_text("task: [")
    for trial in (DENSE, WANDA):
        export_trial(paths, trial, workplace / "out" / trial, console)
    assert (workplace / "out" / WANDA / "README.md").read_text() == measured


def test_a_calibration_text_that_is_gone_is_all_that_is_asked_for(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    shutil.rmtree(workplace / "text")
    with pytest.raises(SpecError) as caught:
        export_trial(paths, WANDA, workplace / "out", console)
    (problem,) = caught.value.problems
    assert "text/en/train.jsonl" in problem.what
    export_trial(paths, RTN, workplace / "out", console)


def refused(paths: StudyPaths, trial: str, target: Path, console: Console) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        export_trial(paths, trial, target, console)
    assert caught.value.exit_code == 2
    problem = caught.value.problems[0]
    assert problem.hint
    return problem.what, problem.hint


def test_a_folder_that_is_in_use_is_refused(workplace: Path, paths: StudyPaths, console: Console) -> None:
    (workplace / "full").mkdir()
    (workplace / "full" / "mine").write_text("1")
    assert "is not empty" in refused(paths, RTN, workplace / "full", console)[0]
    assert "is a file" in refused(paths, RTN, workplace / "small.toml", console)[0]
    assert [path.name for path in (workplace / "full").iterdir()] == ["mine"]


def test_a_folder_named_like_a_file_is_refused(workplace: Path, paths: StudyPaths, console: Console) -> None:
    what, hint = refused(paths, RTN, workplace / "out" / "q.gguf", console)
    assert what == f"{workplace}/out/q.gguf is named like a file, and a folder is made"
    assert hint.startswith(f"name it {workplace}/out/q;")
    assert not (workplace / "out").exists()


def test_an_unknown_trial_is_refused(workplace: Path, paths: StudyPaths, console: Console) -> None:
    what, hint = refused(paths, "tiny-rtn-4bit-g61", workplace / "out", console)
    assert what == "study `small` has no trial `tiny-rtn-4bit-g61`"
    assert hint == f"did you mean `{RTN}`?"
    assert "may be any of 3 trials" in refused(paths, "tiny", workplace / "out", console)[0]


def test_a_trial_that_was_not_compressed_yet_is_refused(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    for path in paths.journal.glob(f"{WANDA}.*"):
        path.unlink()
    what, hint = refused(paths, WANDA, workplace / "out", console)
    assert what == f"`{WANDA}` has not been compressed yet"
    assert hint.startswith("studyctl run ")


def test_a_model_that_is_gone_or_another_is_refused(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    config = workplace / "tiny" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 2e-06'))
    what, _ = refused(paths, RTN, workplace / "out", console)
    assert what.startswith(f"`{RTN}` has changed since it was run: model ")
    shutil.rmtree(workplace / "tiny")
    with pytest.raises(SpecError, match="does not exist"):
        export_trial(paths, RTN, workplace / "out", console)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def attempt(paths: StudyPaths, target: Path, **changes: Any) -> list[dict[str, Any]]:
    """Export in this process, as a worker does."""
    job = _make_job(paths, RTN, target).model_copy(update={"threads": 1, **changes})
    channel = FakeChannel()
    Attempt(job, Engine(), channel).run()  # type: ignore[arg-type]
    return channel.sent


@pytest.mark.usefixtures("one_thread")
def test_other_weights_than_those_that_were_measured_are_not_exported(
    workplace: Path, paths: StudyPaths
) -> None:
    records = attempt(paths, workplace / "out", weights_hash="of another machine")
    (failed,) = (record for record in records if isinstance(record, StepFailed))
    assert failed.step.kind is StepKind.COMPRESS
    assert "this machine computes other weights" in failed.error
    assert "export on the machine that ran the study" in failed.hint
    assert not (workplace / "out").exists()


@pytest.mark.usefixtures("one_thread")
def test_stored_weights_are_used_and_left(workplace: Path, paths: StudyPaths) -> None:
    job = _make_job(paths, RTN, workplace / "first")
    Attempt(job, engine := Engine(), FakeChannel()).run()  # type: ignore[arg-type]
    step = Step(StepKind.COMPRESS, key=job.weights_key)
    engine.compress(job, step, Attempt(job, engine, FakeChannel()).recorder)  # type: ignore[arg-type]
    cached = paths.trial_weights(job.weights_key)
    assert cached.exists()
    records = attempt(paths, workplace / "second")
    finished = [str(record.step) for record in records if isinstance(record, StepFinished)]
    assert finished == ["load", "export"]
    assert cached.exists(), "a trial in progress may want them"
    assert tensors(workplace / "first").keys() == tensors(workplace / "second").keys()


@pytest.mark.usefixtures("one_thread")
def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(workplace: Path, paths: StudyPaths) -> None:
    (workplace / "file").write_text("no folder")
    records = attempt(paths, workplace / "out", export_to=workplace / "file" / "out")
    (failed,) = (record for record in records if isinstance(record, StepFailed))
    assert "cannot be written" in failed.error
    assert "export to another" in failed.hint


def test_an_export_comes_after_evaluations_that_turn_out_to_be_needed() -> None:
    compress, export, task = Step(StepKind.COMPRESS), Step(StepKind.EXPORT), Step(StepKind.TASK, "x")
    engine, recorder = Engine(), SilentReporter()
    job: Any = SimpleNamespace(steps=(compress, export), evaluations=(export, task))
    steps = engine.steps(job, recorder)  # type: ignore[arg-type]
    assert next(steps) == compress
    engine._measure_all = True  # as `compress` decides where the weights turned out different
    assert list(steps) == [task, export]
    job = SimpleNamespace(steps=(export, task), evaluations=(export, task))
    assert list(Engine().steps(job, recorder)) == [task, export]  # type: ignore[arg-type]


# -- GGUF


def test_a_gguf_file_with_its_card(workplace: Path, paths: StudyPaths, console: Console) -> None:
    target = workplace / "out"
    message = export_trial(paths, WANDA, target, console, ExportFormat.GGUF, Embeddings.Q8_0)
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "studyctl.json", f"{WANDA}.gguf"]
    assert f"llama-cli -m {WANDA}.gguf" in (target / "README.md").read_text()
    about = json.loads((target / "studyctl.json").read_text())["export"]
    assert (about["format"], about["rounded_embeddings"]) == ("gguf", True)
    assert about["bytes"] == (target / f"{WANDA}.gguf").stat().st_size
    assert "embeddings and head are rounded" in message
    assert "token ids" in message


def test_the_size_of_a_file_is_known_before_it_is_written(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    query = "select variant, file_mib, embedding_share, why_no_file from leaderboard order by variant"
    dense, rtn, pruned = run_sql(paths, query).to_pylist()
    for trial, row in ((DENSE, dense), (WANDA, pruned)):
        export_trial(paths, trial, workplace / trial, console, ExportFormat.GGUF)
        about = json.loads((workplace / trial / "studyctl.json").read_text())["export"]
        assert row["file_mib"] * 2**20 == (workplace / trial / f"{trial}.gguf").stat().st_size
        assert row["embedding_share"] == about["vocabulary_bytes"] / about["bytes"]
        assert row["why_no_file"] is None
    assert pruned["file_mib"] >= dense["file_mib"]
    assert (rtn["file_mib"], rtn["embedding_share"]) == (None, None)
    assert "no whole blocks of 32" in rtn["why_no_file"]


def test_a_grid_that_gguf_has_no_blocks_for_leaves_nothing(
    workplace: Path, paths: StudyPaths, console: Console
) -> None:
    with pytest.raises(StudyError, match="no whole blocks of 32") as failed:
        export_trial(paths, RTN, workplace / "out", console, ExportFormat.GGUF)
    assert "export the folder, or change the setting" in failed.value.problems[0].hint
    assert not (workplace / "out").exists()


def test_embeddings_are_for_gguf_files_only(workplace: Path, paths: StudyPaths, console: Console) -> None:
    with pytest.raises(SpecError, match="for GGUF files only"):
        export_trial(paths, DENSE, workplace / "out", console, embeddings=Embeddings.F16)
