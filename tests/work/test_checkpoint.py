"""Somebody's published checkpoint, measured beside ours."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from studyctl.compress.walk.walker import compress
from studyctl.contract.exports import Embeddings
from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import Job
from studyctl.contract.methods import RTN
from studyctl.errors import ExitCode
from studyctl.export.gguf.file import write_gguf
from studyctl.files import StudyPaths
from studyctl.reporter import SilentReporter
from studyctl.run.selection import Selection
from studyctl.run.start import Started
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import load_model
from studyctl.spec.models import Model
from studyctl.work.engine import _rows
from tests.export.test_gguf_read import weights_in
from tests.run.studies import write_spec
from tests.run.test_converge import finished, rows, run
from tests.sources.packed import int_weights, pack, unpacked

TABLE = """
[[compression]]
method = "checkpoint"
id = {ids}
of = "./tiny"

[text.mine]"""
ACTIVATIONS = ("[evaluation.fidelity]", "[evaluation.fidelity]\nactivations = true")


def measure(
    workplace: Path, console: Console, ids: str, *, only: str = "checkpoint-*", execution: str = ""
) -> Started:
    spec = write_spec(workplace, execution=execution, change=("[text.mine]", TABLE.format(ids=ids)))
    spec.write_text(spec.read_text().replace(*ACTIVATIONS))
    return run(spec, console, Selection(only=(only,)))


def change_weights(folder: Path, scale: float) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    state["model.layers.0.mlp.up_proj.weight"] *= scale
    save_file(state, path, {"format": "pt"})


def fidelity(paths: StudyPaths, variant: str) -> list[float]:
    query = f"select kl_nats from fidelity where variant = 'checkpoint-{variant}' order by language"
    return [float(str(row["kl_nats"])) for row in rows(paths, query)]


def step_names(paths: StudyPaths) -> list[str]:
    return [step.removeprefix("tiny-") for step in finished(paths)]


EVALUATIONS = ["perplexity:en", "perplexity:de", "activations:en", "activations:de", "task:boats"]


def test_a_plain_checkpoint_is_measured_and_measured_again_when_it_changes(
    workplace: Path, console: Console
) -> None:
    for name in ("same", "other"):
        shutil.copytree(workplace / "tiny", workplace / name)
    change_weights(workplace / "other", 1.5)
    # Only these: the dense model's answers, which they are compared with, are made without its trial.
    started = measure(workplace, console, '["same", "other"]')
    paths = started.paths
    assert started.code == ExitCode.DONE
    assert step_names(paths) == [
        f"checkpoint-{name} {step}" for name in ("other", "same") for step in ("compress", *EVALUATIONS)
    ]
    assert fidelity(paths, "same") == [0, 0]
    first = fidelity(paths, "other")
    assert all(kl > 0 for kl in first)
    errors = "select block, max(relative_error) as error from activations where variant = 'checkpoint-same' group by block order by block"
    assert rows(paths, errors) == [{"block": 0, "error": 0.0}, {"block": 1, "error": 0.0}]
    assert rows(paths, "select distinct snr_db from activation_snr where variant = 'checkpoint-same'") == [
        {"snr_db": None}
    ], "without noise there is no ratio"
    trials = rows(
        paths, "select bits_per_weight, sparsity, state from trials where variant = 'checkpoint-same'"
    )
    assert trials == [{"bits_per_weight": 32.0, "sparsity": 0.0, "state": "done"}]

    # Nothing has changed: nothing is done.
    again = measure(workplace, console, '["same", "other"]')
    assert again.outcome is not None
    assert again.outcome.attempts == 0

    # Other weights under the same name: all of that trial, nothing else. And then a variant of ours, in the same worker.
    before = step_names(paths)
    change_weights(workplace / "other", 1.5)
    measure(workplace, console, '["same", "other"]', only="*-[or]*")
    new = step_names(paths)
    for step in before:
        new.remove(step)
    assert new == [
        f"{variant} {step}"
        for variant in ("checkpoint-other", "rtn-4bit-g16")
        for step in ("compress", *EVALUATIONS)
    ]
    assert all(now > then for now, then in zip(fidelity(paths, "other"), first, strict=True))
    ours = rows(paths, "select max(kl_nats) as most from fidelity where variant = 'rtn-4bit-g16'")
    assert 0 < float(str(ours[0]["most"])) < 0.1, "the dense weights were loaded again"


def test_a_packed_checkpoint_gives_the_figures_of_its_unpacked_weights(
    workplace: Path, console: Console
) -> None:
    packed = pack(workplace / "tiny", workplace / "packed", {"Linear": int_weights(4)}, torch.float32)
    plain = shutil.copytree(workplace / "tiny", workplace / "unpacked")
    state = load_file(plain / "model.safetensors")
    save_file(state | unpacked(packed, {"": 4}), plain / "model.safetensors", {"format": "pt"})
    for path in packed.glob("tokenizer*"):
        path.unlink()
    started = measure(workplace, console, '["packed", "unpacked"]')
    assert started.code == ExitCode.DONE
    paths = started.paths
    assert fidelity(paths, "packed") == fidelity(paths, "unpacked")
    assert all(kl > 0 for kl in fidelity(paths, "packed"))
    for table in ("perplexity", "tasks", "windows", "activations"):
        columns = "* exclude (trial_id, variant)"
        tables = [
            rows(paths, f"select {columns} from {table} where variant = 'checkpoint-{name}' order by all")
            for name in ("packed", "unpacked")
        ]
        assert tables[0] == tables[1] != []
    sizes = rows(
        paths, "select bits_per_weight as bits from trials where variant like 'check%' order by variant"
    )
    # A code of 4 bits, a float32 scale for 16 weights, and a shape of 128 bits for each of 7 linears of 9,216 weights.
    assert sizes == [{"bits": pytest.approx(4 + 32 / 16 + 7 * 128 / 9216)}, {"bits": 32.0}]
    warnings = rows(paths, "select message from warnings")
    assert warnings == [{"message": "packed has no tokenizer: that of ./tiny is used"}]


def test_a_gguf_file_gives_the_figures_of_its_dequantized_weights(workplace: Path, console: Console) -> None:
    dense = load_model(identify_model(Model(id="tiny"), workplace), dtype="float32", device="cpu")
    plain = shutil.copytree(workplace / "tiny", workplace / "plain")
    state = load_file(plain / "model.safetensors")
    made = compress(dense.model, RTN(bits=4, group_size=32), None, batch_tokens=48, reporter=SilentReporter())
    file = workplace / "x.gguf"
    write_gguf(dense, made, file, name="tiny", embeddings=Embeddings.Q8_0, reporter=SilentReporter())
    state = weights_in(file, dense.model.config, state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, plain / "model.safetensors", {"format": "pt"})  # fmt: skip
    started = measure(workplace, console, '["x.gguf", "plain"]', execution="keep_weights = true")
    assert started.code == ExitCode.DONE
    paths = started.paths
    exported = [paths.exported(f"tiny-checkpoint-{name}") for name in ("x", "plain")]
    assert (exported[0] / "tokenizer.json").read_bytes() == (
        workplace / "tiny" / "tokenizer.json"
    ).read_bytes()
    one, other = (load_file(folder / "model.safetensors") for folder in exported)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert fidelity(paths, "x") == fidelity(paths, "plain")
    assert all(kl > 0 for kl in fidelity(paths, "x"))
    for table in ("perplexity", "tasks", "windows", "activations"):
        columns = "* exclude (trial_id, variant)"
        one, other = (
            rows(paths, f"select {columns} from {table} where variant = 'checkpoint-{name}' order by all")
            for name in ("x", "plain")
        )
        assert one == other != []
    (trial,) = rows(
        paths, "select bits_per_weight, size_mib, state from trials where variant = 'checkpoint-x'"
    )
    # A code of 4 bits; a scale and a minimum of 16 for 32 weights.
    assert trial == {"bits_per_weight": 5.0, "size_mib": file.stat().st_size / 2**20, "state": "done"}
    assert rows(paths, "select message from warnings") == []
    again = measure(workplace, console, '["x.gguf", "plain"]', execution="keep_weights = true")
    assert again.outcome is not None
    assert again.outcome.attempts == 0


def test_a_checkpoint_with_another_tokenizer_fails_with_the_reason(workplace: Path, console: Console) -> None:
    shutil.copytree(workplace / "tiny", workplace / "other")
    path = workplace / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"add_prefix_space":false', '"add_prefix_space":true').replace('"add_prefix_space": false', '"add_prefix_space": true'))  # fmt: skip
    started = measure(workplace, console, '"other"')
    assert started.code == ExitCode.FAILED
    (row,) = rows(started.paths, "select error from trials where variant = 'checkpoint-other'")
    assert "the tokenizer of other gives other token ids than that of ./tiny" in str(row["error"])
    assert step_names(started.paths) == []


def test_a_file_that_was_not_here_when_planned_has_the_rows_of_its_model() -> None:
    model, unread = (ModelIdentity("m", "hub", "key", vocab_size=size) for size in (320, 0))
    for checkpoint, expected in ((unread, 320), (None, 320), (replace(model, vocab_size=300), 300)):
        assert _rows(cast("Job", SimpleNamespace(model=model, checkpoint=checkpoint))) == expected
