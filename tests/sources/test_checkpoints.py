"""Published checkpoints: what they are, and which can be read."""

import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.sources.checkpoints import (
    check_storage,
    identify_checkpoint,
    own_dtype,
    storage_caveats,
)
from studyctl.sources.model_files import identify_model
from studyctl.sources.storage import storage_format
from studyctl.spec.models import Model

PACKED = {"quant_method": "compressed-tensors", "quantization_status": "compressed"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which packages are there, whatever is."""

    def only(*names: str) -> None:
        there = {name: ModuleSpec(name, None) for name in names}
        monkeypatch.setattr("studyctl.sources.checkpoints.find_spec", there.get)

    return only


def check(quantization: dict[str, Any]) -> None:
    config = {"quantization_config": quantization}
    check_storage(storage_format(config, {}), config, "org/name")


def refusal(quantization: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        check(quantization)
    (problem,) = caught.value.problems
    return f"{problem.what} | {problem.hint}"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "plain"),
        ({"quantization_config": None}, "plain"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"bits": 4}}, "unnamed"),
    ],
)
def test_the_config_says_how_weights_are_stored(config: dict[str, Any], expected: str) -> None:
    assert storage_format(config, {}) == expected


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("compressed-tensors", "compressed-tensors==0.17.1"),
        ("gptq", "gptqmodel optimum"),
        ("awq", "gptqmodel accelerate"),
    ],
)
def test_a_format_names_the_packages_that_are_missing(
    installed: Callable[..., None], method: str, packages: str
) -> None:
    installed()
    names = " and ".join(packages.split())
    assert refusal({**PACKED, "quant_method": method}) == (
        f"`org/name` is stored in the format `{method}`, which needs {names} | pip install {packages}"
    )


def test_only_what_is_missing_is_named(installed: Callable[..., None]) -> None:
    installed("gptqmodel")
    assert "which needs optimum | pip install optimum" in refusal({"quant_method": "gptq"})


def test_with_its_packages_a_format_is_read(installed: Callable[..., None]) -> None:
    installed("gptqmodel", "optimum", "accelerate", "compressed_tensors")
    for method in ("gptq", "awq", "compressed-tensors"):
        check({**PACKED, "quant_method": method})


@pytest.mark.parametrize("method", ["bitsandbytes", "aqlm", "hqq"])
def test_another_format_is_named_with_those_that_are_read(method: str) -> None:
    assert refusal({"quant_method": method}) == (
        f"`org/name` is stored in the format `{method}`, which cannot be read | "
        "plain weights, compressed-tensors, gptq and awq can be read"
    )


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse format `sparse-24-bitmask`"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "rotates its activations"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "quantizes keys and values"),
        ({"quantization_status": "frozen"}, "not compressed (quantization_status `frozen`)"),
        ({"quant_method": "awq", "version": "gemv"}, "layout `gemv`; only `gemm` is read"),
    ],
)
def test_what_would_be_misread_is_refused(keys: dict[str, Any], reason: str) -> None:
    check({**PACKED, "sparsity_config": {}, "transform_config": {}})
    assert reason in refusal({**PACKED, **keys})


def test_quantized_activations_are_told() -> None:
    def caveats(*inputs: dict[str, Any] | None) -> list[str]:
        groups = {str(number): {"input_activations": identity} for number, identity in enumerate(inputs)}
        return storage_caveats({"quantization_config": {**PACKED, "config_groups": groups}})

    assert storage_caveats({}) == caveats(None) == []
    assert caveats(None, {"num_bits": 8}) == [
        "activations are quantized to 8 bits as well; only its weights are measured"
    ]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({"dtype": "float16"}, "float16"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float8"}, None), ({}, None)],
)  # fmt: skip
def test_the_dtype_that_weights_are_unpacked_in(config: dict[str, Any], dtype: str | None) -> None:
    assert own_dtype(config) == dtype


def identity_key(folder: Path) -> str | None:
    return identify_checkpoint(Checkpoint(id=str(folder), of="m"), folder.parent).key


def test_a_checkpoint_is_no_model_though_its_files_are_the_same(folder: Path) -> None:
    assert identity_key(folder) not in (None, identify_model(Model(id=str(folder)), folder).key)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_the_key_changes_with_its_files(folder: Path, name: str) -> None:
    before = identity_key(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    assert identity_key(folder) != before


def test_a_folder_is_relative_to_the_spec(folder: Path) -> None:
    identity = identify_checkpoint(Checkpoint(id="./models/tiny", of="m"), folder.parents[1])
    assert identity.folder == folder.resolve()


def test_a_checkpoint_may_come_without_tokenizer(folder: Path) -> None:
    settings = Checkpoint(id=str(folder), of="m")
    assert identify_checkpoint(settings, folder).tokenizer
    (folder / "tokenizer.json").unlink()
    assert not identify_checkpoint(settings, folder).tokenizer


def test_what_cannot_be_a_checkpoint(folder: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(StudyError) as caught:
            identify_checkpoint(Checkpoint(id=name, of="m"), folder.parent)
        return caught.value.problems[0].what

    assert "does not exist" in message("./nothing")
    assert "is a folder, a GGUF file or a model of the hub" in message("package:module/file.gguf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle only" in message(str(folder))
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["BertForMaskedLM"], "model_type": "bert"})
    )
    assert "is not a decoder" in message(str(folder))
