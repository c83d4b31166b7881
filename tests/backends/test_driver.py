"""What an adapter is given, and what the driver makes of what it returns; in this process, where both are the same."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from studyctl.backends.driver import ReadOtherwiseError, Task, _check_dense, _run, _write_plain
from tests.backends.fakes import RTN, write_script

VOCABULARY = 64
Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose attention matters: its weights are large."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("dense")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def records() -> Records:
    return []


def make_task(folder: Path, records: Records, **changes: Any) -> Task:
    values = {
        "model": str(folder), "method": "rtn", "options": RTN, "ids": None, "dtype": "float32", "device": "cpu", "out": "/nowhere",
    }  # fmt: skip
    return Task(values | changes, lambda kind, **fields: records.append({"kind": kind, **fields}))


def expectation(folder: Path) -> Mapping[str, Any]:
    """Return what a worker that reads the folder rightly says of it."""
    model = LlamaForCausalLM.from_pretrained(folder)
    window = torch.arange(32) * 7 % VOCABULARY
    with torch.no_grad():
        logits = model(window[None]).logits[0, :-1]
    nll = float(torch.nn.functional.cross_entropy(logits, window[1:]))
    return {"windows": [window.tolist()], "nll_nats": nll, "tolerance_nats": 1e-3}


class TestTheTask:
    def test_has_the_words_of_the_worker_as_values(self, tmp_path: Path, records: Records) -> None:
        np.save(tmp_path / "ids.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
        task = make_task(tmp_path, records, ids=str(tmp_path / "ids.npy"), dtype="bfloat16", out="/x")
        assert (task.folder, task.method, task.options, task.device) == (tmp_path, "rtn", RTN, "cpu")
        assert task.dtype is torch.bfloat16
        assert task.packed == Path("/x/packed")
        assert task.ids.dtype is torch.int64
        assert task.ids.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert make_task(tmp_path, records).ids is None

    def test_tells_progress_in_blocks(self, tmp_path: Path, records: Records) -> None:
        make_task(tmp_path, records).progress(1, 12, "block 1")
        assert records == [{"kind": "progress", "done": 1, "total": 12, "unit": "block", "note": "block 1"}]

    def test_follows_the_blocks_of_a_model_each_once(self, dense: Path, records: Records) -> None:
        model = LlamaForCausalLM.from_pretrained(dense)
        make_task(dense, records).follow(model)
        for _ in range(2):
            model(torch.arange(8)[None])
        assert [(record["done"], record["total"]) for record in records] == [(0, 3), (1, 3), (2, 3)]

    def test_adds_up_what_is_timed_and_nothing_else(self, tmp_path: Path, records: Records) -> None:
        task = make_task(tmp_path, records)
        assert (task.seconds, task.peak_bytes) == (0.0, 0)
        with task.timed():
            torch.zeros(1 << 20).sum()
        first = task.seconds
        assert first > 0
        assert task.peak_bytes > 1 << 20
        with task.timed():
            pass
        assert task.seconds > first


class TestTheDenseModel:
    def test_is_taken_where_it_computes_the_same(self, dense: Path, records: Records) -> None:
        _check_dense(make_task(dense, records), expectation(dense))

    def test_is_refused_where_another_rope_theta_is_read(
        self, dense: Path, tmp_path: Path, records: Records
    ) -> None:
        shutil.copytree(dense, tmp_path / "misread")
        config = json.loads((dense / "config.json").read_text())
        config["rope_parameters"]["rope_theta"] = 10000.0
        (tmp_path / "misread" / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            ReadOtherwiseError, match=r"reads the dense model otherwise: nll \S+ instead of \S+ nats"
        ):
            _check_dense(make_task(tmp_path / "misread", records), expectation(dense))

    def test_is_refused_where_it_computes_no_number(self, dense: Path, records: Records) -> None:
        with pytest.raises(ReadOtherwiseError, match=r"nll .* instead of nan"):
            _check_dense(make_task(dense, records), {**expectation(dense), "nll_nats": float("nan")})

    def test_is_held_against_all_windows(self, dense: Path, records: Records) -> None:
        expected = dict(expectation(dense))
        expected["windows"] = expected["windows"] * 3
        _check_dense(make_task(dense, records), expected)

    def test_is_checked_before_the_package_is_asked(
        self, dense: Path, tmp_path: Path, records: Records
    ) -> None:
        adapter = write_script(
            tmp_path / "adapter.py", "PACKAGES = ()\ndef compress(task): raise AssertionError"
        )
        values = {
            "model": str(dense), "method": "rtn", "options": RTN, "ids": None, "dtype": "float32", "device": "cpu",
            "out": str(tmp_path / "out"), "network": True, "threads": torch.get_num_threads(),
            "dense": {**expectation(dense), "nll_nats": 1.0},
        }  # fmt: skip
        with pytest.raises(ReadOtherwiseError):
            _run(adapter, values, lambda kind, **fields: records.append({"kind": kind, **fields}))
        assert records == [{"kind": "versions", "versions": {}}]
        assert not (tmp_path / "out").exists()


class TestWhatIsWritten:
    def test_tied_weights_are_stored_once(self, dense: Path, tmp_path: Path) -> None:
        state = LlamaForCausalLM.from_pretrained(dense).state_dict()
        assert {"lm_head.weight", "model.embed_tokens.weight"} <= state.keys()
        _write_plain(tmp_path / "plain.safetensors", state, torch.float32)
        stored = load_file(tmp_path / "plain.safetensors")
        assert stored.keys() == state.keys() - {"lm_head.weight"}
        assert all(torch.equal(stored[name], state[name]) for name in stored)

    def test_views_and_other_dtypes_become_plain_tensors(self, tmp_path: Path) -> None:
        transposed = torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T
        parameter = torch.nn.Parameter(torch.ones(2))
        _write_plain(tmp_path / "plain.safetensors", {"a": transposed, "b": parameter}, torch.bfloat16)
        stored = load_file(tmp_path / "plain.safetensors")
        assert stored["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert {value.dtype for value in stored.values()} == {torch.bfloat16}
