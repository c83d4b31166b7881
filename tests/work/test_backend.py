"""Variants that another package compresses: what it is handed, what is taken from it, and whole studies of such."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from studyctl.backends.exchange import DriverCause, Outcome
from studyctl.compress.weights.compressed import Compressed
from studyctl.compress.weights.stored import weights_hash
from studyctl.contract.job import Job
from studyctl.contract.records import Progress, StepFailed
from studyctl.contract.steps import StepKind
from studyctl.errors import ExitCode, StepError
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.stored import Stored
from studyctl.plan.compare import compare
from studyctl.plan.planner import make_plan
from studyctl.reporter import SilentReporter
from studyctl.run.cleaning import clean
from studyctl.run.jobs import make_job
from studyctl.sources.models import LoadedModel, load_model
from studyctl.spec.loading import load_spec
from studyctl.store.query import run_sql
from studyctl.work import backend as elsewhere
from studyctl.work.backend import compress_with_backend
from tests.backends.fakes import (
    ADAPTER,
    SECONDS,
    has_ended,
    holds,
    make_environment,
    needs_linux,
    whoever_holds,
)
from tests.run.studies import SPEC

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
EMBEDDINGS = "model.embed_tokens.weight"
RTN = 'method = "rtn"\nbits = 8\ngroup_size = 16\n'
GPTQMODEL = f'{RTN}backend = "gptqmodel"'
WANDA = 'method = "wanda"\nsparsity = 0.5\nbackend = "llm-compressor"'
IDS = np.arange(4 * 32).reshape(4, 32) * 7 % 320
Weights = dict[str, torch.Tensor]


def write_study(folder: Path, table: str, execution: str = "", model: str = "") -> Path:
    """Write a study of the dense model and one table; it measures one language, and no task."""
    head, _, rest = SPEC.format(languages='["en"]', execution=execution).partition("[[compression]]")
    rest = rest[rest.index("[text.mine]") :]
    before, _, after = rest.partition("[evaluation.tasks]")
    after = after[after.index("[execution]") :]
    path = folder / "small.toml"
    head = head.replace('dtype = "float32"', f'dtype = "float32"\n{model}')
    path.write_text(f"{head}[[compression]]\n{table}\n\n{before}{after}")
    return path


def job_of(folder: Path, table: str, execution: str = "", model: str = "") -> Job:
    """Return the job of the first variant of another package."""
    plan = make_plan(load_spec(write_study(folder, table, execution, model)))
    plan.raise_errors()
    comparison = compare(plan, Stored(), None)
    todo = next(todo for todo in comparison.todo if todo.trial.variant.backend != "studyctl")
    dense = next(trial for trial in plan.trials if trial.is_dense)
    return make_job(StudyPaths(folder / "runs" / "small"), plan, todo, Stored(), "cpu", dense.weights_key)


def dense_model(job: Job) -> LoadedModel:
    return load_model(job.model, dtype=job.dtype, device="cpu", allow_pickle=job.allow_pickle)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: its environments are nobody else's."""
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# -- what is handed over and what is taken, with a package that answers at once


@dataclass
class FakePackage:
    """Stands in for ``call_driver``: keeps what it was handed, and answers with weights that a test changes."""

    change: Callable[[Weights], None] = lambda weights: None
    outcome: Outcome = field(default_factory=lambda: Outcome(done=True, seconds=2.0, peak_memory_bytes=3))
    look: Callable[[Path], None] = lambda folder: None
    """Sees the handed folder while it is there."""
    packed_blocks: str = "layers"
    task: Mapping[str, Any] = field(default_factory=dict)
    ids: np.ndarray | None = None
    progress: tuple[float, float] | None = None

    def __call__(
        self, python: Path, adapter: Path, task: Mapping[str, Any], *, log: Path, hear: Any, meanwhile: Any
    ) -> Outcome:
        self.task = task
        self.ids = np.load(task["ids"]) if task["ids"] else None
        self.look(Path(task["model"]))
        meanwhile()
        hear({"done": 1, "total": 2, "unit": "block", "note": ""})
        if self.outcome.failure is None:
            weights: Weights = {}
            for path in Path(task["model"]).glob("*.safetensors"):
                weights |= load_file(path)
            self.change(weights)
            out = Path(task["out"])
            (out / "packed").mkdir(parents=True)
            packed = {
                name.replace("layers", self.packed_blocks): value.to(torch.int8)
                for name, value in weights.items()
                if "proj" in name
            }
            save_file(packed, out / "packed" / "model.safetensors")
            save_file(weights, out / "plain.safetensors")
        return self.outcome


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakePackage:
    fake = FakePackage()
    monkeypatch.setattr(elsewhere, "call_driver", fake)
    for name in ("gptqmodel", "llm-compressor"):
        make_environment(name)
    return fake


def run(job: Job, ids: np.ndarray | None = None) -> tuple[tuple[Compressed, Outcome], LoadedModel]:
    loaded = dense_model(job)
    return compress_with_backend(job, loaded, ids, SilentReporter()), loaded  # type: ignore[arg-type]


def refused(job: Job) -> StepError:
    """Return why nothing was made, after a look at what that left."""
    loaded = dense_model(job)
    before = weights_hash(loaded.model)
    with pytest.raises(StepError) as caught:
        compress_with_backend(job, loaded, None, SilentReporter())  # type: ignore[arg-type]
    assert weights_hash(loaded.model) == before, "the model is as it was"
    assert not list((StudyPaths(job.root).cache / "weights").glob("*")), "of what failed nothing is left"
    return caught.value


class TestTheHandedFolder:
    def test_has_links_to_the_dense_weights_and_what_older_loaders_want(
        self, workplace: Path, package: FakePackage
    ) -> None:
        config = workplace / "tiny" / "config.json"
        about = json.loads(config.read_text())
        about["rope_parameters"]["rope_theta"] = 500000.0
        config.write_text(json.dumps(about | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
        seen: dict[str, Any] = {}

        def look(folder: Path) -> None:
            seen["files"] = sorted(path.name for path in folder.iterdir())
            seen["link"] = (folder / "model.safetensors").readlink()
            for name in ("config", "tokenizer_config"):
                seen[name] = json.loads((folder / f"{name}.json").read_text())

        package.look = look
        run(job_of(workplace, GPTQMODEL))
        assert seen["files"] == [
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        ]  # fmt: skip
        assert seen["link"] == (workplace / "tiny" / "model.safetensors").resolve()
        assert seen["config"]["rope_theta"] == 500000.0, "transformers 4 takes 10,000 without"
        assert seen["config"]["torch_dtype"] == "float32"
        assert "auto_map" not in seen["config"], "code of a repository is never run"
        assert seen["tokenizer_config"]["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert not Path(package.task["model"]).exists(), "it is gone afterwards"

    def test_of_an_attempt_that_was_killed_is_deleted_by_the_next(
        self, workplace: Path, package: FakePackage
    ) -> None:
        job = job_of(workplace, GPTQMODEL)
        weights = StudyPaths(job.root).cache / "weights"
        mine, others = weights / f".handed-{job.weights_key}-x", weights / ".handed-of-another-x"
        for folder in (mine, others):
            (folder / "model").mkdir(parents=True)
        run(job)
        assert not mine.exists()
        assert others.exists(), "which may be at work"

    def test_has_shards_with_their_index(self, workplace: Path, package: FakePackage) -> None:
        model = AutoModelForCausalLM.from_pretrained(workplace / "tiny")
        (workplace / "tiny" / "model.safetensors").unlink()
        model.save_pretrained(workplace / "tiny", max_shard_size="100KB")
        names: list[str] = []
        package.look = lambda folder: names.extend(
            path.name for path in folder.iterdir() if path.is_symlink()
        )
        run(job_of(workplace, GPTQMODEL))
        assert "model.safetensors.index.json" in names
        assert len([name for name in names if name.startswith("model-0")]) > 1

    def test_never_has_a_pickle(self, workplace: Path, package: FakePackage) -> None:
        weights = load_file(workplace / "tiny" / "model.safetensors")
        torch.save(weights, workplace / "tiny" / "pytorch_model.bin")
        (workplace / "tiny" / "model.safetensors").unlink()
        handed: Weights = {}

        def look(folder: Path) -> None:
            assert not list(folder.glob("*.bin"))
            assert not (folder / "model.safetensors").is_symlink()
            handed.update(load_file(folder / "model.safetensors"))

        package.look = look
        run(job_of(workplace, GPTQMODEL, model="allow_pickle = true"))
        assert handed.keys() == weights.keys()
        assert all(torch.equal(handed[name], weights[name]) for name in weights)


class TestTheTask:
    def test_says_all_that_the_package_needs(self, workplace: Path, package: FakePackage) -> None:
        job = job_of(workplace, WANDA)
        (_, outcome), _ = run(job, IDS)
        task = package.task
        assert (task["method"], task["dtype"], task["device"], task["threads"]) == (
            "wanda",
            "float32",
            "cpu",
            job.threads,
        )
        assert task["options"]["sparsity"] == 0.5
        assert package.ids is not None
        assert package.ids.dtype == np.int32
        assert (package.ids == IDS).all()
        assert outcome is package.outcome
        json.dumps(task)

    def test_has_the_nll_that_it_must_find(self, workplace: Path, package: FakePackage) -> None:
        job = job_of(workplace, WANDA)
        run(job, IDS)
        expected = package.task["dense"]
        assert expected["windows"] == IDS[:2].tolist()
        model = dense_model(job).model
        with torch.no_grad():
            losses = [model(row[None], labels=row[None]).loss for row in torch.tensor(expected["windows"])]
        assert expected["nll_nats"] == pytest.approx(float(sum(losses)) / 2, abs=1e-5)

    def test_checks_ids_of_the_vocabulary_where_there_are_none(
        self, workplace: Path, package: FakePackage
    ) -> None:
        run(job_of(workplace, GPTQMODEL))
        assert package.task["ids"] is None
        windows = np.array(package.task["dense"]["windows"])
        assert windows.shape == (2, 128)
        assert 0 <= windows.min() <= windows.max() < 320

    @pytest.mark.parametrize(("execution", "network"), [("", False), ("backend_network = true", True)])
    def test_has_the_network_only_where_the_spec_allows_it(
        self, workplace: Path, package: FakePackage, execution: str, network: bool
    ) -> None:
        run(job_of(workplace, GPTQMODEL, execution))
        assert package.task["network"] is network


class TestWhatIsTaken:
    def test_is_in_the_model_and_in_what_is_stored(self, workplace: Path, package: FakePackage) -> None:
        def change(weights: Weights) -> None:
            weights[UP].fill_(0.0)
            weights[NORM].mul_(2.0)  # as AWQ, whose scales move into norms

        package.change = change
        job = job_of(workplace, GPTQMODEL)
        (compressed, _), loaded = run(job)
        assert list(compressed.linears) == [
            f"model.layers.{block}.{name}_proj"
            for block in range(2)
            for name in (
                "self_attn.q",
                "self_attn.k",
                "self_attn.v",
                "self_attn.o",
                "mlp.gate",
                "mlp.up",
                "mlp.down",
            )
        ]
        assert list(compressed.parameters) == [NORM]
        state = loaded.model.state_dict()
        assert not state[UP].any()
        assert (state[NORM] == 2).all()
        assert compressed.linears[UP.removesuffix(".weight")].weight.data_ptr() == state[UP].data_ptr()
        total = sum(linear.weight.numel() for linear in compressed.linears.values())
        assert compressed.sparsity == pytest.approx(state[UP].numel() / total)
        assert weights_hash(loaded.model) != weights_hash(dense_model(job).model)

    def test_costs_the_bits_of_the_packed_files(self, workplace: Path, package: FakePackage) -> None:
        job = job_of(workplace, GPTQMODEL)
        (compressed, _), _ = run(job)
        assert compressed.bits_per_weight == 8.0, "a byte each; by its settings it would be 9.5"
        packed = StudyPaths(job.root).packed_weights(job.weights_key)
        assert [path.name for path in packed.iterdir()] == ["model.safetensors"]
        (packed / "of an attempt before").touch()
        run(job)
        assert [path.name for path in packed.iterdir()] == ["model.safetensors"]

    def test_costs_the_bits_of_its_settings_where_the_files_name_linears_otherwise(
        self, workplace: Path, package: FakePackage
    ) -> None:
        package.packed_blocks = "stages"
        (compressed, _), _ = run(job_of(workplace, GPTQMODEL))
        assert compressed.bits_per_weight == 8 + (16 + 8) / 16

    def test_costs_as_much_as_ours_where_it_is_pruned(self, workplace: Path, package: FakePackage) -> None:
        (compressed, _), _ = run(job_of(workplace, WANDA), IDS)
        assert compressed.bits_per_weight == 16 * 0.5 + 1


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda weights: weights[EMBEDDINGS][5].zero_(), f"it changed `{EMBEDDINGS}`, which is outside of the decoder blocks"),
            (lambda weights: weights["model.norm.weight"].mul_(2), "it changed `model.norm.weight`, which is outside of the decoder blocks"),
            (lambda weights: weights.pop(UP), "it returned no weight of `model.layers.1.mlp.up_proj`"),
            (lambda weights: weights.update({UP: weights[UP].T.contiguous()}), f"`{UP}` is [32, 64] there and [64, 32] here"),
            (lambda weights: weights[UP][3].fill_(torch.nan), f"`{UP}` is not finite"),
            (lambda weights: weights[NORM][0].fill_(torch.inf), f"`{NORM}` is not finite"),
        ],
        ids=["embeddings", "final-norm", "missing", "shape", "nan", "inf"],
    )  # fmt: skip
    def test_is_told_by_the_name_of_the_tensor(
        self, workplace: Path, package: FakePackage, change: Callable[[Weights], None], what: str
    ) -> None:
        package.change = change
        error = refused(job_of(workplace, GPTQMODEL))
        (problem,) = error.problems
        assert problem.what == f"gptqmodel 7.6.0: {what}"
        assert "figures would mean nothing" in problem.hint
        assert error.cause == "error"

    def test_is_also_a_head_that_was_tied(self, workplace: Path, package: FakePackage) -> None:
        config = workplace / "tiny" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
        weights = load_file(workplace / "tiny" / "model.safetensors")
        del weights["lm_head.weight"]
        save_file(weights, workplace / "tiny" / "model.safetensors", {"format": "pt"})

        def change(weights: Weights) -> None:
            weights["lm_head.weight"] = weights[EMBEDDINGS] * 0.5

        package.change = change
        (problem,) = refused(job_of(workplace, GPTQMODEL)).problems
        assert problem.what == (
            "gptqmodel 7.6.0: it changed `lm_head.weight`, which is outside of the decoder blocks"
        )


class TestAFailure:
    @pytest.mark.parametrize(
        ("outcome", "kernel", "what", "cause", "hint"),
        [
            (("RuntimeError: no kernel", "error"), 0, "RuntimeError: no kernel", "error", "its whole output is in {log}"),
            (("its process was killed by SIGKILL", "killed"), 0, "its process was killed by SIGKILL", "killed", "its whole output is in {log}"),
            (("its process was killed by SIGKILL", "killed"), 1, "the kernel killed it: out of memory", "out_of_memory", "fewer or shorter"),
            (("OutOfMemoryError: CUDA", "out_of_memory"), 0, "OutOfMemoryError: CUDA", "out_of_memory", "fewer or shorter"),
            (("ImportError: no torch", "not_imported"), 0, "ImportError: no torch", "error", "`studyctl backends remove gptqmodel` and then `studyctl backends sync gptqmodel`"),
            (("nll 3 instead of 2", "read_otherwise"), 0, "nll 3 instead of 2", "error", "too old for this model's files"),
        ],
        ids=["error", "killed", "killed-for-memory", "out-of-memory", "not-imported", "read-otherwise"],
    )  # fmt: skip
    def test_is_told_with_its_cause_and_what_to_do(
        self, workplace: Path, package: FakePackage, monkeypatch: pytest.MonkeyPatch,
        outcome: tuple[str, str], kernel: int, what: str, cause: str, hint: str,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(elsewhere.OomKills, "count", lambda _: kernel)
        package.outcome = Outcome(failure=outcome[0], cause=DriverCause(outcome[1]))
        job = job_of(workplace, GPTQMODEL)
        error = refused(job)
        (problem,) = error.problems
        assert problem.what == f"gptqmodel 7.6.0: {what}"
        assert error.cause == cause
        assert hint.format(log=StudyPaths(job.root).attempt_log(job.trial, 1)) in problem.hint

    def test_is_an_environment_that_went_away_after_the_plan(
        self, workplace: Path, package: FakePackage
    ) -> None:
        job = job_of(workplace, GPTQMODEL)
        shutil.rmtree(workplace / "cache")
        with pytest.raises(StepError, match="the environment of gptqmodel is missing") as caught:
            run(job)
        assert caught.value.problems[0].hint == "`studyctl backends sync gptqmodel` makes it"


# -- whole studies, with an adapter of the test's


def rows(paths: StudyPaths, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_sql(paths, query).to_pylist()
    return rows


def studyctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "studyctl", *arguments],
        cwd=folder,
        env=os.environ | {"STUDYCTL_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def make_study(sources: Path, folder: Path, table: str, **adapters: str) -> Path:
    """Copy the sources, write a study, make the environments that it wants; return the folder."""
    shutil.copytree(sources, folder, dirs_exist_ok=True)
    write_study(folder, table)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STUDYCTL_CACHE", str(folder / "cache"))
        for name, adapter in adapters.items():
            make_environment(name.replace("_", "-"), adapter)
    return folder


MEASURED = ADAPTER.replace(
    "    task.progress(2, 2)", "    task.seconds, task.peak_bytes = 12.5, 7_000_000\n    task.progress(2, 2)"
)
THEIRS = "tiny-rtn-8bit-g16_gptqmodel"


class TestAStudy:
    @pytest.fixture(scope="class")
    def folder(self, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Where a study was run by studyctl and by another package; not to be changed."""
        table = f'{RTN}backend = ["studyctl", "gptqmodel"]'
        folder = make_study(sources, tmp_path_factory.mktemp("measured"), table, gptqmodel=MEASURED)
        ran = studyctl(folder, "run", "small.toml")
        assert ran.returncode == ExitCode.DONE, ran.stderr
        return folder

    @pytest.fixture
    def paths(self, folder: Path) -> StudyPaths:
        return StudyPaths(folder / "runs" / "small")

    def test_stores_and_measures_what_the_package_made(self, paths: StudyPaths) -> None:
        (trial,) = rows(
            paths,
            "select state, backend, backend_version, sparsity, bits_per_weight from trials where backend = 'gptqmodel'",
        )
        assert trial["sparsity"] == pytest.approx(0.5, abs=0.01)
        assert trial | {"sparsity": 0.5} == {
            "state": "done", "backend": "gptqmodel", "backend_version": "7.6.0", "sparsity": 0.5, "bits_per_weight": 8.0,
        }  # fmt: skip
        (measured,) = rows(paths, f"select kl_nats, top1 from fidelity where trial_id = '{THEIRS}'")
        assert measured["kl_nats"] > 0

    def test_has_the_time_and_memory_that_the_package_took(self, paths: StudyPaths) -> None:
        (stage,) = rows(
            paths,
            f"select seconds, peak_memory_bytes from stages where trial_id = '{THEIRS}' and stage = 'compress'",
        )
        assert stage == {"seconds": 12.5, "peak_memory_bytes": 7_000_000}

    def test_puts_both_beside_each_other(self, paths: StudyPaths) -> None:
        ours, theirs = rows(paths, "select * from agreement order by backend desc")
        assert (ours["backend"], theirs["backend"]) == ("studyctl", "gptqmodel")
        assert ours["setting"] == theirs["setting"] == "rtn-8bit-g16"
        assert theirs["compress_seconds"] == 12.5
        assert 0 < theirs["kl_ratio"] < 1, (
            "what is rounded to 8 bits is nearer than what lost half of its weights"
        )

    def test_tells_progress_while_the_package_is_at_work(self, paths: StudyPaths) -> None:
        progress = [
            record
            for record in read_journal(paths.attempt_journal(THEIRS, 1))
            if isinstance(record, Progress) and record.step.kind is StepKind.COMPRESS
        ]
        assert (progress[-1].done, progress[-1].total, progress[-1].unit) == (2, 2, "block")

    def test_leaves_no_weights_behind(self, paths: StudyPaths) -> None:
        assert not list((paths.cache / "weights").glob("*"))

    def test_has_nothing_to_do_the_second_time(self, folder: Path) -> None:
        plan = json.loads(studyctl(folder, "plan", "small.toml", "--json").stdout)
        assert [trial["to_run"] for trial in plan["trials"]] == [[], [], []]

    def test_exports_plain_weights_that_load_again(self, folder: Path, tmp_path: Path) -> None:
        exported = studyctl(folder, "export", "small", THEIRS, str(tmp_path / "out"), "--trust")
        assert exported.returncode == 0, exported.stderr
        about = json.loads((tmp_path / "out" / "studyctl.json").read_text())
        dense = load_file(folder / "tiny" / "model.safetensors")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        kept = again[UP] != 0
        assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
        assert torch.equal(again[UP][kept], dense[UP][kept])
        assert "by gptqmodel" in (tmp_path / "out" / "README.md").read_text()
        (hashes,) = rows(
            StudyPaths(folder / "runs" / "small"),
            f"select distinct weights_hash from stages where trial_id = '{THEIRS}' and stage = 'compress'",
        )
        assert about["weights_hash"] == hashes["weights_hash"]


KILLED_ONCE = """
import os, signal
from pathlib import Path

def kill_once():
    before = Path(__file__).with_name("killed")
    if not before.exists():
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)

""" + ADAPTER.replace("    import torch\n", "    kill_once()\n    import torch\n", 1)
FAILS = """
PACKAGES = ("torch",)

def compress(task):
    print("looking for a kernel")
    raise NotImplementedError("no kernel for this shape")
"""


class TestAStudyWithTroubles:
    @pytest.fixture(scope="class")
    def failed_study(self, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyPaths, str]:
        """A study that was run with a package that is killed once and one that always fails, and what it printed."""
        table = f'{RTN}backend = ["studyctl", "gptqmodel", "llm-compressor"]'
        folder = tmp_path_factory.mktemp("troubles")
        make_study(sources, folder, table, gptqmodel=KILLED_ONCE, llm_compressor=FAILS)
        ran = studyctl(folder, "run", "small.toml")
        assert ran.returncode == ExitCode.FAILED, ran.stderr
        return StudyPaths(folder / "runs" / "small"), ran.stderr

    def test_has_the_results_of_the_others(self, failed_study: tuple[StudyPaths, str]) -> None:
        states = rows(
            failed_study[0], "select backend, state from trials where method = 'rtn' order by backend"
        )
        assert states == [
            {"backend": "gptqmodel", "state": "done"},
            {"backend": "llm-compressor", "state": "failed"},
            {"backend": "studyctl", "state": "done"},
        ]

    def test_tells_the_packages_own_words_and_where_the_rest_of_them_is(
        self, failed_study: tuple[StudyPaths, str]
    ) -> None:
        paths, printed = failed_study
        name = "tiny-rtn-8bit-g16_llm-compressor"
        (failure,) = failures(paths, name)
        assert failure.error == "llm-compressor 0.14.0.1: NotImplementedError: no kernel for this shape"
        assert failure.cause == "error"
        assert failure.permanent, "the same would fail again"
        log = paths.attempt_log(name, 1)
        assert failure.hint == f"its whole output is in {log.resolve()}"
        printed = log.read_text()
        assert "looking for a kernel" in printed
        assert "Traceback" in printed
        assert "no kernel for this shape" in printed

    def test_tries_a_package_again_that_was_killed(self, failed_study: tuple[StudyPaths, str]) -> None:
        (failure,) = failures(failed_study[0], THEIRS)
        assert failure.error == "gptqmodel 7.6.0: its process was killed by SIGKILL"
        assert failure.cause == "killed"
        assert not failure.permanent
        attempts = rows(
            failed_study[0],
            f"select attempt, state from attempts where trial_id = '{THEIRS}' order by attempt",
        )
        assert attempts == [{"attempt": 1, "state": "failed"}, {"attempt": 2, "state": "done"}]


def failures(paths: StudyPaths, trial: str) -> list[StepFailed]:
    """Return every failure of a trial, over all attempts."""
    records = [r for path in sorted(paths.journal.glob(f"{trial}.*.jsonl")) for r in read_journal(path)]
    return [record for record in records if isinstance(record, StepFailed)]


@needs_linux
class TestAPackageAtWork:
    @pytest.fixture
    def at_work(
        self, sources: Path, tmp_path: Path
    ) -> Iterator[tuple[subprocess.Popen[str], int, StudyPaths]]:
        """The runner of a study whose package stands still, the package's process, and the study."""
        os.mkfifo(tmp_path / "begun")
        make_study(sources, tmp_path, GPTQMODEL, gptqmodel=holds(tmp_path / "begun"))
        command = [sys.executable, "-m", "studyctl", "run", "small.toml", "--only", "rtn*"]
        with whoever_holds(tmp_path / "begun") as who:
            runner = subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                yield runner, who(), StudyPaths(tmp_path / "runs" / "small")
            finally:
                runner.kill()
                runner.communicate()

    def test_is_ended_by_a_stop(self, at_work: tuple[subprocess.Popen[str], int, StudyPaths]) -> None:
        runner, package, paths = at_work
        stopping = studyctl(paths.root.parents[1], "stop", "small", "--now")
        assert stopping.returncode == 0, stopping.stderr
        assert runner.wait(timeout=SECONDS) == ExitCode.STOPPED
        assert has_ended(package)
        (failure,) = failures(paths, THEIRS)
        assert failure.cause == "stopped"
        assert not list((paths.cache / "weights").glob("*")), "what it was handed is gone"

    def test_ends_with_its_runner_and_gc_deletes_what_it_was_handed(
        self, at_work: tuple[subprocess.Popen[str], int, StudyPaths]
    ) -> None:
        runner, package, paths = at_work
        runner.kill()
        runner.wait(timeout=SECONDS)
        assert has_ended(package), "a package's process outlived the runner"
        (left,) = (paths.cache / "weights").glob("*")
        assert left.name.startswith(".handed-")
        dense = paths.root.parents[1] / "tiny" / "model.safetensors"
        assert (left / "model" / "model.safetensors").resolve() == dense.resolve()
        with (left / "model" / "padding").open("wb") as padding:
            padding.truncate(1 << 20)
        console = Console(file=io.StringIO(), width=120)
        clean(paths, console, yes=True)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert "1.0 MiB  weights" in printed, "the dense model is only linked"
        assert not left.exists()
        assert dense.exists()
